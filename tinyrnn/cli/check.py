"""`tinyrnn gradcheck`: the cells' gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tinyrnn import cells
from tinyrnn._core.tape import Tensor
from tinyrnn.cli.show import UserError, console
from tinyrnn.findiff import GradcheckReport
from tinyrnn.findiff import gradcheck as compare
from tinyrnn.loop import unroll as sequence
from tinyrnn.module import Cell, Module

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {"GRU": ({"reset": "after"}, {"flipped": True})}
"""Options of a cell that make another set of equations of it."""


class _Pass(Module):
    """A ragged batch through a cell, once forwards and once reversed."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, xs: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        lengths = np.array([4, 1, 3])
        ys, final = sequence(self.cell, xs, state, lengths=lengths)
        back, _ = sequence(self.cell, xs, state, lengths=lengths, reverse=True)
        return ys, *final, back


def gradcheck(
    cell: Annotated[str, typer.Argument(help="A cell by its name, as LSTM.", show_default="all cells")] = "",
    order: Annotated[int, typer.Option(min=1, max=2, metavar="N", help="2: second derivatives too.")] = 1,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Decides the weights and inputs.")] = 0,
) -> None:
    """Check the cells' gradients by finite differences.

    Each runs over a batch of sequences of lengths 4, 1 and 3, in both directions, in float64; the gradient of every
    parameter, of the inputs and of the first states is compared. Exit code 1 if one is wrong.

    Example: tinyrnn gradcheck LSTM
    """
    found = {name: make for name, make in _cells() if cell.lower() in ("", name.lower(), name.split(",")[0].lower())}
    if not found:
        known = dict.fromkeys(name.split(",")[0] for name, _ in _cells())
        raise UserError(f"there is no cell {cell!r}; there are {', '.join(known)}")
    out = console()
    reports: dict[str, GradcheckReport] = {}
    with out.status("comparing"):
        for name, make in found.items():
            reports[name] = _check(make, order, seed)
    out.print(_summary(reports) if not cell else _detail(reports))
    if not all(reports.values()):
        raise typer.Exit(1)


def _cells() -> Iterator[tuple[str, Callable[..., Cell]]]:
    for name in cells.names():
        yield name, cells.by_name(name)
        for options in VARIANTS.get(name, ()):
            yield f"{name}, {', '.join(f'{k}={v}' for k, v in options.items())}", cells.by_name(name, **options)


def _check(make: Callable[..., Cell], order: int, seed: int) -> GradcheckReport:
    rng = np.random.default_rng(seed)
    cell = make(2, 3, dtype="float64", rng=rng)
    inputs = [Tensor(rng.normal(size=(4, 3, 2)), dtype="float64")]
    inputs[0].name = "xs"
    for name, size in zip(cell.states, cell.state_sizes, strict=True):
        inputs.append(Tensor(rng.normal(size=(3, size)), dtype="float64"))
        inputs[-1].name = name
    return compare(_Pass(cell), tuple(inputs), order=order, raise_exception=False)


def _summary(reports: dict[str, GradcheckReport]) -> Table:
    table = _table("cell", "gradients", "worst", "abs error", "rel error", "")
    for name, report in reports.items():
        worst = report.worst
        if worst is None:
            table.add_row(name, "", report.problem, "", "", "WRONG")
        else:
            table.add_row(
                name,
                str(len(report.rows)),
                worst.name.removeprefix("cell."),
                f"{max(row.max_abs_error for row in report.rows):.1e}",
                f"{max(row.max_rel_error for row in report.rows):.1e}",
                "ok" if report else "WRONG",
            )
    return table


def _detail(reports: dict[str, GradcheckReport]) -> Table:
    table = _table("cell", "gradient by", "shape", "order", "abs error", "rel error", "")
    for name, report in reports.items():
        for k, row in enumerate(report.rows):
            table.add_row(
                name if k == 0 else "",
                row.name.removeprefix("cell."),
                str(row.shape),
                str(row.order),
                f"{row.max_abs_error:.1e}",
                f"{row.max_rel_error:.1e}",
                "ok" if row.ok else "WRONG",
                end_section=k == len(report.rows) - 1,
            )
        if report.problem:
            table.add_row(name, report.problem, "", "", "", "", "WRONG")
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column.endswith("error") else "left")
    return table
