"""From the tape of one step to a compiled loop.

    record    the step of a cell, on shapes alone                       cell -> Step
    rewrite   what is cheaper and equal                                 Step -> Step
    run.Plan  what is hoisted, what stays in the loop, what sinks       Step -> Plan
    lower     homes for the values of the body, and its instructions    Step -> Program
    run       a plan over a sequence; the loop's reverse, again a Plan

`plan_of` is the way in: it remembers one plan a cell.
"""

from __future__ import annotations

from operator import is_
from typing import Any
from weakref import WeakKeyDictionary

from tinyrnn._core.tape import Tensor
from tinyrnn.module import Cell, Module
from tinyrnn.plan.layout import Layout, uniform_layout
from tinyrnn.plan.lower import PlanError
from tinyrnn.plan.record import WAY_OUT, record
from tinyrnn.plan.run import Plan

__all__ = ["Layout", "Plan", "PlanError", "plan_of", "uniform_layout"]

_plans: WeakKeyDictionary[Cell, dict[Any, tuple[list[Any], bool, Plan, list[Tensor]]]] = WeakKeyDictionary()


def plan_of(cell: Cell, widths: tuple[int, ...]) -> tuple[Plan, list[Tensor]]:
    """The plan of a cell for time inputs of these widths, and the tensors behind its params.

    Made at the first call, one for training and one for use, and again when an attribute of the cell, or of a module
    inside it, or what a list, tuple or dict in an attribute holds, was assigned since. (An array that is changed in
    place is not seen.)
    """
    plans = _plans.setdefault(cell, {})
    key = (widths, cell.training)
    found = plans.get(key)
    if found is not None:
        attributes, nested, plan, params = found
        now = _attributes(cell) if nested else list(vars(cell).values())
        if len(now) == len(attributes) and all(map(is_, now, attributes)):
            return plan, params
    nested = any(isinstance(value, (Module, list, tuple, dict)) for value in vars(cell).values())
    recording = record(cell, widths)
    try:
        plan = Plan(recording.step)
        plan.body.program([False] * len(cell.states), plan.body.step.emits)
    except PlanError as error:
        at = recording.lines_of(error.op)
        raise PlanError(f"{type(cell).__name__}.step{f' ({at})' if at else ''}: {error}; {WAY_OUT}") from None
    plans[key] = (_attributes(cell) if nested else list(vars(cell).values()), nested, plan, recording.params)
    return plan, recording.params


def _attributes(module: Module) -> list[Any]:
    found: list[Any] = []
    stack: list[Any] = [vars(m) for m in module.modules()]
    while stack:
        holder = stack.pop()
        values = list(holder.values() if isinstance(holder, dict) else holder)
        found += values
        stack += [value for value in values if isinstance(value, (list, tuple, dict))]
    return found
