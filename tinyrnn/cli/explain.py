"""`tinyrnn explain`: a trained run as one HTML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tinyrnn.cli.show import UserError, console
from tinyrnn.report import write_report


def explain(
    run: Annotated[Path, typer.Argument(help="The folder of a run of `tinyrnn train`.")],
    text: Annotated[
        str | None, typer.Argument(help="A review, for a run of sentiment; - reads it from standard input.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write.", show_default="report.html in the run folder"),
    ] = None,
) -> None:
    """Write a report on a trained run: one HTML file that needs no network.

    Of sentiment: what the model says of a review, and word by word what its gates let through, what its states hold
    and how much of the gradient reaches them. Of any run: its curves, and what the monitors saw. Needs matplotlib,
    which the extra plots brings.

    Example: tinyrnn explain runs/sentiment "the movie was long, but I really loved it"
    """
    try:
        place = write_report(run, sys.stdin.read() if text == "-" else text, out)
    except ValueError as error:
        raise UserError(str(error)) from error
    console().print(f"Report: {place}", soft_wrap=True)
