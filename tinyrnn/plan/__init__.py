"""From the tape of one step to a compiled loop.

    record    the step of a cell, on shapes alone                       cell -> Step
    rewrite   what is cheaper and equal                                 Step -> Step
    run.Plan  what is hoisted, what stays in the loop, what sinks       Step -> Plan
    frontier  where the step is cut for that
    kept      what the loop keeps for its reverse
    lower     homes for the values of the body, and its instructions    Step -> Program
    instructions    what these read and write; two in one pass on the CPU
    run       a plan over a sequence; the loop's reverse, again a Plan

`plan_of` is the way in: it remembers one plan a cell. `made_of` does so for whatever else is made of a cell's step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from tinyrnn._core.tape import Tensor, are_same
from tinyrnn.module import Cell, Module
from tinyrnn.plan.layout import Batch, Layout, batch_of, uniform_layout
from tinyrnn.plan.lower import PlanError
from tinyrnn.plan.record import WAY_OUT, Recording, record
from tinyrnn.plan.run import Plan
from tinyrnn.plan.step import Step

__all__ = ["Batch", "Layout", "Plan", "PlanError", "batch_of", "made_of", "plan_of", "plan_recorded", "uniform_layout"]

Made = TypeVar("Made")
_made: WeakKeyDictionary[Cell, dict[Any, tuple[list[Any], bool, Any]]] = WeakKeyDictionary()


MANY_ROWS = 8
"""So many rows a step make good use of weights that lie in a cache, and the loop multiplies inputs as fast as one large
product does, which would write its result to memory and read it again. (Measured: from 8 rows on it gains or makes no
difference; 4 rows lose 3 to 5 % from H = 256 on, one row a quarter at H = 512.)"""


def plan_of(
    cell: Cell, widths: tuple[int, ...], rows: float = 1, device: str = "cpu", wanted: bool = False
) -> tuple[Plan, list[Tensor]]:
    """The plan of a cell for time inputs of these widths, and the tensors behind its params.

    rows: of a step, on average. Few rows would fetch the weights of inputs anew at every step, and a GPU is used best
    by large products, so there these are hoisted. wanted: whether an input's gradient is; its bits shall not depend on
    the number of rows.
    """
    if device == "cpu" and rows >= MANY_ROWS:
        found = made_of(cell, widths, _plan_inside)
        if not wanted or not found[0].reads_inputs_twice:
            return found
    return made_of(cell, widths, _plan)


def made_of(cell: Cell, widths: tuple[int, ...], make: Callable[[Cell, tuple[int, ...]], Made]) -> Made:
    """make(cell, widths), remembered: what a function makes of the step of a cell, for time inputs of these widths.

    Made at the first call, once for training and once for use, and again when an attribute of the cell, or of a module
    inside it, or what a list, tuple or dict in an attribute holds, was assigned since. (An array that is changed in
    place is not seen.)
    """
    known = _made.get(cell)
    if known is None:
        known = _made.setdefault(cell, {})
    key = (make, widths, cell.training)
    found = known.get(key)
    if found is not None:
        attributes, nested, made = found
        if are_same(_attributes(cell) if nested else vars(cell).values(), attributes):
            return made
    nested = any(isinstance(value, (Module, list, tuple, dict)) for value in vars(cell).values())
    made = make(cell, widths)
    known[key] = (_attributes(cell) if nested else list(vars(cell).values()), nested, made)
    return made


def _plan(cell: Cell, widths: tuple[int, ...], hoists: bool = True) -> tuple[Plan, list[Tensor]]:
    recording = record(cell, widths)
    return plan_recorded(cell, recording, recording.step, hoists), recording.params


def _plan_inside(cell: Cell, widths: tuple[int, ...]) -> tuple[Plan, list[Tensor]]:
    return _plan(cell, widths, False)


def plan_recorded(cell: Cell, recording: Recording, step: Step, hoists: bool = True) -> Plan:
    """The plan of a step that was made of a recording; raises PlanError that names the cell and the line."""
    try:
        plan = Plan(step, hoists)
        plan.body.program((False,) * len(step.states), plan.body.step.emits)
    except PlanError as error:
        at = recording.lines_of(error.op)
        raise PlanError(f"{type(cell).__name__}.step{f' ({at})' if at else ''}: {error}; {WAY_OUT}") from None
    return plan


def _attributes(module: Module) -> list[Any]:
    found: list[Any] = []
    stack: list[Any] = [vars(m) for m in module.modules()]
    while stack:
        holder = stack.pop()
        values = list(holder.values() if isinstance(holder, dict) else holder)
        found += values
        stack += [value for value in values if isinstance(value, (list, tuple, dict))]
    return found
