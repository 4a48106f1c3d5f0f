"""The main job: an LSTM that tells praise from blame in film reviews."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyrnn import ops
from tinyrnn.autograd import no_grad
from tinyrnn.data import Batch, Review, Vocabulary, bucket, pad, read_reviews, split_reviews, tokenise
from tinyrnn.data.reviews import SOURCES
from tinyrnn.files import Checkpoint
from tinyrnn.train.models import Classifier, State
from tinyrnn.train.task import DATA, MODEL, Answer, Kind, Options, Outcome, Task, count, option, share

LABELS = ("negative", "positive")


@dataclass(frozen=True)
class SentimentOptions(Options):
    """Options of `tinyrnn train sentiment`."""

    source: str = option("rotten_tomatoes", "rotten_tomatoes (sentences) or imdb.", DATA, choices=SOURCES)
    max_length: int = count(400, "Words of a review that are read.", DATA)
    embed: int = count(200, "Width of a word's embedding.", MODEL)
    bidirectional: bool = option(True, "Read in both directions.", MODEL, flags="--bidirectional/--one-way")
    dropout: float = share(0.5, "Share of features dropped.")
    word_dropout: float = share(0.2, "Share of words hidden.")
    average: float = share(0.99, "Decay of the running average of the weights; 0: none.", most=0.9999)


def sentiment_task(options: SentimentOptions, reviews: Sequence[Review] | None = None) -> Task:
    """The task of classifying `reviews`, by default those of options.source.

    They are shuffled by the seed and split 80/10/10; the vocabulary is of the words that come twice or more in the
    training part. Raises data.MissingExtraError if the reviews are not installed.
    """
    found = read_reviews(options.source) if reviews is None else list(reviews)
    split = split_reviews(found, options.seed)
    vocabulary = Vocabulary.of(review.words for review in split.train)
    train, valid, test = (
        [(vocabulary.encode(review.words[: options.max_length]), review.label) for review in part] for part in split
    )
    lengths = [len(ids) for ids, _ in train]

    def epoch(number: int) -> list[Batch]:
        rng = np.random.default_rng([options.seed, number])
        return [_batch([train[k] for k in group]) for group in bucket(lengths, options.batch, rng)]

    def fixed(part: list[Any]) -> list[Batch]:
        return [_batch([part[k] for k in group]) for group in bucket([len(ids) for ids, _ in part], 128)]

    return Task(
        name="sentiment",
        options=options,
        model=build_classifier(options, len(vocabulary)),
        train=epoch,
        valid=fixed(valid),
        test=fixed(test),
        measure=measure_classifier,
        summary=(
            f"{len(train):,} reviews to train on, {len(valid):,} to choose by, {len(test):,} to test; "
            f"{len(vocabulary.words):,} words"
        ),
        watch="accuracy",
        meta={"words": list(vocabulary.words)},
        fingerprint=_fingerprint(found),
    )


def build_classifier(options: SentimentOptions, words: int) -> Classifier:
    """The untrained model for a vocabulary of `words` ids."""
    return Classifier(
        words,
        embed=options.embed,
        hidden=options.hidden,
        cell=options.cell,
        bidirectional=options.bidirectional,
        dropout=options.dropout,
        word_dropout=options.word_dropout,
        unknown=Vocabulary.UNKNOWN,
        rng=np.random.default_rng(options.seed),
    )


def measure_classifier(model: Classifier, batch: Batch, state: State | None) -> Outcome:
    """Binary cross-entropy in nats, and how many labels were right."""
    assert batch.lengths is not None
    logits = model(batch.inputs, batch.lengths)
    loss = ops.binary_cross_entropy_with_logits(logits, batch.targets)
    return Outcome(loss, int(((logits.numpy() > 0) == (batch.targets > 0)).sum()), len(batch.targets))


class Critic:
    """A trained classifier and its vocabulary. checkpoint: as `read_model` gives it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.options = SentimentOptions(**checkpoint.meta["options"])
        self.vocabulary = Vocabulary(checkpoint.meta["words"])
        self.model = build_classifier(self.options, len(self.vocabulary))
        checkpoint.restore(self.model)
        self.model.eval()

    def judge(self, text: str) -> tuple[str, float]:
        """The label of `text` and its probability, 0.5 to 1. Raises ValueError if the text holds no word."""
        words = tokenise(text)
        if not any(word[0].isalnum() for word in words):
            raise ValueError(f"the text holds no word: {text!r}")
        ids = self.vocabulary.encode(words[: self.options.max_length])
        with no_grad():
            positive = ops.sigmoid(self.model(ids[:, None], np.array([len(ids)]))).item()
        return LABELS[positive > 0.5], max(positive, 1 - positive)

    def unknown(self, text: str) -> list[str]:
        """The words of `text` that the model has never learned."""
        return [word for word in tokenise(text) if word not in self.vocabulary]

    def answer(self, text: str) -> Answer:
        """The label and how sure it is, and a note of unknown words. Raises ValueError if the text holds no word."""
        label, probability = self.judge(text)
        unknown = ", ".join(dict.fromkeys(self.unknown(text)))
        return Answer(f"{label}  {probability:.1%}", f"not among the words it knows: {unknown}" if unknown else "")


def _batch(examples: Sequence[tuple[Any, int]]) -> Batch:
    ids, lengths = pad([ids for ids, _ in examples], Vocabulary.PADDING)
    return Batch(ids, np.array([label for _, label in examples], dtype=np.float32), lengths)


def _fingerprint(reviews: Sequence[Review]) -> str:
    digest = hashlib.sha256()
    for review in reviews:
        digest.update(f"{review.label} {' '.join(review.words)}\n".encode())
    return digest.hexdigest()


SENTIMENT = Kind(
    name="sentiment",
    options=SentimentOptions,
    build=sentiment_task,
    help="Learn to tell praise from blame in film reviews.\n\n"
    "Needs the reviews: pip install 'tinyrnn[demo]'. Afterwards: tinyrnn predict.",
    example="--hidden 96 --seed 1",
    tool=Critic,
    then='tinyrnn predict {run} "the movie was long, but I really loved it"',
)
