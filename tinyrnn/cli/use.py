"""`tinyrnn predict` and `tinyrnn sample`: what a trained run is good for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import typer

from tinyrnn.cli.show import UserError, console
from tinyrnn.files import Checkpoint, CheckpointError
from tinyrnn.train import Critic, Writer, read_model


def predict(
    run: Annotated[Path, typer.Argument(help="The folder of a run of `tinyrnn train sentiment`.")],
    text: Annotated[str, typer.Argument(help="What to judge; - reads it from standard input.")],
) -> None:
    """Say whether a text is praise or blame, and how sure that is.

    Example: tinyrnn predict runs/sentiment "the movie was long, but I really loved it"
    """
    if text == "-":
        text = sys.stdin.read()
    critic = _use(Critic, _model(run, "sentiment"))
    try:
        label, probability = critic.judge(text)
    except ValueError as error:
        raise UserError(str(error)) from error
    out = console()
    out.print(f"{label}  {probability:.1%}")
    if unknown := critic.unknown(text):
        out.print(f"not among the words it knows: {', '.join(dict.fromkeys(unknown))}", style="dim")


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
    writer = _use(Writer, _model(run, "text"))
    try:
        written = writer.write(prompt, length=length, temperature=temperature, rng=np.random.default_rng(seed))
        for part in written:
            sys.stdout.write(part)
            sys.stdout.flush()
    except ValueError as error:
        raise UserError(str(error)) from error
    sys.stdout.write("\n")


def _model(run: Path, task: str) -> Checkpoint:
    checkpoint = read_model(run)
    if checkpoint.meta["task"] != task:
        raise UserError(f"{run} is a run of `tinyrnn train {checkpoint.meta['task']}`; this needs one of {task}")
    return checkpoint


Tool = TypeVar("Tool", Critic, Writer)


def _use(kind: type[Tool], checkpoint: Checkpoint) -> Tool:
    try:
        return kind(checkpoint)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path} was made by another version of tinyrnn: {error!r}") from error
