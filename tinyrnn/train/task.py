"""What a training run needs to know about its task: records that `Trainer` reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

from tinyrnn._core.tape import Tensor
from tinyrnn.data import Batch
from tinyrnn.module import Module
from tinyrnn.train.models import State


@dataclass(frozen=True)
class Options:
    """What every task can be told. A task's own options come on top; all are plain values, kept in the run folder."""

    seed: int = 0
    """Decides the split of the data, their order, the initial weights and all noise."""
    cell: str = "lstm"
    """The cell: lstm, gru or elman."""
    hidden: int = 64
    """Units a state."""
    batch: int = 32
    """Sequences a batch."""
    epochs: int = 6
    """Passes over the training data, at most."""
    patience: int = 2
    """Epochs without a better validation result before the run stops."""
    lr: float = 4e-3
    """Adam's learning rate."""
    clip: float = 1.0
    """The largest norm of a gradient."""
    average: float = 0.0
    """Decay a step of the running average of the weights that is validated and kept; 0: the weights themselves."""

    def as_json(self) -> dict[str, Any]:
        """The options as a dict of plain values."""
        return asdict(self)


class Outcome(NamedTuple):
    """What a model made of one batch."""

    loss: Tensor
    """The mean over `total`, a scalar."""
    hits: float
    """How many of `total` were right."""
    total: int
    """The things judged: sequences, or steps."""
    state: State = ()
    """Where the next batch goes on, if it does."""


@dataclass(frozen=True)
class Task:
    """A model, its data, and how it is judged."""

    name: str
    options: Options
    model: Module
    train: Callable[[int], Sequence[Batch]]
    """The batches of an epoch (counted from 0) in their order: the same for the same epoch, at any time."""
    valid: Sequence[Batch]
    test: Sequence[Batch]
    measure: Callable[[Any, Batch, State | None], Outcome]
    """(model, batch, the state of the batch before or None) -> Outcome."""
    summary: str
    """The data in one line."""
    watch: Literal["loss", "accuracy"] = "loss"
    """Which of the validation's results chooses the best epoch."""
    report: Callable[[float, float], dict[str, float]] = lambda loss, accuracy: {"loss": loss, "accuracy": accuracy}
    """(mean loss, accuracy) -> what is written and shown, by name, in order."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What is needed beside the options to use the model without the data: a vocabulary, say."""
    fingerprint: str = ""
    """Differs where the data differ, so that a run is not resumed on others."""
