"""An encoder and a decoder: dates as people write them into ISO 8601, character by character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from tinyrnn import nn, ops
from tinyrnn.data import Alphabet, Batch, bucket, pad, split_days, written_dates
from tinyrnn.data.dates import CHARACTERS
from tinyrnn.files import Checkpoint
from tinyrnn.train.models import State, cell_maker
from tinyrnn.train.task import DATA, MODEL, Answer, Kind, Options, Outcome, Task, count, share

DIGITS = "0123456789-"
"""What an ISO date is made of; their places are their ids."""
STOP, START = len(DIGITS), len(DIGITS) + 1
"""Ids of the sign behind the last character, and of the one before the first."""
LONGEST = 60
"""Characters that are read; no written date has more."""

VALID, TEST = 1_000_000, 2_000_000
"""Where an epoch's number would stand in the seed of the forms of validation and test dates."""


@dataclass(frozen=True)
class DatesOptions(Options):
    """Options of `tinyrnn train dates`."""

    dates: int = count(20_000, "Newly written dates an epoch.", DATA)
    held_out: int = count(2000, "Days to choose by, and as many to judge by; none is trained on.", DATA)
    embed: int = count(32, "Width of a character's embedding.", MODEL)
    hidden: int = 128
    batch: int = 64
    average: float = share(0.99, "Decay of the running average of the weights; 0: none.", most=0.9999)
    epochs: int = 6
    patience: int = 0
    lr: float = 4e-3


def dates_task(options: DatesOptions) -> Task:
    """Rewrite dates. The days of 1950 to 2049 are split by the seed, and each epoch writes days of the training part
    in forms drawn anew. Raises ValueError if `held_out` leaves none."""
    train, valid, test = split_days(options.seed, options.held_out)

    def epoch(number: int) -> list[Batch]:
        rng = np.random.default_rng([options.seed, number])
        days = [train[k] for k in rng.integers(0, len(train), options.dates)]
        return _batches(days, written_dates(rng, days), options.batch, rng)

    def fixed(days: list[date], number: int) -> list[Batch]:
        return _batches(days, written_dates(np.random.default_rng([options.seed, number]), days), 256)

    return Task(
        name="dates",
        options=options,
        model=build_date_model(options),
        train=epoch,
        valid=fixed(valid, VALID),
        test=fixed(test, TEST),
        measure=measure_dates,
        summary=(
            f"{options.dates:,} newly written dates an epoch, of {len(train):,} days; {len(valid):,} other days to "
            f"choose by, {len(test):,} to test; right: all ten characters"
        ),
        watch="accuracy",
    )


def build_date_model(options: DatesOptions) -> nn.EncoderDecoder:
    """The untrained model: an encoder in both directions, whose states are summed, and a decoder of one."""
    rng = np.random.default_rng(options.seed)
    make = cell_maker(options.cell, options.hidden, rng)
    characters = nn.Embedding(len(CHARACTERS), options.embed, rng=rng)
    reader = nn.RNN(make, input_size=options.embed, bidirectional=True, merge="sum")
    digits = nn.Embedding(START + 1, options.embed, rng=rng)
    writer = nn.RNN(make, input_size=options.embed)
    return nn.EncoderDecoder(
        nn.Encoder(reader, embedding=characters), nn.Transducer(writer, STOP + 1, embedding=digits)
    )


def measure_dates(model: nn.EncoderDecoder, batch: Batch, state: State | None) -> Outcome:
    """The mean cross-entropy of a character in nats, and how many dates were right in every character.

    The decoder is given the right characters so far. Where all its likeliest ones are right, greedy decoding feeds it
    the very same, so the exact matches of greedy decoding are counted, no more and no fewer.
    """
    targets = batch.targets
    before = np.concatenate([np.full((1, targets.shape[1]), START), targets[:-1]])
    logits = model(batch.inputs, before, batch.lengths)
    loss = ops.cross_entropy(logits.reshape(-1, logits.shape[2]), targets.reshape(-1))
    right = (logits.numpy().argmax(axis=2) == targets).all(axis=0)
    return Outcome(loss, int(right.sum()), len(right))


class Rewriter:
    """A trained model of dates. checkpoint: as `read_model` gives it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.options = DatesOptions(**checkpoint.meta["options"])
        self.model = build_date_model(self.options)
        checkpoint.restore(self.model)
        self.model.eval()
        self.alphabet = Alphabet(CHARACTERS)

    def rewrite(self, texts: Sequence[str]) -> list[str]:
        """What the model makes of each text, at most ten characters.

        Raises ValueError for an empty text, one of more than 60 characters, and a character that no date has.
        """
        for text in texts:
            if not 1 <= len(text) <= LONGEST:
                raise ValueError(f"a date must have 1 to {LONGEST} characters, got {len(text)}")
            if unknown := sorted(set(text) - set(CHARACTERS)):
                raise ValueError(f"a date has no {', '.join(map(repr, unknown))}: {text!r}")
        ids, lengths = pad([self.alphabet.encode(text) for text in texts])
        written, ends = self.model.greedy(ids, lengths, start=START, stop=STOP, max_steps=10)
        return ["".join(DIGITS[k] for k in written[:end, b]) for b, end in enumerate(ends)]

    def answer(self, text: str) -> Answer:
        """The date, and a note if there is no such day. Raises ValueError for a text that cannot be a date."""
        [iso] = self.rewrite([text.strip()])
        try:
            date.fromisoformat(iso)
        except ValueError:
            return Answer(iso, "there is no such day")
        return Answer(iso)


def _batches(
    days: Sequence[date], texts: Sequence[str], size: int, rng: np.random.Generator | None = None
) -> list[Batch]:
    alphabet, found = Alphabet(CHARACTERS), []
    for group in bucket([len(text) for text in texts], size, rng):
        inputs, lengths = pad([alphabet.encode(texts[k]) for k in group])
        targets = np.array([[*map(DIGITS.index, days[k].isoformat()), STOP] for k in group]).T
        found.append(Batch(inputs, targets, lengths))
    return found


DATES = Kind(
    name="dates",
    options=DatesOptions,
    build=dates_task,
    help="Learn to rewrite dates: 3rd of May, 2021 to 2021-05-03.\n\n"
    "An encoder reads a date in one of 28 forms, a decoder writes it. Afterwards: tinyrnn predict.",
    example="--hidden 192 --seed 1",
    tool=Rewriter,
    then='tinyrnn predict {run} "3rd of May 2021"',
)
