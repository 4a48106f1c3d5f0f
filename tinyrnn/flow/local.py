"""One step by itself, at many places of a sequence at once.

The steps of a run do not wait for one another once the states between them are known. So a step's derivatives at all
times are those of one step on the rows of all times, by vector-Jacobian products, one for each element of its results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core import tape
from tinyrnn._core.tape import Tensor
from tinyrnn.autograd import grad, no_grad
from tinyrnn.checks import is_int
from tinyrnn.flow.runs import Run
from tinyrnn.module import Cell
from tinyrnn.plan import Batch, Plan, plan_recorded
from tinyrnn.plan.record import Recording, record
from tinyrnn.plan.step import Step, replay

Array = npt.NDArray[Any]
ROWS_AT_ONCE = 1024
"""Rows whose derivatives are taken together, about: enough to keep a product busy, and they fit the cache."""


class Local:
    """The recorded step of a cell, and the plan that gives all its states as sequences."""

    def __init__(self, cell: Cell, widths: tuple[int, ...]) -> None:
        self.recorded: Recording = record(cell, widths, probed=True)
        self.step = step = self.recorded.step
        self.plan: Plan = plan_recorded(
            cell, self.recorded, Step(step.seqs, step.states, step.params, step.nexts, tuple(dict.fromkeys(step.nexts)))
        )

    def known(self, inputs: Sequence[Tensor], states: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """What the step starts from: its leaves, and tensors in their place."""
        params = [tape.wrap(p._array) for p in self.recorded.params]
        leaves = (*self.step.seqs, *self.step.states, *self.step.params)
        return dict(zip(leaves, (*inputs, *states, *params), strict=True))

    def run(self, inputs: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
        """The next states of rows, whatever times they come from."""
        return replay(self.step.nexts, self.known(inputs, states), states[0].shape[0])

    def states(self, run: Run, last: int) -> list[Array]:
        """The states before steps 0..last - 1, (last, B, size) each; after a row's end, zeros."""
        ends = None if run.ends is None else np.minimum(run.ends, last)
        batch = Batch(last, run.rows, ends, False)
        with no_grad():
            seqs = [batch.pack(tape.wrap(x._array[:last])) for x in run.inputs]
            params = [tape.wrap(p._array) for p in self.recorded.params]
            emits, _, _ = self.plan.run(seqs, params, batch.sort(run.states), batch.layout)
            after = dict(zip(dict.fromkeys(self.step.nexts), emits, strict=True))
            found = []
            for first, new in zip(run.states, self.step.nexts, strict=True):
                whole = np.empty((last, *first.shape), first.dtype)
                whole[0] = first._array
                whole[1:] = batch.unpack(after[new])._array[: last - 1]
                found.append(whole)
        return found


def stretches(first: int, last: int, rows: int) -> Iterator[slice]:
    """Steps first..last - 1, as many at a time as give about ROWS_AT_ONCE rows."""
    stride = max(1, ROWS_AT_ONCE // rows)
    for start in range(first, last, stride):
        yield slice(start, min(start + stride, last))


def jacobian_of(results: Sequence[Tensor], leaves: Sequence[Tensor]) -> Array:
    """d results / d leaves row by row, (rows, the results' columns, the leaves' columns): all (rows, columns)."""
    rows = leaves[0].shape[0]
    across = np.cumsum([0, *(t.shape[1] for t in leaves)])
    down = np.cumsum([0, *(t.shape[1] for t in results)])
    found = np.zeros((rows, down[-1], across[-1]), leaves[0].dtype)
    for result, top in zip(results, down, strict=False):
        if not result.requires_grad:
            continue
        for k in range(result.shape[1]):
            unit = np.zeros(result.shape, result.dtype)
            unit[:, k] = 1
            got = grad(result, leaves, tape.wrap(unit), retain_graph=True, allow_unused=True)
            for g, left in zip(got, across, strict=False):
                if g is not None:
                    found[:, top + k, left : left + g.shape[1]] = g._array
    return found


def as_range(run: Run, from_step: int, to_step: int | None) -> tuple[int, int]:
    """from_step and to_step as 0 <= from < to <= T."""
    for name, value in (("from_step", from_step), ("to_step", to_step)):
        if not is_int(value) and not (value is None and name == "to_step"):
            raise TypeError(f"{name} must be an int in 0..{run.steps}, got {value!r}")
    last = run.steps if to_step is None else int(to_step)
    if not 0 <= from_step < last <= run.steps:
        raise ValueError(
            f"from_step and to_step must be 0 <= from_step < to_step <= {run.steps}, the steps of xs, got {from_step} "
            f"and {last}"
        )
    return int(from_step), last


def ended(run: Run, first: int, last: int) -> Array | None:
    """Where rows have ended at steps first..last - 1, (last - first, B); None if none has."""
    if run.ends is None or (run.ends >= last).all():
        return None
    return np.arange(first, last)[:, None] >= run.ends
