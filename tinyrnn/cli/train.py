"""`tinyrnn train`: sentiment, adding, copy, text."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from tinyrnn.cli.show import Display, UserError, console
from tinyrnn.files import CheckpointError
from tinyrnn.train import (
    AddingOptions,
    CopyOptions,
    Options,
    SentimentOptions,
    Task,
    TextOptions,
    Trainer,
    adding_task,
    copy_task,
    read_run,
    sentiment_task,
    text_task,
)

app = typer.Typer(
    help="Train a model; everything about it is kept in a run folder.",
    epilog="Example: tinyrnn train sentiment --run runs/first --seed 1",
    no_args_is_help=True,
)


class CellName(StrEnum):
    """The cells that a model can be made of."""

    LSTM = "lstm"
    GRU = "gru"
    ELMAN = "elman"


class Source(StrEnum):
    """The collections of reviews."""

    ROTTEN_TOMATOES = "rotten_tomatoes"
    IMDB = "imdb"


S, A, C, T = SentimentOptions(), AddingOptions(), CopyOptions(), TextOptions()

DATA, MODEL, TRAINING, RUN = "Data", "Model", "Training", "Run"


def _count(text: str, panel: str = TRAINING, least: int = 1, name: str = "") -> Any:
    return typer.Option(*([name] if name else []), min=least, metavar="N", help=text, rich_help_panel=panel)


def _share(text: str, panel: str = TRAINING, most: float = 0.95) -> Any:
    return typer.Option(min=0.0, max=most, metavar="X", help=text, rich_help_panel=panel)


Run = Annotated[Path, typer.Option(metavar="FOLDER", help="The run folder.", rich_help_panel=RUN)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in the folder, by its own options.", rich_help_panel=RUN)
]
Seed = Annotated[int, _count("Decides all that is random.", RUN, 0)]
CellKind = Annotated[CellName, typer.Option(metavar="NAME", help="lstm, gru or elman.", rich_help_panel=MODEL)]
Hidden = Annotated[int, _count("Units of a state.", MODEL)]
Embed = Annotated[int, _count("Width of an embedding.", MODEL)]
Epochs = Annotated[int, _count("Epochs at most. May be raised with --resume.")]
Patience = Annotated[int, _count("Stop after N epochs without a better one; 0: never.", least=0)]
Rows = Annotated[int, _count("Sequences a batch.", name="--batch")]
Rate = Annotated[
    float, typer.Option("--lr", min=1e-9, max=1e3, metavar="X", help="Adam's learning rate.", rich_help_panel=TRAINING)
]
Clip = Annotated[
    float, typer.Option(min=1e-9, metavar="X", help="Largest norm of a gradient.", rich_help_panel=TRAINING)
]
Dropout = Annotated[float, _share("Share of features dropped.")]
Sequences = Annotated[int, _count("New sequences an epoch.", DATA)]


@app.command(epilog="Example: tinyrnn train sentiment --hidden 96 --seed 1")
def sentiment(
    ctx: typer.Context,
    source: Annotated[
        Source, typer.Option(metavar="NAME", help="rotten_tomatoes (sentences) or imdb.", rich_help_panel=DATA)
    ] = Source.ROTTEN_TOMATOES,
    max_length: Annotated[int, _count("Words of a review that are read.", DATA)] = S.max_length,
    cell: CellKind = CellName.LSTM,
    hidden: Hidden = S.hidden,
    embed: Embed = S.embed,
    bidirectional: Annotated[
        bool, typer.Option("--bidirectional/--one-way", help="Read in both directions.", rich_help_panel=MODEL)
    ] = True,
    epochs: Epochs = S.epochs,
    patience: Patience = S.patience,
    batch: Rows = S.batch,
    lr: Rate = S.lr,
    clip: Clip = S.clip,
    dropout: Dropout = S.dropout,
    word_dropout: Annotated[float, _share("Share of words hidden.")] = S.word_dropout,
    average: Annotated[float, _share("Decay of the running average of the weights; 0: none.", most=0.9999)] = S.average,
    run: Run = Path("runs/sentiment"),
    resume: Resume = False,
    seed: Seed = S.seed,
) -> None:
    """Learn to tell praise from blame in film reviews.

    Needs the reviews: pip install 'tinyrnn\\[demo]'. Afterwards: tinyrnn predict.
    """
    _train(ctx, "sentiment", SentimentOptions, sentiment_task)


@app.command(epilog="Example: tinyrnn train adding --steps 100 --epochs 20")
def adding(
    ctx: typer.Context,
    steps: Annotated[int, _count("The shortest length of a sequence.", DATA, 10)] = A.steps,
    sequences: Sequences = A.sequences,
    cell: CellKind = CellName.LSTM,
    hidden: Hidden = A.hidden,
    epochs: Epochs = A.epochs,
    patience: Patience = A.patience,
    batch: Rows = A.batch,
    lr: Rate = A.lr,
    clip: Clip = A.clip,
    run: Run = Path("runs/adding"),
    resume: Resume = False,
    seed: Seed = A.seed,
) -> None:
    """Learn to add two marked numbers of a long sequence.

    The adding problem of Hochreiter & Schmidhuber 1997.
    """
    _train(ctx, "adding", AddingOptions, adding_task)


@app.command(epilog="Example: tinyrnn train copy --lag 50 --cell gru")
def copy(
    ctx: typer.Context,
    length: Annotated[int, _count("Symbols to remember.", DATA)] = C.length,
    lag: Annotated[int, _count("Steps to remember them for.", DATA)] = C.lag,
    sequences: Sequences = C.sequences,
    cell: CellKind = CellName.LSTM,
    hidden: Hidden = C.hidden,
    epochs: Epochs = C.epochs,
    patience: Patience = C.patience,
    batch: Rows = C.batch,
    lr: Rate = C.lr,
    clip: Clip = C.clip,
    run: Run = Path("runs/copy"),
    resume: Resume = False,
    seed: Seed = C.seed,
) -> None:
    """Learn to write down symbols seen long before.

    The copy problem, after Hochreiter & Schmidhuber 1997.
    """
    _train(ctx, "copy", CopyOptions, copy_task)


@app.command(epilog="Example: tinyrnn train text --file novel.txt --run runs/novel")
def text(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A UTF-8 text to learn.",
            show_default="Python's own help topics",
            rich_help_panel=DATA,
        ),
    ] = None,
    steps: Annotated[int, _count("Characters that gradients run back through.", DATA)] = T.steps,
    cell: CellKind = CellName.LSTM,
    hidden: Hidden = T.hidden,
    embed: Embed = T.embed,
    epochs: Epochs = T.epochs,
    patience: Patience = T.patience,
    batch: Rows = T.batch,
    lr: Rate = T.lr,
    clip: Clip = T.clip,
    dropout: Dropout = T.dropout,
    run: Run = Path("runs/text"),
    resume: Resume = False,
    seed: Seed = T.seed,
) -> None:
    """Learn to write like a text, character by character.

    Afterwards: tinyrnn sample.
    """
    _train(ctx, "text", TextOptions, text_task)


# -- what they share ---------------------------------------------------------------------------------------------------

Kind = TypeVar("Kind", bound=Options)


def _train(ctx: typer.Context, name: str, kind: type[Kind], build: Callable[[Kind], Task]) -> None:
    folder: Path = ctx.params["run"]
    resume: bool = ctx.params["resume"]
    out = console()
    given = {f.name: _plain(ctx.params[f.name]) for f in fields(kind) if f.name in ctx.params}
    options = _saved_options(ctx, name, kind, folder, given) if resume else kind(**given)
    epochs = given["epochs"] if _is_given(ctx, "epochs") else None
    with out.status("reading the data"):
        try:
            task = build(options)
            trainer = Trainer(task, folder, resume=resume, epochs=epochs)
        except ValueError as error:
            raise UserError(str(error)) from error
    progress = trainer.progress
    if progress.tested is not None:
        out.print(f"The run in {folder} has ended after {progress.epoch} epochs; --epochs can be raised.")
        _conclude(task, trainer, out)
        return
    display = trainer.watcher = Display(task, progress.epochs, out)
    count = sum(p.size for p in task.model.parameters())
    out.print(task.summary)
    out.print(f"{count:,} parameters; seed {options.seed}; run folder {folder}; Ctrl-C saves and stops\n")
    display.header()
    for record in progress.history:
        if "train" in record:
            display.row(record, record["epoch"] == progress.best_epoch)
    try:
        with _stopping(trainer):
            done = trainer.fit()
    finally:
        display.close()
    if not done:
        at = f"batch {progress.position:,} of epoch {progress.epoch + 1}" if not trainer.ended else "the test"
        out.print(f"\nStopped at {at}; all is saved. To go on:")
        out.print(f"  tinyrnn train {name} --run {folder} --resume", soft_wrap=True)
        raise typer.Exit(130)
    out.print()
    _conclude(task, trainer, out)


def _conclude(task: Task, trainer: Trainer, out: Any) -> None:
    tested = trainer.progress.tested or {}
    results = ", ".join(f"{name} {value:.4f}" for name, value in tested.items())
    out.print(f"Test of epoch {trainer.progress.best_epoch}, the best: {results}", style="bold")
    if task.name == "sentiment":
        out.print(f'Try: tinyrnn predict {trainer.folder} "the movie was long, but I really loved it"', soft_wrap=True)
    if task.name == "text":
        out.print(f"Try: tinyrnn sample {trainer.folder}", soft_wrap=True)


def _saved_options(ctx: typer.Context, name: str, kind: type[Kind], folder: Path, given: dict[str, Any]) -> Kind:
    """The options of the run in `folder`; UserError if it is of another task or the command line gives others."""
    meta = read_run(folder).meta
    if meta["task"] != name:
        raise UserError(f"{folder} is a run of `tinyrnn train {meta['task']}`, not of {name}")
    try:
        options = kind(**meta["options"])
    except TypeError as error:
        raise CheckpointError(f"{folder} was made by another version of tinyrnn: {error}") from error
    for key, value in given.items():
        saved = getattr(options, key)
        if _is_given(ctx, key) and key != "epochs" and saved != value:
            raise UserError(f"{folder} was begun with --{key.replace('_', '-')} {saved}; --resume cannot change it")
    return options


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _plain(value: Any) -> Any:
    """What the run folder keeps: an Enum's value, a path that holds from any folder, "" for no file."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value.resolve())
    return "" if value is None else value


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM ask the trainer to stop; a second one ends the process at once."""

    def ask(number: int, frame: Any) -> None:
        trainer.stop()
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
