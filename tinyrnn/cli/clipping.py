"""`tinyrnn clipping`: what explodes, what vanishes, and what clipping cures."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tinyrnn import files
from tinyrnn.cli.show import Bar, UserError, console
from tinyrnn.data import MissingExtraError
from tinyrnn.experiments.clipping import MEAN_LOSS, MOMENTUM, Findings, Settings, run, work_of
from tinyrnn.experiments.clipping_figure import draw, small_png

DEFAULT = Settings()


class Paper(StrEnum):
    LIGHT = "light"
    DARK = "dark"


def clipping(
    length: Annotated[
        list[int], typer.Option(min=10, metavar="N", help="Steps of the sequences; may be given again.")
    ] = list(DEFAULT.lengths),  # noqa: B006
    updates: Annotated[int, typer.Option(min=1, metavar="N", help="Batches each run learns from.")] = DEFAULT.updates,
    clip: Annotated[float, typer.Option(metavar="X", help="Largest norm of a gradient.")] = DEFAULT.clip,
    gain: Annotated[
        list[float], typer.Option(metavar="X", help="Of an Elman network's recurrent matrix; may be given again.")
    ] = list(DEFAULT.gains),  # noqa: B006
    hidden: Annotated[int, typer.Option(min=1, metavar="N", help="Units of a state.")] = DEFAULT.hidden,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Decides all that is random.")] = DEFAULT.seed,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the picture and the numbers go.")] = Path(
        "runs/clipping"
    ),
    theme: Annotated[Paper, typer.Option(metavar="NAME", help="light or dark paper.")] = Paper.LIGHT,
) -> None:
    """See gradients explode and vanish, and what clipping cures.

    Trains Elman networks of several recurrent gains, an LSTM and a GRU on the adding problem at growing length, with
    and without clipping the norm of the gradient, and prints what became of them. Also writes clipping.json and, if
    matplotlib is installed, clipping.png. Less than two minutes on one core.

    Example: tinyrnn clipping --length 20 --length 60 --clip 1
    """
    try:
        settings = Settings(tuple(length), updates, clip, tuple(gain), hidden, seed=seed)
    except ValueError as error:
        raise UserError(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    screen = console()
    bar = Bar(screen)
    bar.begin("training", work_of(settings))
    try:
        found = run(settings, bar.advance)
    finally:
        bar.close()
    screen.print(table_of(found))
    screen.print(
        f"\nkept: the gradient at the first step over that at the last, before training. "
        f"{MEAN_LOSS:.4f} is the loss of the mean as answer; inf: the numbers overflowed. {settings.updates:,} updates "
        f"of SGD with momentum, clipped at {settings.clip:g}."
    )
    files.write(out / "clipping.json", (json.dumps(as_json(found), indent=1) + "\n").encode())
    try:
        figure, _ = draw(found, theme=theme.value)
    except MissingExtraError as error:
        screen.print(f"In {out}: clipping.json; no picture: {error}", soft_wrap=True)
        return
    files.write(out / "clipping.png", small_png(figure))
    screen.print(f"In {out}: clipping.json, clipping.png", soft_wrap=True)


def table_of(found: Findings) -> Table:
    """A line for each network and length."""
    table = Table(box=None, pad_edge=False)
    table.add_column("\ncell")
    for name in (
        "\nlength",
        "\nkept",
        "largest gradient\nnot clipped",
        "\nclipped",
        "loss at the end\nnot clipped",
        "\nclipped",
    ):
        table.add_column(name, justify="right")
    for net in found.nets:
        for steps in found.settings.lengths:
            norms = found.decays[net.name, steps]
            without, clipped = (found.courses[net.name, steps, which] for which in (False, True))
            table.add_row(
                net.name,
                str(steps),
                f"{norms[-1] / norms[0]:.1g}",
                *(_short(course.largest_norm) for course in (without, clipped)),
                *(f"{course.final_loss:.4f}" for course in (without, clipped)),
            )
    return table


def _short(norm: float) -> str:
    return f"{norm:,.1f}" if norm < 1e5 else f"{norm:.0e}"


def as_json(found: Findings) -> dict[str, Any]:
    """All but the single updates, whose losses and norms come in blocks. What is not finite is null."""
    settings = found.settings
    return {
        "settings": {name: getattr(settings, name) for name in settings.__dataclass_fields__},
        "loss_of_the_mean": MEAN_LOSS,
        "networks": {
            net.name: {
                "cell": net.cell,
                "recurrent_gain": net.gain,
                "learning_rate": net.lr,
                "momentum": MOMENTUM,
                "gradient_by_distance": {
                    str(steps): _numbers(found.decays[net.name, steps]) for steps in settings.lengths
                },
            }
            for net in found.nets
        },
        "runs": [
            {
                "network": course.net.name,
                "length": course.steps,
                "clip": course.clip,
                "stopped_after": len(course.losses) if course.stopped else None,
                "first_norm": _numbers(course.norms[:1])[0],
                "largest_norm": _numbers(np.array([course.largest_norm]))[0],
                "loss_at_the_end": _numbers(np.array([course.final_loss]))[0],
                **dict(
                    zip(("updates", "mean_loss", "largest_norm_of_block"), map(_numbers, course.curves), strict=True)
                ),
            }
            for course in found.courses.values()
        ],
    }


def _numbers(values: Any) -> list[float | None]:
    """Four digits each, which JSON can hold."""
    return [float(f"{value:.4g}") if math.isfinite(value) else None for value in values.tolist()]
