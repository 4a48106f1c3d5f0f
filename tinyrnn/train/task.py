"""What a training run needs to know about its task: records that `Trainer` reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, NamedTuple, Protocol

from tinyrnn._core.tape import Tensor
from tinyrnn.cells import by_name
from tinyrnn.data import Batch
from tinyrnn.files import Checkpoint
from tinyrnn.module import Module
from tinyrnn.train.models import State

DATA, MODEL, TRAINING, RUN = PANELS = "Data", "Model", "Training", "Run"
"""The headings under which `--help` lists options."""


@dataclass(frozen=True)
class About:
    """What the command line must know of an option beside its name, type and default."""

    help: str
    panel: str = TRAINING
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    """The values it may have; (): any."""
    check: Callable[[str], object] | None = None
    """Raises ValueError for a value it may not have."""
    flags: str = ""
    """What to call it; empty: --name."""
    default: str = ""
    """What `--help` shows as the default, of an option that names a file and is empty by default."""


def option(
    default: Any,
    help: str,
    panel: str = TRAINING,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
    check: Callable[[str], object] | None = None,
    flags: str = "",
    shown: str = "",
) -> Any:
    """A field of `Options` that the command line offers, with what is said and checked there; see `About`.

    shown: in place of the default, for an option that names a file and is empty by default. A subclass may give the
    field another default; what is said of it stays.
    """
    about = About(help, panel, least, most, choices, check, flags, shown)
    return field(default=default, metadata={"about": about})


def count(default: int, help: str, panel: str = TRAINING, least: int = 1) -> Any:
    """An `option` that is an integer."""
    return option(default, help, panel, least=least)


def share(default: float, help: str, panel: str = TRAINING, most: float = 0.95) -> Any:
    """An `option` that is a number from 0 on."""
    return option(default, help, panel, least=0.0, most=most)


@dataclass(frozen=True)
class Options:
    """What every task can be told. A task's own options come on top; all are plain values, kept in the run folder."""

    seed: int = count(0, "Decides all that is random.", RUN, 0)
    device: str = option("cpu", "cpu, or cuda for an NVIDIA GPU.", RUN, choices=("cpu", "cuda"))
    cell: str = option("lstm", "lstm, gru, elman or another that tinyrnn cells lists.", MODEL, check=by_name)
    hidden: int = count(64, "Units of a state.", MODEL)
    batch: int = count(32, "Sequences a batch.")
    epochs: int = count(6, "Epochs at most. May be raised with --resume.")
    patience: int = count(2, "Stop after N epochs without a better one; 0: never.", least=0)
    lr: float = option(4e-3, "Adam's learning rate.", least=1e-9, most=1e3)
    clip: float = option(1.0, "Largest norm of a gradient.", least=1e-9)
    average: float = 0.0
    """Decay a step of the running average of the weights that is validated and kept; 0: the weights themselves."""

    def as_json(self) -> dict[str, Any]:
        """The options as a dict of plain values."""
        return asdict(self)

    @classmethod
    def offered(cls) -> dict[str, tuple[Any, About]]:
        """What the command line offers: name -> (default, About)."""
        abouts: dict[str, About] = {}
        for base in reversed(cls.__mro__):
            for f in fields(base) if is_dataclass(base) else ():
                if "about" in f.metadata:
                    abouts[f.name] = f.metadata["about"]
        return {f.name: (f.default, abouts[f.name]) for f in fields(cls) if f.name in abouts}


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


class Answer(NamedTuple):
    """What a trained model says to a text."""

    text: str
    note: str = ""
    """Something that a person should know about it."""


class Tool(Protocol):
    """A trained model, made of the checkpoint of a run, as `tinyrnn predict` uses it."""

    def answer(self, text: str) -> Answer:
        """Raises ValueError for a text that it cannot read."""


@dataclass(frozen=True)
class Kind:
    """A kind of task, from which `tinyrnn train NAME` and `tinyrnn predict` are made."""

    name: str
    options: type[Options]
    build: Callable[[Any], Task]
    """Its options -> a Task. Raises data.MissingExtraError, ValueError or OSError."""
    help: str
    """What it learns, in a line, and if need be a second paragraph."""
    example: str
    """Arguments behind `tinyrnn train NAME`, as an example."""
    tool: Callable[[Checkpoint], Tool] | None = None
    """What `tinyrnn predict` makes of the best checkpoint."""
    then: str = ""
    """What can be done with a run: a command, in which {run} is the folder."""
