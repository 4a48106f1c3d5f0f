"""`tinyrnn train NAME`: one command for each kind of task, made of its `Kind`."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tinyrnn.backend import check_device
from tinyrnn.cli.show import Display, UserError, console
from tinyrnn.data import MissingExtraError
from tinyrnn.files import CheckpointError
from tinyrnn.report import write_report
from tinyrnn.train import KINDS, Kind, Options, Trainer, read_run
from tinyrnn.train.task import PANELS, RUN, About

app = typer.Typer(
    help="Train a model; everything about it is kept in a run folder.",
    epilog="Example: tinyrnn train sentiment --run runs/first --seed 1",
    no_args_is_help=True,
)

Run = Annotated[Path, typer.Option(metavar="FOLDER", help="The run folder.", rich_help_panel=RUN)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in the folder, by its own options.", rich_help_panel=RUN)
]


def command(kind: Kind) -> Callable[..., None]:
    """The function that typer makes `tinyrnn train NAME` of: its signature is that of the kind's options."""

    def train(ctx: typer.Context, **given: Any) -> None:
        _train(ctx, kind, {k: _plain(v) for k, v in given.items() if k not in ("run", "resume")})

    by_panel = sorted(kind.options.offered().items(), key=lambda item: PANELS.index(item[1][1].panel))
    offered = [parameter(name, default, about) for name, (default, about) in by_panel if about.panel != RUN]
    last = [parameter(name, default, about) for name, (default, about) in by_panel if about.panel == RUN]
    folder = [_parameter("run", Path("runs", kind.name), Run), _parameter("resume", False, Resume)]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    train.__signature__ = inspect.Signature([context, *offered, *folder, *last])  # type: ignore[attr-defined]
    train.__annotations__ = {}
    train.__doc__ = escape(kind.help)
    return train


def parameter(name: str, default: Any, about: About) -> inspect.Parameter:
    """An option of `Options` as an argument that typer understands."""
    shown: dict[str, Any] = {"help": about.help, "rich_help_panel": about.panel}
    kind: Any = type(default)
    if kind is bool:
        return _parameter(name, default, Annotated[bool, typer.Option(*about.flags.split(), **shown)])
    if about.default:  # a file, none by default
        kind, default = Path | None, None
        shown |= {"metavar": "FILE", "show_default": about.default}
    elif about.choices:
        make: Any = StrEnum  # mypy knows classes of a fixed name only
        kind = make(name, {choice.upper(): choice for choice in about.choices})
        default = kind(default)
        shown |= {"metavar": "NAME"}
    elif kind is str:
        shown |= {"metavar": "NAME", "callback": _checked(about)}
    else:
        shown |= {"metavar": "N" if kind is int else "X", "min": about.least, "max": about.most}
    return _parameter(name, default, Annotated[kind, typer.Option(f"--{name.replace('_', '-')}", **shown)])


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _checked(about: About) -> Callable[[str], str]:
    """A callback of typer that raises what `about.check` says as an error in the form of the command."""

    def check(value: str) -> str:
        try:
            if about.check is not None:
                about.check(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return value

    return check


for _kind in KINDS.values():
    app.command(_kind.name, epilog=f"Example: tinyrnn train {_kind.name} {_kind.example}")(command(_kind))


# -- what they do ------------------------------------------------------------------------------------------------------


def _train(ctx: typer.Context, kind: Kind, given: dict[str, Any]) -> None:
    folder: Path = ctx.params["run"]
    resume: bool = ctx.params["resume"]
    out = console()
    options = _saved_options(ctx, kind, folder, given) if resume else kind.options(**given)
    epochs = given["epochs"] if _is_given(ctx, "epochs") else None
    try:
        check_device(options.device)
    except (ImportError, RuntimeError) as error:
        raise UserError(str(error)) from error
    with out.status("reading the data"):
        try:
            task = kind.build(options)
            trainer = Trainer(task, folder, resume=resume, epochs=epochs)
        except ValueError as error:
            raise UserError(str(error)) from error
    progress = trainer.progress
    if progress.tested is not None:
        out.print(f"The run in {folder} has ended after {progress.epoch} epochs; --epochs can be raised.")
        _conclude(kind, trainer, out)
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
        with stopping(trainer):
            done = trainer.fit()
    finally:
        display.close()
    if not done:
        at = f"batch {progress.position:,} of epoch {progress.epoch + 1}" if not trainer.ended else "the test"
        out.print(f"\nStopped at {at}; all is saved. To go on:")
        out.print(f"  tinyrnn train {kind.name} --run {folder} --resume", soft_wrap=True)
        raise typer.Exit(130)
    out.print()
    _conclude(kind, trainer, out)
    _report(folder, out)


def _report(folder: Path, out: Any) -> None:
    try:
        with out.status("writing the report"):
            place = write_report(folder)
    except MissingExtraError as error:
        out.print(f"No report: {error}; then: tinyrnn explain {folder}", soft_wrap=True)
    else:
        out.print(f"Report: {place}", soft_wrap=True)


def _conclude(kind: Kind, trainer: Trainer, out: Any) -> None:
    tested = trainer.progress.tested or {}
    results = ", ".join(f"{name} {value:.4f}" for name, value in tested.items())
    out.print(f"Test of epoch {trainer.progress.best_epoch}, the best: {results}", style="bold")
    if kind.then:
        out.print(f"Try: {kind.then.format(run=trainer.folder)}", soft_wrap=True)


def _saved_options(ctx: typer.Context, kind: Kind, folder: Path, given: dict[str, Any]) -> Options:
    """The options of the run in `folder`; UserError if it is of another task or the command line gives others."""
    meta = read_run(folder).meta
    if meta["task"] != kind.name:
        raise UserError(f"{folder} is a run of `tinyrnn train {meta['task']}`, not of {kind.name}")
    try:
        options = kind.options(**meta["options"])
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
def stopping(trainer: Trainer) -> Iterator[None]:
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
