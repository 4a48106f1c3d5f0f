"""Long sequences in segments: keep the states between them, run a segment again when its gradient is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyrnn._core import tape
from tinyrnn._core.tape import Op, Tape, Tensor
from tinyrnn.autograd import enable_grad, no_grad
from tinyrnn.ops import concat, getitem, reshape
from tinyrnn.plan.layout import Layout
from tinyrnn.plan.run import Plan


def run_in_segments(
    plan: Plan, seqs: Sequence[Tensor], params: Sequence[Tensor], initial: Sequence[Tensor], layout: Layout, every: int
) -> tuple[Tensor, list[Tensor]]:
    """(the plan's first emit (rows, ..), final states (batch, w)), `every` steps at a time.

    What is kept is the inputs, the output and the states between segments; a segment's inner values live while its
    gradient is computed.
    """
    starts = range(0, layout.steps, every)
    states, outputs = list(initial), []
    for first in reversed(starts) if layout.backwards else starts:
        last = min(first + every, layout.steps)
        n = int(layout.count[first])
        begin, end = int(layout.offset[first]), int(layout.offset[last - 1] + layout.count[last - 1])
        part = Layout(np.minimum(layout.ends[:n] - first, last - first), layout.backwards)
        going = [getitem(s, slice(0, n)) for s in states]
        y, *ends = _segment(plan, [getitem(x, slice(begin, end)) for x in seqs], params, going, part)
        outputs.append(y)
        whole = n == layout.batch
        states = [e if whole else concat([e, getitem(s, slice(n, None))]) for e, s in zip(ends, states, strict=True)]
    return concat(outputs[::-1] if layout.backwards else outputs), states


def _segment(
    plan: Plan, seqs: Sequence[Tensor], params: Sequence[Tensor], states: Sequence[Tensor], layout: Layout
) -> list[Tensor]:
    inputs = (*seqs, *params, *states)
    with no_grad():
        emits, _, finals = plan.run(seqs, params, states, layout)
    results = [t._array for t in (emits[0], *finals)]
    return tape.bundle(SEGMENT, inputs, (plan, layout, len(seqs), len(params)), results)


def _segment_vjp(
    gs: list[Tensor | None],
    hub: Tensor,
    inputs: tuple[Tensor, ...],
    wanted: list[bool],
    plan: Plan,
    layout: Layout,
    n_seqs: int,
    n_params: int,
) -> list[Tensor | None]:
    again = tape.mode() != tape.OFF  # the gradient is to be differentiated too, so it must lead to the inputs
    with enable_grad():
        # Stand-ins, so that a parameter's gradient is that of this segment alone, not also through its first states.
        own = [reshape(t, t.shape) if again else _leaf(t, want) for t, want in zip(inputs, wanted, strict=True)]
        emits, _, finals = plan.run(own[:n_seqs], own[n_seqs : n_seqs + n_params], own[n_seqs + n_params :], layout)
    pairs = [(t, g) for t, g in zip((emits[0], *finals), gs, strict=True) if g is not None and t.requires_grad]
    targets = [t for t, want in zip(own, wanted, strict=True) if want]
    _, found = Tape([t for t, _ in pairs]).reverse([g for _, g in pairs], targets, again, again)
    flow = iter(found)
    return [next(flow) if want else None for want in wanted]


def _leaf(t: Tensor, requires_grad: bool) -> Tensor:
    leaf = tape.wrap(t._array)
    leaf.requires_grad = requires_grad
    return leaf


SEGMENT = Op("segment", -1, _segment_vjp, multi=True)
