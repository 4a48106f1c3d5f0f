"""`tinyrnn flow`: how far back gradients reach, in pictures and as a table."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tinyrnn import files
from tinyrnn.cells import by_name
from tinyrnn.cli.show import Bar, UserError, console
from tinyrnn.plots import fading, preservation
from tinyrnn.plots.style import matplotlib
from tinyrnn.report.comparison import CELLS, Comparison, compare


class Paper(StrEnum):
    LIGHT = "light"
    DARK = "dark"


def flow(
    cell: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CELL]...", help="Cells by name, as LSTM.", show_default=", ".join(CELLS)),
    ] = None,
    steps: Annotated[int, typer.Option(min=10, metavar="N", help="Length of the sequences.")] = 60,
    hidden: Annotated[int, typer.Option(min=1, metavar="N", help="Units of a state.")] = 32,
    training: Annotated[int, typer.Option(min=0, metavar="N", help="Training steps of each cell; 0: none.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Decides all that is random.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the pictures go.")] = Path("runs/flow"),
    theme: Annotated[Paper, typer.Option(metavar="NAME", help="light or dark paper.")] = Paper.LIGHT,
) -> None:
    """Compare cells by how far back their gradients reach.

    The gradient of a cell's answer in the adding problem, by its distance from the last step: in a cell as it is made,
    with the gates of its memory set to keep, and after training. Also draws the lectures' two figures: the first input
    fading in a vanilla RNN, and kept in an LSTM whose gates are opened and closed. Writes PNG, SVG and the numbers
    as JSON. Needs matplotlib, which the extra plots brings.

    Example: tinyrnn flow LSTM GRU --steps 100
    """
    matplotlib()
    names = [_known(name) for name in cell or CELLS]
    if len(set(names)) < len(names):
        raise UserError(f"each cell must be given once, got {', '.join(names)}")
    console_ = console()
    bar = Bar(console_)
    bar.begin("training", len(names) * training)
    try:
        figure, found = compare(
            names, steps=steps, hidden=hidden, training=training, seed=seed, theme=theme.value, progress=bar.advance
        )
    finally:
        bar.close()
    figures = {
        "comparison": figure,
        "fading": fading(theme=theme.value)[0],
        "preservation": preservation(theme=theme.value)[0],
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, drawn in figures.items():
        for kind in ("png", "svg"):
            drawn.savefig(out / f"{name}.{kind}", dpi=150, facecolor=drawn.get_facecolor())
    files.write(out / "comparison.json", (json.dumps(_numbers(found), indent=1) + "\n").encode())
    console_.print(_table(found))
    console_.print(
        f"\nThe gradient's norm at distance {steps - 1}, of that at distance 0."
        + (" Loss: of the adding problem; 0.0417 is what the mean as answer has." if training else "")
    )
    console_.print(f"In {out}: {', '.join(f'{name}.png, .svg' for name in figures)}, comparison.json", soft_wrap=True)


def _known(name: str) -> str:
    try:
        kind = by_name(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    assert isinstance(kind, type)
    return kind.__name__


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("cell")
    for name in ("parameters", *found.distance.norms, *(["loss"] if found.losses else [])):
        table.add_column(name, justify="right")
    for name, count in found.parameters.items():
        ends = [f"{of[name][-1]:.1e}" for of in found.distance.relative.values()]
        table.add_row(name, f"{count:,}", *ends, *([f"{found.losses[name]:.4f}"] if found.losses else []))
    return table


def _numbers(found: Comparison) -> dict[str, Any]:
    norms = {
        panel: {name: values.tolist() for name, values in of.items()} for panel, of in found.distance.norms.items()
    }
    return {
        "distances": found.distance.distances.tolist(),
        "norms": norms,
        "parameters": found.parameters,
        "losses": found.losses,
    }
