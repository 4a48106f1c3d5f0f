"""`tinyrnn predict` and `tinyrnn sample`: what a trained run is good for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import typer

from tinyrnn.cli.show import UserError, console
from tinyrnn.files import Checkpoint, CheckpointError
from tinyrnn.train import KINDS, Writer, read_model


def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a run of `tinyrnn train`.")],
    text: Annotated[str, typer.Argument(help="What to judge; - reads it from standard input.")],
) -> None:
    """Say what a trained model makes of a text.

    Of sentiment: a review; is it praise or blame, and how sure is that? Of dates: a date, to be rewritten. Of
    agreement: a sentence up to its verb. Of vowels: a recording, a line a step with its 12 numbers.

    Example: tinyrnn predict runs/sentiment "the movie was long, but I really loved it"
    """
    checkpoint = read_model(run)
    able = [name for name, kind in KINDS.items() if kind.tool is not None]
    if checkpoint.meta["task"] not in able:
        raise UserError(
            f"{run} is a run of `tinyrnn train {checkpoint.meta['task']}`; this needs one of {', '.join(able)}"
        )
    make = KINDS[checkpoint.meta["task"]].tool
    assert make is not None
    tool = _use(make, checkpoint)
    try:
        answer = tool.answer(sys.stdin.read() if text == "-" else text)
    except ValueError as error:
        raise UserError(str(error)) from error
    out = console()
    out.print(answer.text)
    if answer.note:
        out.print(answer.note, style="dim")


def sample(
    run: Annotated[Path, typer.Argument(help="The folder of a run of `tinyrnn train text`.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What to go on from.", show_default="the text's first word")
    ] = None,
    length: Annotated[int, typer.Option(min=1, metavar="N", help="Characters to write.")] = 400,
    temperature: Annotated[
        float, typer.Option(min=0.0, metavar="X", help="0: the likeliest each time; 1: as learned.")
    ] = 0.7,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Decides the draws.")] = 0,
) -> None:
    """Let a model of text write.

    Example: tinyrnn sample runs/text "The class" --length 200
    """
    checkpoint = read_model(run)
    if checkpoint.meta["task"] != "text":
        raise UserError(f"{run} is a run of `tinyrnn train {checkpoint.meta['task']}`; this needs one of text")
    writer = _use(Writer, checkpoint)
    try:
        written = writer.write(prompt, length=length, temperature=temperature, rng=np.random.default_rng(seed))
        for part in written:
            sys.stdout.write(part)
            sys.stdout.flush()
    except ValueError as error:
        raise UserError(str(error)) from error
    sys.stdout.write("\n")


Made = TypeVar("Made")


def _use(make: Callable[[Checkpoint], Made], checkpoint: Checkpoint) -> Made:
    try:
        return make(checkpoint)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path} was made by another version of tinyrnn: {error!r}") from error
