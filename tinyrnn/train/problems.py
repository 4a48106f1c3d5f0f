"""Two problems that only a memory can solve: adding and copying."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyrnn import ops
from tinyrnn.data import Batch, adding_batch, copy_batch
from tinyrnn.data.adding import TOLERANCE
from tinyrnn.data.copying import BLANK, SYMBOLS
from tinyrnn.train.models import Regressor, State, Transducer
from tinyrnn.train.task import DATA, Kind, Options, Outcome, Task, count

VALID, TEST = 1_000_000, 2_000_000
"""Where an epoch's number would stand in the seed of validation and test data."""


@dataclass(frozen=True)
class AddingOptions(Options):
    """Options of `tinyrnn train adding`."""

    steps: int = count(50, "The shortest length of a sequence; the longest is a tenth more.", DATA, 10)
    sequences: int = count(5000, "New sequences an epoch.", DATA)
    held_out: int = 1000
    """Sequences to choose by, and as many to judge by."""
    epochs: int = 10
    patience: int = 0
    lr: float = 1e-2


@dataclass(frozen=True)
class CopyOptions(Options):
    """Options of `tinyrnn train copy`."""

    length: int = count(4, "Symbols to remember.", DATA)
    lag: int = count(20, "Steps between the symbols and the sign to write them.", DATA)
    sequences: int = count(5000, "New sequences an epoch.", DATA)
    held_out: int = 1000
    """Sequences to choose by, and as many to judge by."""
    hidden: int = 96
    epochs: int = 16
    patience: int = 0
    lr: float = 1e-2


def adding_task(options: AddingOptions) -> Task:
    """The adding problem: name the sum of the two marked numbers at the end of the sequence."""

    def make(number: int, sequences: int) -> list[Batch]:
        rng = np.random.default_rng([options.seed, number])
        return [adding_batch(rng, rows, options.steps) for rows in _parts(sequences, options.batch)]

    return Task(
        name="adding",
        options=options,
        model=Regressor(
            2,
            hidden=options.hidden,
            cell=options.cell,
            memory=options.steps,
            rng=np.random.default_rng(options.seed),
        ),
        train=lambda epoch: make(epoch, options.sequences),
        valid=make(VALID, options.held_out),
        test=make(TEST, options.held_out),
        measure=measure_adding,
        summary=(
            f"{options.sequences:,} new sequences an epoch of {options.steps} to {options.steps + options.steps // 10} "
            f"pairs; solved: off by less than {TOLERANCE}; the mean as answer has loss {1 / 24:.4f}"
        ),
    )


def measure_adding(model: Regressor, batch: Batch, state: State | None) -> Outcome:
    """The mean squared error, and how many answers were off by less than the tolerance."""
    answers = model(batch.inputs, batch.lengths)
    off = np.abs(answers.numpy() - batch.targets)
    return Outcome(ops.mse_loss(answers, batch.targets), int((off < TOLERANCE).sum()), len(off))


def copy_task(options: CopyOptions) -> Task:
    """The copy problem: write down the first symbols after a long silence."""

    def make(number: int, sequences: int) -> list[Batch]:
        rng = np.random.default_rng([options.seed, number])
        return [
            copy_batch(rng, rows, length=options.length, lag=options.lag) for rows in _parts(sequences, options.batch)
        ]

    steps = options.lag + 2 * options.length
    return Task(
        name="copy",
        options=options,
        model=Transducer(
            SYMBOLS + 2,
            SYMBOLS + 1,
            embed=16,
            hidden=options.hidden,
            cell=options.cell,
            memory=steps,
            rng=np.random.default_rng(options.seed),
        ),
        train=lambda epoch: make(epoch, options.sequences),
        valid=make(VALID, options.held_out),
        test=make(TEST, options.held_out),
        measure=measure_copy,
        summary=(
            f"{options.sequences:,} new sequences an epoch: {options.length} symbols, written again {options.lag} "
            f"steps later; without memory the loss is {options.length * np.log(SYMBOLS) / steps:.4f}"
        ),
    )


def measure_copy(model: Transducer, batch: Batch, state: State | None) -> Outcome:
    """The mean cross-entropy of a step in nats, and how many of the symbols asked for were written right."""
    logits, _ = model(batch.inputs)
    loss = ops.cross_entropy(logits.reshape(-1, logits.shape[2]), batch.targets.reshape(-1))
    asked = batch.targets != BLANK
    right = logits.numpy().argmax(axis=2) == batch.targets
    return Outcome(loss, int((right & asked).sum()), int(asked.sum()))


def _parts(total: int, size: int) -> list[int]:
    return [min(size, total - k) for k in range(0, total, size)]


ADDING = Kind(
    name="adding",
    options=AddingOptions,
    build=adding_task,
    help="Learn to add two marked numbers of a long sequence.\n\nThe adding problem of Hochreiter & Schmidhuber 1997.",
    example="--steps 100 --epochs 20",
)
COPY = Kind(
    name="copy",
    options=CopyOptions,
    build=copy_task,
    help="Learn to write down symbols seen long before.\n\nThe copy problem, after Hochreiter & Schmidhuber 1997.",
    example="--lag 50 --cell gru",
)
