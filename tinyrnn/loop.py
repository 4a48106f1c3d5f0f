"""The loop over time: `unroll` runs a cell step by step on the tape, `scan` compiles it and must equal `unroll`.

Notation: T steps, B rows (examples), I the width of the input, H that of the first state, which is the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyrnn import ops
from tinyrnn._core import tape
from tinyrnn._core.tape import Tensor, wrap
from tinyrnn.backend import to_host
from tinyrnn.checks import as_array, as_size, check_place, put_back, type_name
from tinyrnn.module import Cell, listening
from tinyrnn.plan import Batch, Layout, Plan, batch_of, checkpoint, plan_of

Array = npt.NDArray[Any]
Sequences: TypeAlias = Tensor | Array | tuple[Tensor | Array, ...]
States: TypeAlias = Tensor | Array | Sequence[Tensor | Array] | None


def unroll(
    cell: Cell,
    xs: Sequences,
    state: States = None,
    *,
    lengths: npt.ArrayLike | None = None,
    reverse: bool = False,
    check_finite: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run a cell over time, op by op on the tape: (ys (T, B, H), the final states (B, size) each).

    xs       (T, B, I), a Tensor of the cell's dtype and on its device, or an array, which is moved there; or a tuple of
             such for a cell with several time inputs: step(x1, x2, .., *state). The first is of the cell's input_size.
    state    the states before the first step, (B, size) each: a tuple, or one Tensor for a cell of one state;
             None: cell.initial_state(B).
    lengths  (B,) ints in 0..T, in any order: row b is a sequence of lengths[b] steps. After its end its state stays
             and its outputs are 0; what xs holds there is never read, and its gradient is 0. None: T for all.
    reverse  run every row from its own last step to its first; outputs stand at the positions of their inputs.
    check_finite  raise ValueError for the first NaN or infinity in xs, as far as it is read, and in state: it names the
             time, the row and the feature.

    The rows of a batch with lengths are run longest first, and each step, and its probes, see only those that go on.
    Raises TypeError or ValueError that names the argument, what it got and what it needs; the check of the arguments
    comes before the first step, and leaves the cell's random generator where it was. There may be no steps (the final
    states are the first ones) and no rows.
    """
    inputs, states, ends = check_arguments(cell, xs, state, lengths, check_finite)
    steps, rows = inputs[0].shape[:2]
    with draws(cell, len(inputs), steps, rows) as more:
        inputs += more
    if steps == 0:
        return wrap(np.zeros((0, rows, cell.state_sizes[0]), cell.dtype), states[0]), states
    if ends is None:
        return _whole(cell, inputs, states, reverse)
    return _ragged(cell, inputs, states, ends, reverse)


def _whole(
    cell: Cell, inputs: tuple[Tensor, ...], states: tuple[Tensor, ...], reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    ys = []
    steps = range(inputs[0].shape[0])
    for t in reversed(steps) if reverse else steps:
        states = take_step(cell, [x[t] for x in inputs], states)
        ys.append(states[0])
    return ops.stack(ys[::-1] if reverse else ys), states


def _ragged(
    cell: Cell, inputs: tuple[Tensor, ...], states: tuple[Tensor, ...], ends: npt.NDArray[np.int64], reverse: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Rows sorted by length, longest first, so that those still running at a step are the first `going[s]` ones."""
    steps, rows = inputs[0].shape[:2]
    order = np.argsort(-ends, kind="stable")
    going = [int((ends > s).sum()) for s in range(ends.max())]
    # What each step reads, one block a step, as positions in the (steps * rows) sequence laid flat.
    times = [ends[order[:n]] - 1 - s if reverse else s for s, n in enumerate(going)]
    reads = [t * rows + order[:n] for t, n in zip(times, going, strict=True)]
    read = np.concatenate([*reads, np.zeros(0, np.int64)])
    packed = [ops.take(ops.reshape(x, (steps * rows, x.shape[2])), read) for x in inputs]

    states = tuple(ops.take(s, order) for s in states)
    outputs, ended, at = [], [], 0
    for n in going:
        if n < states[0].shape[0]:
            ended.append([s[n:] for s in states])
            states = tuple(s[:n] for s in states)
        states = take_step(cell, [x[at : at + n] for x in packed], states)
        outputs.append(states[0])
        at += n

    # Put the rows back: each output to its (time, row), all others to a row of zeros behind the last.
    final = [ops.concat([s, *(e[k] for e in reversed(ended))]) for k, s in enumerate(states)]
    back = np.full(steps * rows, at)
    back[read] = np.arange(at)
    zero = wrap(np.zeros((1, cell.state_sizes[0]), cell.dtype), states[0])
    ys = ops.take(ops.concat([*outputs, zero]), back.reshape(steps, rows))
    return ys, tuple(ops.take(s, np.argsort(order)) for s in final)


def take_step(cell: Cell, inputs: Sequence[Tensor], states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`cell.step` with its result checked: one Tensor a state, each of the shape and dtype of the one before."""
    got = cell.step(*inputs, *states)
    new = got if isinstance(got, tuple) else (got,)
    if len(new) == len(states):
        for before, after in zip(states, new, strict=True):
            if not isinstance(after, Tensor) or after.shape != before.shape or after.dtype != before.dtype:
                break
        else:
            return new
    raise ValueError(
        f"{type(cell).__name__}.step must return the new states {_tell(cell, states)}, got "
        + (", ".join(_about(s) for s in new) or "nothing")
    )


# -- arguments ---------------------------------------------------------------------------------------------------------


def check_arguments(
    cell: Cell, xs: Sequences, state: States, lengths: npt.ArrayLike | None, check_finite: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], npt.NDArray[np.int64] | None]:
    """The time inputs and the initial states as Tensors of the cell's dtype, and the lengths; raises for what does not
    fit. Draws no random number.
    """
    if not isinstance(cell, Cell):
        hint = "; make one of the class first" if isinstance(cell, type) else ""
        raise TypeError(f"cell must be a tr.Cell, got {cell if isinstance(cell, type) else type_name(cell)}{hint}")
    several = isinstance(xs, tuple)
    given = xs if several else (xs,)
    names = [f"xs[{k}]" for k in range(len(given))] if several else ["xs"]
    if not given:
        raise ValueError("xs must hold one or more time inputs, got an empty tuple")
    device = cell.device
    inputs = tuple([_as_tensor(names[k], x, cell, device, "or a tuple of these") for k, x in enumerate(given)])
    first = inputs[0].shape
    for k, x in enumerate(inputs):
        shape = x.shape
        if len(shape) != 3:
            raise ValueError(f"{names[k]} must be (time, batch, features), got shape {shape}")
        if k and shape[:2] != first[:2]:
            raise ValueError(f"{names[k]} must have the time and batch of xs[0], {first[:2]}, got {shape[:2]}")
    if first[2] != cell.input_size:
        raise ValueError(
            f"{names[0]} must be (time, batch, {cell.input_size}), the input_size of this {type(cell).__name__}, got "
            f"shape {first}"
        )
    steps, rows = first[:2]
    ends = check_lengths(lengths, steps, rows)
    states = _check_state(cell, state, rows, device)
    if check_finite:
        for name, x in zip(names, inputs, strict=True):
            check_finite_sequence(name, x, ends)
        check_finite_states("state", cell, states)
    return inputs, states, ends


def draws(cell: Cell, count: int, steps: int, rows: int) -> AbstractContextManager[tuple[Tensor, ...]]:
    """What the cell draws for one run, which its step takes behind `count` time inputs.

    Raises TypeError or ValueError where it does not. What fails, here or in the block, leaves the cell's random
    generators where they were.
    """
    if type(cell).draws is Cell.draws:
        return nullcontext(_fitting(cell, count, steps, rows, ()))
    return _drawing(cell, count, steps, rows)


@contextmanager
def _drawing(cell: Cell, count: int, steps: int, rows: int) -> Iterator[tuple[Tensor, ...]]:
    with put_back(*(rng for _, rng in cell.named_generators())):
        yield _fitting(cell, count, steps, rows, tuple(cell.draws(steps, rows)))


def _fitting(cell: Cell, count: int, steps: int, rows: int, drawn: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The draws, checked, on the cell's device: the generators are the host's, so that a seed gives the same masks."""
    for k, t in enumerate(drawn):
        fits = isinstance(t, Tensor) and t.ndim == 3 and t.shape[:2] == (steps, rows) and t.dtype == cell.dtype
        if not fits:
            raise ValueError(
                f"{type(cell).__name__}.draws({steps}, {rows}) must give tensors ({steps}, {rows}, n) {cell.dtype}, "
                f"got {_about(t)} as number {k}"
            )
    cell._check_count(count, len(drawn))
    return tuple(t.to(cell.device) for t in drawn) if drawn else ()


def check_finite_sequence(name: str, x: Tensor, ends: npt.NDArray[np.int64] | None) -> None:
    """Raise for the first NaN or infinity of a sequence (time, batch, features), within each row's end."""
    values = to_host(x._array)
    wrong = ~np.isfinite(values)
    if ends is not None:
        wrong &= (np.arange(x.shape[0])[:, None] < ends)[:, :, None]
    if wrong.any():
        t, b, k = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name} must be finite (check_finite), got {values[t, b, k]} at time {t}, row {b}, feature {k}"
        )


def check_finite_states(name: str, cell: Cell, states: Sequence[Tensor | Array]) -> None:
    """Raise for the first NaN or infinity of a cell's states (batch, features)."""
    for label, state in zip(cell.states, states, strict=True):
        values = to_host(state._array) if isinstance(state, Tensor) else state
        if not (finite := np.isfinite(values)).all():
            b, k = (int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(
                f"{name}, {label!r}, must be finite (check_finite), got {values[b, k]} at row {b}, feature {k}"
            )


def _check_state(cell: Cell, state: States, rows: int, device: str) -> tuple[Tensor, ...]:
    source = "state"
    if state is None and type(cell).initial_state is Cell.initial_state:
        return cell._zero_states(rows, device)
    if state is None:
        state, source = cell.initial_state(rows), f"{type(cell).__name__}.initial_state({rows})"
    elif not isinstance(state, (Tensor, np.ndarray, tuple, list)):
        raise TypeError(f"state must be a Tensor, a tuple of Tensors or None, got {type_name(state)}")
    given = (state,) if isinstance(state, (Tensor, np.ndarray)) else tuple(state)
    if len(given) != len(cell.states):
        raise ValueError(f"{source} must be {len(cell.states)} tensors, {', '.join(cell.states)}, got {len(given)}")
    states = []
    for name, size, value in zip(cell.states, cell.state_sizes, given, strict=True):
        tensor = _as_tensor(f"{source}, {name!r},", value, cell, device)
        if tensor.shape != (rows, size):
            raise ValueError(f"{source}, {name!r}, must be of shape {(rows, size)}, got {tensor.shape}")
        states.append(tensor)
    return tuple(states)


def check_lengths(lengths: npt.ArrayLike | None, steps: int, rows: int) -> npt.NDArray[np.int64] | None:
    """lengths as an int64 array (rows,) of numbers in 0..steps; None if every row runs through all steps."""
    if lengths is None:
        return None
    ends = as_array("lengths", lengths)
    if ends.shape != (rows,):
        raise ValueError(f"lengths must be of shape ({rows},), one for each row of the batch, got {ends.shape}")
    if ends.dtype.kind not in "iu" and ends.size:
        raise TypeError(f"lengths must be ints, got {ends.dtype}")
    wrong = np.flatnonzero((ends < 0) | (ends > steps))
    if wrong.size:
        raise ValueError(f"lengths must lie in 0..{steps}, the steps of xs, got {ends[wrong[0]]} for row {wrong[0]}")
    return None if (ends == steps).all() else ends.astype(np.int64)


def _as_tensor(name: str, value: Any, cell: Cell, device: str, also: str = "") -> Tensor:
    """A Tensor of the cell's dtype and device as it is, or an array of numbers in that dtype and moved there."""
    if isinstance(value, Tensor):
        if value.dtype != cell.dtype:
            raise TypeError(f"{name} must be {cell.dtype} like the {type(cell).__name__}, got {value.dtype}")
        check_place(name, value, device, type(cell).__name__)
        return value
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a Tensor or an array {also}".rstrip() + f", got {type_name(value)}")
    if value.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of numbers, got {value.dtype}")
    return Tensor(value, dtype=cell.dtype, device=device)


def _tell(cell: Cell, states: Sequence[Tensor]) -> str:
    return ", ".join(f"{name} {_about(s)}" for name, s in zip(cell.states, states, strict=True))


def _about(value: Any) -> str:
    return f"{value.shape} {value.dtype}" if isinstance(value, Tensor) else type_name(value)


# -- the compiled loop -------------------------------------------------------------------------------------------------


def scan(
    cell: Cell,
    xs: Sequences,
    state: States = None,
    *,
    lengths: npt.ArrayLike | None = None,
    reverse: bool = False,
    checkpoint_every: int | None = None,
    check_finite: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`unroll` at the speed of a hand-written kernel: (ys (T, B, H), the final states (B, size) each).

    The step is recorded once, on shapes alone, and becomes a plan: what needs no state is computed for all steps at
    once, the rest by a compiled loop, forwards and, for the gradients, backwards. The plan is made at the first call
    for a cell and kept until one of the cell's attributes is assigned. `tr.explain(cell)` shows it. Without gradients
    what is made of the parameters is kept too, as long as none changes: a sequence may as well come step by step.

    Arguments and results are `unroll`'s, and
    checkpoint_every  keep only the states of about every k-th step for the backward pass and compute the steps between
                      again: memory for T/k states and k steps instead of T steps, to the same bits. Steps are computed
                      again in blocks of 8,192 rows (steps times batch); k is rounded to a multiple of these.

    Raises what `unroll` raises; PlanError (a ValueError) where the step can not be compiled, naming the line;
    TraceError where it asks for a value, as in `if h[0, 0] > 0`. Inside a `tr.probes()` block it runs as `unroll`,
    which probes can watch.
    """
    if listening():
        return unroll(cell, xs, state, lengths=lengths, reverse=reverse, check_finite=check_finite)
    if checkpoint_every is not None:
        as_size("checkpoint_every", checkpoint_every)
    inputs, states, ends = check_arguments(cell, xs, state, lengths, check_finite)
    steps, rows = inputs[0].shape[:2]
    batch = batch_of(steps, rows, ends)
    packed = [*map(batch.pack, inputs)]
    ys, finals = _run_packed(cell, packed, states, batch, bool(reverse), checkpoint_every)
    return batch.unpack(ys), finals


def scan_layer(
    cells: Sequence[Cell],
    xs: Tensor,
    given: Sequence[States],
    ends: npt.NDArray[np.int64] | None,
    merge: Callable[[Sequence[Tensor]], Tensor] | None,
) -> tuple[Tensor | None, list[tuple[Tensor, ...]]]:
    """`scan` of a cell, or of two, the second in reverse, over one input: (merged outputs, final states of each).

    What the directions have in common is done once: the rows of the input are brought into order, and those of the
    merged outputs back. merge: one tensor of one a direction, of any rows; None: the outputs are not wanted.
    """
    if listening():
        runs = [unroll(cell, xs, given[d], lengths=ends, reverse=d == 1) for d, cell in enumerate(cells)]
        return merge([ys for ys, _ in runs]) if merge else None, [final for _, final in runs]
    steps, rows = xs.shape[:2]
    batch = batch_of(steps, rows, ends)
    packed = [batch.pack(xs)]
    runs = []
    for d, cell in enumerate(cells):
        _, states, _ = check_arguments(cell, xs, given[d], None, False)
        runs.append(_run_packed(cell, packed, states, batch, d == 1))
    return batch.unpack(merge([ys for ys, _ in runs])) if merge else None, [final for _, final in runs]


def _run_packed(
    cell: Cell,
    packed: Sequence[Tensor],
    states: tuple[Tensor, ...],
    batch: Batch,
    backwards: bool,
    checkpoint_every: int | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(the outputs in a plan's order, the final states in the caller's). packed: inputs in a plan's order."""
    layout = batch.layout.reversed if backwards else batch.layout
    seqs = packed
    if type(cell).draws is Cell.draws:  # most draw nothing, and a short run would notice the context
        plan, params = _plan_for(cell, seqs, states, layout)
    else:
        with draws(cell, len(packed), batch.steps, batch.rows) as more:
            seqs = [*packed, *map(batch.pack, more)]
            plan, params = _plan_for(cell, seqs, states, layout)
    if batch.steps == 0:
        return wrap(np.zeros((0, cell.state_sizes[0]), cell.dtype), states[0]), states
    ys, finals = checkpoint.run(plan, seqs, params, batch.sort(states), layout, checkpoint_every)
    return ys, batch.unsort(finals)


def _plan_for(
    cell: Cell, seqs: Sequence[Tensor], states: Sequence[Tensor], layout: Layout
) -> tuple[Plan, list[Tensor]]:
    wanted = tape.mode() != tape.OFF and any(x.requires_grad for x in seqs)
    return plan_of(cell, tuple([x.shape[1] for x in seqs]), layout.mean_rows, states[0].device, wanted)
