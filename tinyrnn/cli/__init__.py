"""The command line: `tinyrnn train`, `predict`, `explain`, `sample`, `flow` and others; `tinyrnn --help` lists them.

What a user got wrong ends in one line on standard error and exit code 1 (2 for the form of the command); Ctrl-C in 130.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from tinyrnn import __version__
from tinyrnn.cli import agreement, cells, check, clipping, explain, flow, train, use
from tinyrnn.cli.show import UserError
from tinyrnn.data import MissingExtraError
from tinyrnn.files import CheckpointError
from tinyrnn.train import TrainingError

app = typer.Typer(
    name="tinyrnn",
    help="Recurrent networks from cells of six lines: train them, use them, check their gradients.",
    epilog='Example: tinyrnn train sentiment, then tinyrnn predict runs/sentiment "what a film!"',
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train.app, name="train")
app.command("predict")(use.predict)
app.command("explain")(explain.explain)
app.command("sample")(use.sample)
app.command("flow")(flow.flow)
app.command("agreement")(agreement.agreement)
app.command("clipping")(clipping.clipping)
app.command("cells")(cells.cells)
app.command("gradcheck")(check.gradcheck)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"tinyrnn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command in `arguments` (by default those of the process) and exit with its code."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return app(None if arguments is None else list(arguments), standalone_mode=False, prog_name="tinyrnn") or 0
    except (UserError, TrainingError, CheckpointError, MissingExtraError) as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        # Errors in the form of the command: click's, whose classes typer took into itself in version 0.25.
        if not hasattr(error, "format_message"):
            raise
        return _usage(error)


def _usage(error: Exception) -> int:
    context, message = getattr(error, "ctx", None), error.format_message()  # type: ignore[attr-defined]
    code = int(getattr(error, "exit_code", 2))
    if type(error).__name__ == "NoArgsIsHelpError":
        if message:
            print(message)
        return code
    where = context.command_path if context is not None else "tinyrnn"
    return _complain(f"{message.rstrip('.')} (see {where} --help)", code)


def _complain(message: str, code: int = 1) -> int:
    print("tinyrnn: error: " + " ".join(message.split()), file=sys.stderr)
    return code
