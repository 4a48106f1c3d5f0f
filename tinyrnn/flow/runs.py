"""What all measures do with their arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.loop import Sequences, States, check_arguments, draws
from tinyrnn.module import Cell
from tinyrnn.plan import Batch, made_of

Array = npt.NDArray[Any]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Run:
    """What a cell is run on: time inputs (T, B, ..), first the caller's, `own` many, and first states (B, size)."""

    inputs: tuple[Tensor, ...]
    own: int
    states: tuple[Tensor, ...]
    ends: npt.NDArray[np.int64] | None
    steps: int
    rows: int

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(x.shape[2] for x in self.inputs)


def prepare(
    cell: Cell,
    xs: Sequences,
    state: States,
    lengths: npt.ArrayLike | None,
    make: Callable[[Cell, tuple[int, ...]], Made],
) -> tuple[Run, Made]:
    """The arguments of a measure, checked as `scan` checks them, and what `make` makes of the step, remembered.

    No measure is for no steps or no rows. What fails leaves the cell's random generators where they were.
    """
    inputs, states, ends = check_arguments(cell, xs, state, lengths, False)
    steps, rows = inputs[0].shape[:2]
    if not steps or not rows:
        raise ValueError(f"xs must have one step and one row or more, got shape {inputs[0].shape}")
    with draws(cell, len(inputs), steps, rows) as more:
        run = Run((*inputs, *more), len(inputs), states, ends, steps, rows)
        return run, made_of(cell, run.widths, make)


def over_time(batch: Batch, rows: Array) -> Array:
    """(rows of all steps, ..) -> (T, B, ..), 0 where a row has ended; a view if none has."""
    if batch.order is None:
        return rows.reshape(batch.steps, batch.rows, *rows.shape[1:])
    whole = np.zeros((batch.steps * batch.rows, *rows.shape[1:]), rows.dtype)
    whole[batch.read] = rows
    return whole.reshape(batch.steps, batch.rows, *rows.shape[1:])
