"""`sensitivity`: how long a cell feels one input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core import tape
from tinyrnn._core.tape import Tape, Tensor, abstract
from tinyrnn.autograd import enable_grad, no_grad, recording
from tinyrnn.checks import is_int
from tinyrnn.flow.local import Local, jacobian_of
from tinyrnn.flow.norms import spectral_norms
from tinyrnn.flow.runs import Run, on_host, prepare
from tinyrnn.flow.shares import leaf_like
from tinyrnn.loop import Sequences, States
from tinyrnn.module import Cell
from tinyrnn.ops import broadcast_to
from tinyrnn.plan import Batch, Plan, made_of, plan_recorded
from tinyrnn.plan.record import record
from tinyrnn.plan.step import Step, topological
from tinyrnn.records import Record

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
AT_ONCE = 1 << 23
"""Numbers that a run of directions may hold, about."""


@dataclass(frozen=True, repr=False)
class Sensitivity(Record):
    """d y_t / d x_step for every t."""

    step: int
    jacobians: Array
    """(T, B, H, I) in the cell's dtype; 0 for t < step, and where a row has ended."""

    @cached_property
    def norms(self) -> Floats:
        """Their spectral norms, (T, B): by how much a small change of the input moves the output at most."""
        return spectral_norms(self.jacobians)


class Tangent:
    """A step and its derivative along a direction, as one step: the states, then their tangents.

    A Jacobian-vector product is the gradient of a vector-Jacobian product by its vector, in which it is linear. So the
    tangents of the next states come from two reverses on shapes, and are a step like any other.
    """

    def __init__(self, cell: Cell, widths: tuple[int, ...]) -> None:
        recorded = record(cell, widths)
        step, self.params = recorded.step, recorded.params
        with recording():
            moving = [t for t in dict.fromkeys(step.nexts) if t.requires_grad]
            vectors = [abstract(t.shape, t.dtype, "u", True) for t in moving]
            tangents = [abstract(s.shape, s.dtype, f"d{s.name}", True) for s in step.states]
            _, pulled = Tape(moving).reverse(vectors, [*step.states], True, True)
            pairs = [(g, d) for g, d in zip(pulled, tangents, strict=True) if g is not None and g.requires_grad]
            _, pushed = Tape([g for g, _ in pairs]).reverse([d for _, d in pairs], vectors, True, True)
            found: dict[Tensor, Tensor | None] = dict(zip(moving, pushed, strict=True))
            zero = Tensor(0.0, dtype=cell.dtype)
            along = [broadcast_to(zero, t.shape) if (d := found.get(t)) is None else d for t in step.nexts]
            assert set(vectors).isdisjoint(topological(along))
            self.plan: Plan = plan_recorded(
                cell,
                recorded,
                Step(step.seqs, (*step.states, *tangents), step.params, (*step.nexts, *along), (along[0],)),
            )


@on_host
def sensitivity(
    cell: Cell,
    xs: Sequences,
    state: States = None,
    *,
    step: int = 0,
    lengths: npt.ArrayLike | None = None,
) -> Sensitivity:
    """The exact derivative of every output by one input, d y_t / d x_step, for each row of the batch.

    cell, xs, state, lengths    as `tr.scan` takes them; of several time inputs, the first is x
    step    which of the inputs, in 0..T - 1; by default the first

    The tangents of the states run forwards beside the states, one compiled loop for all I features of x, so the cost is
    that of a run on about 2 · I times the batch. Raises what `tr.scan` raises, and TypeError or ValueError for a step
    that is none of xs.

    This is what Graves (2012) draws as shading over time: it fades in a vanilla network, and in an LSTM it is kept
    behind closed gates until the output gate opens.
    """
    run, local = prepare(cell, xs, state, lengths, Local)
    if not is_int(step):
        raise TypeError(f"step must be an int in 0..{run.steps - 1}, got {step!r}")
    if not 0 <= step < run.steps:
        raise ValueError(f"step must be in 0..{run.steps - 1}, the steps of xs, got {step}")
    before = [tape.wrap(s[step]) for s in local.states(run, step + 1)]
    here = [tape.wrap(x._array[step]) for x in run.inputs]
    with enable_grad():
        x = leaf_like(here[0]._array)
        after = local.run([x, *here[1:]], before)
        moved = jacobian_of(after, [x])  # (B, n, I)
    found = np.zeros((run.steps, run.rows, cell.state_sizes[0], run.widths[0]), cell.dtype)
    going = np.arange(run.rows) if run.ends is None else np.flatnonzero(run.ends > step)
    found[step][going] = moved[going, : cell.state_sizes[0]]
    if step + 1 < run.steps:
        cuts = np.cumsum(cell.state_sizes)[:-1].tolist()
        _run_tangents(cell, run, step + 1, going, [t._array for t in after], np.split(moved, cuts, 1), found)
    return Sensitivity(int(step), found)


def _run_tangents(
    cell: Cell, run: Run, first: int, rows: Array, states: list[Array], tangents: list[Array], found: Array
) -> None:
    """Fill in found[first:] for some rows. states (B, size), tangents (B, size, I): those before step `first`."""
    made = made_of(cell, run.widths, Tangent)
    params = [tape.wrap(p._array) for p in made.params]
    steps, width = run.steps - first, run.widths[0]
    # Each pair of a row and a feature of x is a row of the loop, which holds inputs, states, gates and results of it.
    pairs = np.stack([np.repeat(rows, width), np.tile(np.arange(width), len(rows))], 1)
    each = steps * (sum(run.widths) + 8 * sum(cell.state_sizes))
    stride = max(1, AT_ONCE // each)
    for start in range(0, len(pairs), stride):
        b, k = pairs[start : start + stride].T
        ends = None if run.ends is None else run.ends[b] - first
        batch = Batch(steps, len(b), None if ends is None or (ends == steps).all() else ends, False)
        with no_grad():
            seqs = [batch.pack(tape.wrap(np.ascontiguousarray(x._array[first:, b]))) for x in run.inputs]
            starts = [*(s[b] for s in states), *(np.ascontiguousarray(d[b, :, k]) for d in tangents)]
            emits, _, _ = made.plan.run(seqs, params, batch.sort([*map(tape.wrap, starts)]), batch.layout)
            found[first:, b, :, k] = np.moveaxis(batch.unpack(emits[0])._array, 1, 0)
