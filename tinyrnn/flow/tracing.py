"""`trace`: what flows backwards through a cell, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyrnn._core import tape
from tinyrnn._core.tape import Op, Tensor
from tinyrnn.autograd import enable_grad, grad
from tinyrnn.checks import type_name
from tinyrnn.flow.norms import row_norms
from tinyrnn.flow.observed import Observed
from tinyrnn.flow.runs import Run, on_host, over_time, prepare
from tinyrnn.flow.shares import Shares, leaf_like
from tinyrnn.loop import Sequences, States
from tinyrnn.module import Cell
from tinyrnn.plan import Batch
from tinyrnn.records import Record

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
LossFn: TypeAlias = Callable[[Tensor, tuple[Tensor, ...]], Tensor]


class Signal:
    """A value at every step, and dL/d(value) there; zeros where a row has ended (but for the values of inputs)."""

    def __init__(self, values: Array, gradients: Array, batch: Batch | None = None) -> None:
        """values, gradients: as below; or with a batch, the rows of all steps, put in order when they are asked for."""
        self._values, self._gradients, self._batch = values, gradients, batch

    @cached_property
    def values(self) -> Array:
        """(T, B, width), in the cell's dtype, or (T, B, ..) for rows of more axes; (B, width) for first states."""
        return self._ordered(self._values)

    @cached_property
    def gradients(self) -> Array:
        """dL/d(value), of the same shape."""
        return self._ordered(self._gradients)

    @cached_property
    def norms(self) -> Floats:
        """The Euclidean norm of each row's gradient, (T, B) or (B,)."""
        given = self._gradients
        if self._batch is None:
            return row_norms(given)
        return over_time(self._batch, row_norms(given.reshape(len(given), math.prod(given.shape[1:]))))

    def _ordered(self, rows: Array) -> Array:
        if self._batch is None:
            return rows
        whole = over_time(self._batch, rows)
        return whole[..., None] if whole.ndim == 2 else whole

    def __repr__(self) -> str:
        return f"Signal{self.values.shape}"


@dataclass(frozen=True, repr=False)
class Contribution(Record):
    """What each step adds to a parameter's gradient, summed over the rows that run at it."""

    norms: Floats
    """The Frobenius norm of each step's part, (T,)."""
    parts: Array | None = None
    """The parts, (T, *shape), which sum to dL/d(parameter); None unless trace was asked for them."""


@dataclass(frozen=True, repr=False)
class Trace(Record):
    """What `trace` measured; step t stands at position t of xs, also where rows ran in reverse."""

    loss: float
    lengths: npt.NDArray[np.int64]
    """Steps of each row, (B,)."""
    states: dict[str, Signal]
    """Each state as a step leaves it."""
    probes: dict[str, Signal]
    """What the step names with `tr.probe`; name_2, name_3, .. for the others of one name."""
    inputs: tuple[Signal, ...]
    """The time inputs."""
    first: dict[str, Signal]
    """The states before the first step, (B, width)."""
    parameters: dict[str, Contribution]
    """The parameters that require a gradient, by the names of `named_parameters`."""


@on_host
def trace(
    cell: Cell,
    xs: Sequences,
    loss_fn: LossFn,
    state: States = None,
    *,
    lengths: npt.ArrayLike | None = None,
    reverse: bool = False,
    parts: bool = False,
) -> Trace:
    """Run a cell forwards and backwards once, and keep what reaches every step: values and gradients.

    cell, xs, state, lengths, reverse    as `tr.scan` takes them
    loss_fn    (ys (T, B, H), the final states (B, size) each) -> the loss, a Tensor of one element
    parts      keep each step's part of each parameter's gradient, T times the memory of the parameters

    The gradient of a value counts every way from it to the loss: by what reads it in its own step, as h' = o * tanh(c')
    reads c', by later steps, and by the loss itself. A state that a step passes on as it came counts as a new value.
    A parameter's parts are the terms of backpropagation through time, and sum to its gradient by way of the steps
    (parameters that make the first states get theirs before any step, by `first`).

    It is one pass of the compiled loop, for any cell that `tr.scan` can run; a value probed without rows, made of
    parameters alone, is left out. No `.grad` is touched, and a no_grad block around makes no difference. Raises what
    `tr.scan` raises, TypeError or ValueError that names the argument, and ValueError for a loss that depends on neither
    ys nor states.
    """
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of ys and the final states, got {type_name(loss_fn)}")
    run, observed = prepare(cell, xs, state, lengths, Observed)
    batch = Batch(run.steps, run.rows, run.ends, bool(reverse))
    with enable_grad(), np.errstate(all="ignore"):  # gradients may explode
        found = _there_and_back(observed, run, batch, loss_fn)
        learned = {name: p for name, p in cell.named_parameters() if p.requires_grad}
        shares = Shares(observed, found.values, found.of_nudges, batch).of(learned, parts)

    def signal(emit: int, nudge: int) -> Signal:
        return Signal(found.values[emit], found.of_nudges[nudge], batch)

    return Trace(
        found.loss,
        np.full(run.rows, run.steps) if run.ends is None else run.ends,
        {name: signal(*where) for name, where in zip(cell.states, observed.states, strict=True)},
        {name: signal(*where) for name, where in observed.probes.items()},
        tuple(Signal(x._array, g) for x, g in zip(run.inputs, found.of_inputs, strict=False)),
        {name: Signal(s._array, g) for name, s, g in zip(cell.states, run.states, found.of_first, strict=True)},
        {name: Contribution(*share) for name, share in shares.items()},
    )


@dataclass(frozen=True)
class _Found:
    """The loss; the plan's emits; the gradients of the caller's time inputs, of the first states, of the nudges."""

    loss: float
    values: list[Array]
    of_inputs: list[Array]
    of_first: list[Array]
    of_nudges: list[Array]


def _there_and_back(observed: Observed, run: Run, batch: Batch, loss_fn: LossFn) -> _Found:
    inputs = [leaf_like(x._array) for x in run.inputs]
    first = [leaf_like(s._array) for s in run.states]
    root = leaf_like(np.zeros((), first[0].dtype))
    boxes: list[list[Tensor]] = [[] for _ in observed.nudges]
    shapes = [(batch.layout.rows, *shape) for shape in observed.nudges]
    nudges = [NUDGE(root, shape, box) for shape, box in zip(shapes, boxes, strict=True)]
    params = [tape.wrap(p._array) for p in observed.params]
    seqs = [*map(batch.pack, inputs), *nudges]
    emits, _, finals = observed.plan.run(seqs, params, batch.sort(first), batch.layout)
    values = [t._array for t in emits]
    ys = batch.unpack(emits[observed.states[0][0]])
    loss = loss_fn(ys, batch.unsort(finals))
    if not isinstance(loss, Tensor) or loss.size != 1:
        got = f"one of shape {loss.shape}" if isinstance(loss, Tensor) else type_name(loss)
        raise ValueError(f"loss_fn must return a Tensor of one element, got {got}")
    wanted = [*inputs[: run.own], *first]
    found: list[Tensor | None] = [None] * len(wanted)
    if loss.requires_grad:
        found = list(grad(loss, [*wanted, root], allow_unused=True)[:-1])
    found += [box[0] if box else None for box in boxes]
    if all(g is None for g in found):
        raise ValueError("loss_fn must return what depends on ys or on the final states, got a Tensor that does not")
    arrays = [
        np.zeros(t.shape, t.dtype) if g is None else g._array for t, g in zip((*wanted, *nudges), found, strict=True)
    ]
    ahead = run.own + len(first)
    return _Found(loss.item(), values, arrays[: run.own], arrays[run.own : ahead], arrays[ahead:])


def _nudge(root: Array, shape: tuple[int, ...], box: list[Tensor]) -> Array:
    return np.broadcast_to(np.zeros((1, *shape[1:]), root.dtype), shape)


def _put_down(g: Tensor, y: Tensor, root: Tensor, shape: tuple[int, ...], box: list[Tensor]) -> None:
    box.append(g)


NUDGE = Op("nudge", 1, (_put_down,), forward=_nudge, shape=lambda root, shape, box: shape)
"""Zeros, one row of memory for all rows, that put the gradient which arrives at them into a box, as it is: a leaf's
gradient would be copied."""
