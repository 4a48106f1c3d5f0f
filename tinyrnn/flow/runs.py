"""What all measures do with their arguments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.loop import Sequences, States, check_arguments, draws
from tinyrnn.module import Cell
from tinyrnn.plan import Batch, made_of

Array = npt.NDArray[Any]
Made = TypeVar("Made")
Measure = TypeVar("Measure", bound=Callable[..., Any])


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


def on_host(measure: Measure) -> Measure:
    """A measure for cells of any device: of one elsewhere it takes a copy, and with it what the cell runs on."""

    @wraps(measure)
    def measured(cell: Cell, xs: Sequences, *args: Any, **options: Any) -> Any:
        if not isinstance(cell, Cell) or cell.device == "cpu":
            return measure(cell, xs, *args, **options)
        near = copy.deepcopy(cell).to("cpu")
        try:
            return measure(near, _near(xs), *map(_near, args), **{k: _near(value) for k, value in options.items()})
        finally:  # what was drawn is drawn
            for (_, rng), (_, copied) in zip(cell.named_generators(), near.named_generators(), strict=True):
                rng.bit_generator.state = copied.bit_generator.state

    return cast(Measure, measured)


def _near(value: Any) -> Any:
    """A tensor, or several, on the host; anything else as it is."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu")
    return type(value)(map(_near, value)) if isinstance(value, tuple | list) else value


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
