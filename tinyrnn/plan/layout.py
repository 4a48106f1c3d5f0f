"""Which rows of a batch run at which step, and where a sequence keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from tinyrnn._core.kernels import SUM_STEPS
from tinyrnn._core.tape import Tensor
from tinyrnn.ops.arrays import GETITEM, PICK_ROWS, PLACE_ROWS, RESHAPE, TAKE


@dataclass(frozen=True, eq=False)
class Layout:
    """Which rows run at which step.

    ends: steps of each row, longest first; backwards: the last step comes first; cuts: for a number of shards the rows
    at which they begin and end, as a device cut them.
    """

    ends: NDArray[np.int64]
    backwards: bool = False
    cuts: dict[int, list[int]] = field(default_factory=dict)

    @cached_property
    def steps(self) -> int:
        return int(self.ends[0]) if self.ends.size else 0

    @cached_property
    def count(self) -> NDArray[np.int64]:
        """Rows of each step."""
        if self.uniform:
            return np.full(self.steps, self.batch)
        return (self.ends[None, :] > np.arange(self.steps)[:, None]).sum(1)

    @cached_property
    def offset(self) -> NDArray[np.int64]:
        """Where each step's rows begin in a sequence."""
        return np.concatenate([[0], np.cumsum(self.count)[:-1]]).astype(np.int64)

    @cached_property
    def batch(self) -> int:
        return self.ends.size

    @cached_property
    def uniform(self) -> bool:
        return not self.ends.size or bool(self.ends[0] == self.ends[-1])

    @cached_property
    def rows(self) -> int:
        """Rows of all steps together."""
        return int(self.ends.sum())

    @cached_property
    def mean_rows(self) -> float:
        """Rows of a step, on average."""
        return self.rows / max(self.steps, 1)

    @cached_property
    def partial(self) -> int:
        """Rows of a sum over steps as the loop makes it: one for each row that runs and each block of SUM_STEPS."""
        return -(-self.steps // SUM_STEPS) * int(self.count[:1].sum())

    def spread(self, sums: Tensor) -> Tensor:
        """For the rows of all steps those of a sum that they are added to: (partial, ..) -> (rows, ..)."""
        steps = np.repeat(np.arange(self.steps), self.count)
        return TAKE(sums, steps // SUM_STEPS * self.count[:1] + np.arange(self.rows) - self.offset[steps])

    @cached_property
    def reversed(self) -> Layout:
        other = Layout(self.ends, not self.backwards, self.cuts)
        for name in ("steps", "count", "offset", "uniform", "rows", "partial"):
            other.__dict__[name] = getattr(self, name)
        return other

    # A recorded state is one array: the states before the first step, (batch, w), and those after each step, (rows, w),
    # in the order in which the loop makes them. Backwards, the states before the first step come last.

    @cached_property
    def at_first(self) -> slice:
        """Where the states before the first step are, in an array of all of a state's."""
        return slice(self.rows, None) if self.backwards else slice(0, self.batch)

    @cached_property
    def at_after(self) -> slice:
        """Where those after every step are."""
        return slice(0, self.rows) if self.backwards else slice(self.batch, None)

    @cached_property
    def at_before(self) -> slice:
        """Where those before every step are, if the layout is uniform."""
        return slice(self.batch, None) if self.backwards else slice(0, self.rows)

    @cached_property
    def at_last(self) -> slice | NDArray[np.int64]:
        """Where each row's last state is."""
        if self.uniform:
            return slice(0, self.batch) if self.backwards else slice(self.rows, None)
        row = np.arange(self.batch)
        if self.backwards:
            return np.where(self.ends > 0, row, self.rows + row)
        return np.where(self.ends > 0, self.batch + self.offset[np.maximum(self.ends, 1) - 1] + row, row)

    def after(self, states: Tensor) -> Tensor:
        """The states after every step, (rows, w)."""
        return GETITEM(states, self.at_after)

    def initial(self, states: Tensor) -> Tensor:
        """The states before the first step, (batch, w)."""
        return GETITEM(states, self.at_first)

    @cached_property
    def last_of_pair(self) -> NDArray[np.int64]:
        """Where each row's last state is, in the two buffers that took turns, one behind the other."""
        turn = (self.steps if self.backwards else self.ends) % 2
        return turn * self.batch + np.arange(self.batch)

    def before(self, states: Tensor) -> Tensor:
        """The states before every step, (rows, w)."""
        return GETITEM(states, self.at_before) if self.uniform else PICK_ROWS(states, self._before)

    @cached_property
    def _before(self) -> NDArray[np.int64]:
        step = np.repeat(np.arange(self.steps), self.count)
        row = np.arange(self.rows) - self.offset[step]
        if not self.backwards:
            return np.where(step > 0, self.batch + self.offset[step - 1] + row, row)
        going = np.append(self.count[1:], 0)[step]
        return np.where(row < going, self.offset[np.minimum(step + 1, self.steps - 1)] + row, self.rows + row)


@lru_cache(maxsize=64)
def uniform_layout(steps: int, batch: int, backwards: bool) -> Layout:
    """The layout of a batch whose rows all run through all steps."""
    return Layout(np.full(batch, steps), backwards)


class Batch:
    """The rows of a batch over time, as callers hold them, (steps, rows, ..), and as a plan wants them.

    A plan's rows are sorted by length, longest first, and a sequence holds, step after step, the rows that still run.
    ends: steps of each row, in any order; None: all of them.
    """

    def __init__(self, steps: int, rows: int, ends: NDArray[np.int64] | None, backwards: bool = False) -> None:
        self.steps, self.rows = steps, rows
        self.order: NDArray[np.int64] | None = None
        if ends is None:
            self.layout = uniform_layout(steps, rows, backwards)
            return
        self.order = np.argsort(-ends, kind="stable")
        self.layout = Layout(ends[self.order], backwards)
        going = [t * rows + self.order[:n] for t, n in enumerate(self.layout.count.tolist())]
        self.read = np.concatenate([*going, np.zeros(0, np.int64)])

    def pack(self, x: Tensor) -> Tensor:
        """(steps, rows, ..) -> (rows of all steps, ..)."""
        flat = RESHAPE(x, (self.steps * self.rows, *x.shape[2:]))
        return flat if self.order is None else PICK_ROWS(flat, self.read)

    def unpack(self, y: Tensor) -> Tensor:
        """(rows of all steps, ..) -> (steps, rows, ..), 0 where a row has ended."""
        if self.order is None:
            return RESHAPE(y, (self.steps, self.rows, *y.shape[1:]))
        flat = PLACE_ROWS(y, self.read, (self.steps * self.rows, *y.shape[1:]))
        return RESHAPE(flat, (self.steps, self.rows, *y.shape[1:]))

    def sort(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """States (rows, ..) in the plan's order."""
        return states if self.order is None else [PICK_ROWS(s, self.order) for s in states]

    def unsort(self, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """States in the caller's order."""
        return tuple(states if self.order is None else [PICK_ROWS(s, self._place) for s in states])

    @cached_property
    def _place(self) -> NDArray[np.int64]:
        """Where the plan has each row."""
        assert self.order is not None
        return np.argsort(self.order)


def batch_of(steps: int, rows: int, ends: NDArray[np.int64] | None) -> Batch:
    """A batch that runs forwards."""
    return _whole_batch(steps, rows) if ends is None else Batch(steps, rows, ends)


@lru_cache(maxsize=64)
def _whole_batch(steps: int, rows: int) -> Batch:
    return Batch(steps, rows, None)
