"""Long sequences in blocks of steps: the parts whose gradients a parameter adds up, and what checkpoints compute again.

A sequence of more than BLOCK rows (steps times batch) is cut every so many steps from its beginning. Each block has
stand-ins of its own for the parameters, so a parameter's gradient is the sum of its blocks', the last one's first,
whether their values were kept or computed again: with checkpoints and without, gradients have the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tinyrnn._core import tape
from tinyrnn._core.tape import Op, Tape, Tensor
from tinyrnn.autograd import enable_grad, no_grad
from tinyrnn.ops import concat, getitem, reshape
from tinyrnn.plan.layout import Layout
from tinyrnn.plan.run import Plan

BLOCK = 8192
"""Rows of a block, at least: so many that cutting the products of a sequence costs nothing."""


def run(
    plan: Plan,
    seqs: Sequence[Tensor],
    params: Sequence[Tensor],
    initial: Sequence[Tensor],
    layout: Layout,
    every: int | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """(the plan's first emit (rows, ..), final states (batch, w)).

    every: keep only the states of about every so many steps, a multiple of a block's, for the gradient, and compute
    what lies between again: what is kept then is the inputs, the output and these states; a segment's inner values
    live while its gradient is computed.
    """
    steps = -(-BLOCK // max(layout.batch, 1))
    if layout.steps <= steps or not tape.learns((*seqs, *params, *initial)):
        emits, _, finals = plan.run(seqs, params, initial, layout)
        return emits[0], finals
    if every is None or every >= layout.steps:
        return _blocks(plan, seqs, [_stand_ins(params) for _ in range(0, layout.steps, steps)], initial, layout, steps)
    states, outputs = list(initial), []
    for part, rows in _cut(layout, max(1, every // steps) * steps):
        own = [_stand_ins(params) for _ in range(0, part.steps, steps)]
        inputs = ([getitem(x, rows) for x in seqs], _going(states, part.batch))
        y, *ends = _segment(plan, *inputs, own, part, steps)
        outputs.append(y)
        states = _joined(ends, states)
    return concat(outputs[::-1] if layout.backwards else outputs), states


def _cut(layout: Layout, steps: int) -> Iterator[tuple[Layout, slice]]:
    """Pieces of so many steps in the order in which they run, each with its rows in a sequence."""
    starts = range(0, layout.steps, steps)
    for first in reversed(starts) if layout.backwards else starts:
        last = min(first + steps, layout.steps)
        n = int(layout.count[first])
        rows = slice(int(layout.offset[first]), int(layout.offset[last - 1] + layout.count[last - 1]))
        yield Layout(np.minimum(layout.ends[:n] - first, last - first), layout.backwards), rows


def _blocks(
    plan: Plan,
    seqs: Sequence[Tensor],
    params: Sequence[Sequence[Tensor]],
    initial: Sequence[Tensor],
    layout: Layout,
    steps: int,
) -> tuple[Tensor, list[Tensor]]:
    """`plan.run` block by block. params: those of each block, in the order in which they run."""
    states, outputs = list(initial), []
    for own, (part, rows) in zip(params, _cut(layout, steps), strict=True):
        emits, _, ends = plan.run([getitem(x, rows) for x in seqs], own, _going(states, part.batch), part)
        outputs.append(emits[0])
        states = _joined(ends, states)
    return concat(outputs[::-1] if layout.backwards else outputs), states


def _stand_ins(params: Sequence[Tensor]) -> list[Tensor]:
    return [reshape(p, p.shape) for p in params]


def _going(states: Sequence[Tensor], n: int) -> list[Tensor]:
    """The first n rows, which still run."""
    return [s if s.shape[0] == n else getitem(s, slice(0, n)) for s in states]


def _joined(ends: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    """The states of all rows, where some ran on to `ends`."""
    n = ends[0].shape[0]
    return [
        e if s.shape[0] == n else concat([e, getitem(s, slice(n, None))]) for e, s in zip(ends, states, strict=True)
    ]


def _segment(
    plan: Plan,
    seqs: Sequence[Tensor],
    states: Sequence[Tensor],
    params: Sequence[Sequence[Tensor]],
    layout: Layout,
    steps: int,
) -> list[Tensor]:
    """Several blocks whose inner values are not kept: the output and the final states."""
    inputs = (*seqs, *states, *(p for own in params for p in own))
    with no_grad():
        emits, _, finals = plan.run(seqs, params[0], states, layout)
    results = [t._array for t in (emits[0], *finals)]
    return tape.bundle(SEGMENT, inputs, (plan, layout, steps, len(seqs), len(states)), results)


def _segment_vjp(
    gs: list[Tensor | None],
    hub: Tensor,
    inputs: tuple[Tensor, ...],
    wanted: list[bool],
    plan: Plan,
    layout: Layout,
    steps: int,
    n_seqs: int,
    n_states: int,
) -> list[Tensor | None]:
    again = tape.mode() != tape.OFF  # the gradient is to be differentiated too, so it must lead to the inputs
    with enable_grad():
        # Leaves, so that a gradient is that of this segment alone.
        own = [reshape(t, t.shape) if again else _leaf(t, want) for t, want in zip(inputs, wanted, strict=True)]
        params = own[n_seqs + n_states :]
        each = len(plan.step.params)
        per_block = [params[k * each : (k + 1) * each] for k in range(-(-layout.steps // steps))]
        y, finals = _blocks(plan, own[:n_seqs], per_block, own[n_seqs : n_seqs + n_states], layout, steps)
    pairs = [(t, g) for t, g in zip((y, *finals), gs, strict=True) if g is not None and t.requires_grad]
    targets = [t for t, want in zip(own, wanted, strict=True) if want]
    _, found = Tape([t for t, _ in pairs]).reverse([g for _, g in pairs], targets, again, again)
    flow = iter(found)
    return [next(flow) if want else None for want in wanted]


def _leaf(t: Tensor, requires_grad: bool) -> Tensor:
    leaf = tape.wrap(t._array)
    leaf.requires_grad = requires_grad
    return leaf


SEGMENT = Op("segment", -1, _segment_vjp, multi=True)
