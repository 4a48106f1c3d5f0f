"""A language model of sentences with clauses between subject and verb: does it still know the subject's number?

The model foretells every next word; how often it finds "was" or "were" likelier as the subject has it says what its
cell kept over the distance. `accuracy_by_distance` is the table that `tinyrnn agreement` prints for several cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyrnn import nn, ops
from tinyrnn.autograd import no_grad
from tinyrnn.data import Batch, Sentence, agreement_pairs, bucket, pad
from tinyrnn.data.agreement import NEAREST, SHORT, VERBS, WORDS
from tinyrnn.files import Checkpoint
from tinyrnn.train.models import State, cell_maker
from tinyrnn.train.task import DATA, MODEL, Answer, Kind, Options, Outcome, Task, count

IDS = {word: k for k, word in enumerate(WORDS)}
SINGULAR, PLURAL = (IDS[verb] for verb in VERBS)

VALID, TEST = 1_000_000, 2_000_000
"""Where an epoch's number would stand in the seed of validation and test data."""


@dataclass(frozen=True)
class AgreementOptions(Options):
    """Options of `tinyrnn train agreement`."""

    sentences: int = count(10_000, "New sentences an epoch.", DATA)
    typical: int = count(20, "Mean distance of subject and verb in them; most are nearer.", DATA, 2)
    longest: int = count(40, "The largest distance in them. The test goes on to half as much again.", DATA, 8)
    held_out: int = count(2000, "Sentences to choose by, and twice as many to judge by.", DATA, 2)
    embed: int = count(16, "Width of a word's embedding.", MODEL)
    hidden: int = 32
    epochs: int = 10
    patience: int = 0
    lr: float = 1e-2


def agreement_task(options: AgreementOptions) -> Task:
    """Foretell every next word of generated sentences; judged is the verb.

    Distances to train on and to choose by are drawn from a geometric distribution of mean `typical`, cut at `longest`;
    those to judge by evenly up to 1.5 * longest. Held-out sentences come in both numbers, so that 0.5 is what
    a model without memory reaches.
    """

    def epoch(number: int) -> list[Batch]:
        rng = np.random.default_rng([options.seed, number])
        pairs = agreement_pairs(rng, near_distances(rng, options.sentences, options))
        sentences = [pairs[2 * k + plural] for k, plural in enumerate(rng.integers(0, 2, options.sentences))]
        return _batches(sentences, options.batch, rng)

    rng = np.random.default_rng([options.seed, VALID])
    valid = agreement_pairs(rng, near_distances(rng, options.held_out // 2, options))
    test = held_out_sentences(options)
    return Task(
        name="agreement",
        options=options,
        model=build_speaker(options),
        train=epoch,
        valid=_batches(valid, 256),
        test=_batches(test, 256),
        measure=measure_agreement,
        summary=(
            f"{options.sentences:,} new sentences an epoch, up to {options.longest} words between subject and verb; "
            f"up to {longest_tested(options)} in the test; without memory the accuracy is 0.5"
        ),
        watch="accuracy",
    )


def near_distances(rng: np.random.Generator, number: int, options: AgreementOptions) -> list[int]:
    """`number` distances to train on, 0, 1 and 3 .. options.longest."""
    drawn = rng.geometric(1 / options.typical, number)
    return [SHORT[d - 1] if d < NEAREST else min(int(d), options.longest) for d in drawn.tolist()]


def longest_tested(options: AgreementOptions) -> int:
    """The largest distance of the test."""
    return options.longest * 3 // 2


def held_out_sentences(options: AgreementOptions) -> list[Sentence]:
    """The test: 2 * held_out sentences in pairs, one in eight of a distance below 4, the others evenly of one above."""
    rng = np.random.default_rng([options.seed, TEST])
    distances = rng.integers(NEAREST, longest_tested(options) + 1, options.held_out)
    short = rng.random(options.held_out) < 1 / 8
    distances[short] = rng.choice(SHORT, short.sum())
    return agreement_pairs(rng, distances.tolist())


def build_speaker(options: AgreementOptions) -> nn.Transducer:
    """The untrained language model."""
    rng = np.random.default_rng(options.seed)
    rnn = nn.RNN(cell_maker(options.cell, options.hidden, rng), input_size=options.embed)
    return nn.Transducer(rnn, len(WORDS), embedding=nn.Embedding(len(WORDS), options.embed, rng=rng))


def measure_agreement(model: nn.Transducer, batch: Batch, state: State | None) -> Outcome:
    """The mean cross-entropy of a word in nats, and how many verbs agreed with their subjects."""
    assert batch.lengths is not None
    logits, _ = model(batch.inputs, lengths=batch.lengths)
    inside = np.flatnonzero(np.arange(len(batch.inputs))[:, None] < batch.lengths)
    loss = ops.cross_entropy(logits.reshape(-1, len(WORDS))[inside], batch.targets.reshape(-1)[inside])
    rows = np.arange(len(batch.lengths))
    asked = batch.targets[batch.lengths - 1, rows] == PLURAL
    right = plural_odds(logits.numpy(), batch.lengths) > 0
    return Outcome(loss, int((right == asked).sum()), len(rows))


def plural_odds(logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """By how much "were" is likelier than "was" behind the last word, as a logit, (B,)."""
    last = logits[lengths - 1, np.arange(len(lengths))]
    return last[:, PLURAL] - last[:, SINGULAR]


def bands(options: AgreementOptions) -> list[tuple[int, int]]:
    """The first and last distance of each column of the table: 0, 1-3, 4-9, then tens, the last with up to 3 more."""
    last = longest_tested(options)
    firsts = [0, 1, NEAREST, *range(10, last - 3, 10)]
    return list(zip(firsts, [*(first - 1 for first in firsts[1:]), last], strict=True))


def accuracy_by_distance(model: nn.Transducer, options: AgreementOptions) -> list[float]:
    """The share of the test's verbs that agree, one of each of `bands`; NaN for a band without sentences."""
    sentences = held_out_sentences(options)
    distances = np.array([sentence.distance for sentence in sentences])
    right = np.empty(len(sentences), bool)
    model.eval()
    for group in bucket([len(sentence.words) for sentence in sentences], 256):
        inputs, lengths = pad([_encode(sentences[k].words) for k in group])
        with no_grad():
            logits, _ = model(inputs, lengths=lengths)
        right[group] = (plural_odds(logits.numpy(), lengths) > 0) == [sentences[k].plural for k in group]
    inside = [(first <= distances) & (distances <= last) for first, last in bands(options)]
    return [float(right[band].mean()) if band.any() else float("nan") for band in inside]


class Speaker:
    """A trained language model of sentences. checkpoint: as `read_model` gives it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.options = AgreementOptions(**checkpoint.meta["options"])
        self.model = build_speaker(self.options)
        checkpoint.restore(self.model)
        self.model.eval()

    def verb(self, text: str) -> tuple[str, float]:
        """ "was" or "were", whichever is likelier behind `text`, and its probability against the other.

        Raises ValueError for an empty text, or one with words that no sentence has.
        """
        words = text.lower().replace(",", " , ").split()
        if not words:
            raise ValueError("the text holds no word")
        if unknown := [word for word in dict.fromkeys(words) if word not in IDS]:
            raise ValueError(f"no sentence has the word {', '.join(unknown)}; there are {', '.join(WORDS)}")
        with no_grad():
            logits, _ = self.model(_encode(words)[:, None])
        odds = float(plural_odds(logits.numpy(), np.array([len(words)]))[0])
        return VERBS[odds > 0], float(1 / (1 + np.exp(-abs(odds))))

    def answer(self, text: str) -> Answer:
        """The verb and how sure it is. Raises ValueError for a text with words that no sentence has."""
        verb, probability = self.verb(text)
        return Answer(f"{verb}  {probability:.1%}")


def _encode(words: Sequence[str]) -> np.ndarray:
    return np.array([IDS[word] for word in words])


def _batches(sentences: Sequence[Sentence], size: int, rng: np.random.Generator | None = None) -> list[Batch]:
    found = []
    for group in bucket([len(sentence.words) for sentence in sentences], size, rng):
        whole = [_encode([*sentences[k].words, VERBS[sentences[k].plural]]) for k in group]
        inputs, lengths = pad([ids[:-1] for ids in whole])
        targets, _ = pad([ids[1:] for ids in whole])
        found.append(Batch(inputs, targets, lengths))
    return found


AGREEMENT = Kind(
    name="agreement",
    options=AgreementOptions,
    build=agreement_task,
    help="Learn to say was or were, long after the subject.\n\n"
    "A language model of sentences such as: the cats, which already ate, were. tinyrnn agreement compares cells on it.",
    example="--cell elman --seed 1",
    tool=Speaker,
    then='tinyrnn predict {run} "the cats, which the dog sees,"',
)
