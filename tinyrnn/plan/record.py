"""Recording a cell's step on shapes alone, and the checks that make it a program of independent rows."""

from __future__ import annotations

from collections.abc import Sequence

from tinyrnn._core.tape import Tensor, abstract
from tinyrnn.autograd import recording
from tinyrnn.module import Cell
from tinyrnn.plan.step import PARAMETER, ROWS, Step, is_rowed, levels, replay, topological


def record(cell: Cell, widths: Sequence[int]) -> tuple[Step, list[Tensor]]:
    """The step of a cell as a Step that emits the output, and the tensors that stand behind its params.

    widths: of the time inputs. Raises what the step raises, and PlanError for what a plan can not hold.
    """
    with recording():
        inputs = [abstract((ROWS, n), cell.dtype, "x" if k == 0 else f"x{k + 1}", True) for k, n in enumerate(widths)]
        states = [abstract((ROWS, n), cell.dtype, s, True) for s, n in zip(cell.states, cell.state_sizes, strict=True)]
        got = cell.step(*inputs, *states)
        nexts = got if isinstance(got, tuple) else (got,)
        # Parameters and other arrays become leaves without values; plain numbers stay.
        given = {*inputs, *states}
        real = [t for t in topological(nexts) if t.op is None and t not in given and (t.requires_grad or t.size != 1)]
        known = {t: abstract(t.shape, t.dtype, t.name, t.requires_grad) for t in real}
        params = tuple(known.values())
        known.update({t: t for t in given})
        results = replay(nexts, known)
        step = Step(tuple(inputs), tuple(states), params, tuple(results), (results[0],))
    return step, real
