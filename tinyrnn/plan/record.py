"""Recording a cell's step on shapes alone, and the checks that make it a program of independent rows.

The checks run as each op is recorded, so an error comes from the line of the step that is at fault.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tinyrnn._core import tape
from tinyrnn._core.tape import Tensor, TraceError, abstract
from tinyrnn.autograd import recording
from tinyrnn.module import Cell, probes_alone
from tinyrnn.plan.lower import PlanError
from tinyrnn.plan.step import ROWS, Step, is_abstract, is_rowed, replay, topological

WAY_OUT = "tr.unroll runs any step"


@dataclass(frozen=True)
class Recording:
    """step: the step, emitting its output. params: the tensors behind its params. lines: where each op stands.

    probed: the values with rows that `probe` named, if they were asked for; name_2, name_3, .. for a name's others.
    """

    step: Step
    params: list[Tensor]
    lines: dict[Tensor, str]
    probed: dict[str, Tensor]

    def lines_of(self, op: str | None) -> str:
        """The lines of the step that use an op."""
        return " or ".join(dict.fromkeys(at for t, at in self.lines.items() if t.op is not None and t.op.name == op))


def record(cell: Cell, widths: Sequence[int], probed: bool = False) -> Recording:
    """Record the step of a cell for time inputs of these widths. probed: also what it probes.

    Raises TypeError where the step takes another number of time inputs, TraceError where it asks for values, PlanError
    where rows depend on one another, where a state changes its shape or where the cell keeps a tensor of the step, and
    what the step itself raises.
    """
    name = type(cell).__name__
    lines: dict[Tensor, str] = {}
    cell._check_count(len(widths), 0)

    def check(t: Tensor) -> None:
        lines[t] = _place(sys._getframe(1))
        if ROWS in t.shape:
            tape.drop(t)  # parameters repeated for all rows: what is made of them shall not be computed for each
        if t.op is not None and t.inputs and _mixes_rows(t):
            shapes = " and ".join(str(s.shape) for s in t.inputs)
            if t.op.name == "getitem" and t.size == 1:
                raise TraceError(
                    f"{t.op.name} of {shapes} picks one value of one row, as a step does that branches on a value: it "
                    "has none while it is recorded on shapes alone, and the rows of the batch would depend on one "
                    f"another. Write it with ops (tr.where, tr.maximum), or run the cell with tr.unroll; {WAY_OUT}"
                )
            raise PlanError(
                f"{t.op.name} of {shapes} gives {t.shape}, so the rows of the batch would depend on one another; "
                f"{WAY_OUT}"
            )

    attributes = {m: dict(vars(m)) for m in cell.modules()}
    watched = tape.watch(check)
    try:
        with recording(), probes_alone() as seen:
            inputs = [
                abstract((ROWS, n), cell.dtype, "x" if k == 0 else f"x{k + 1}", True) for k, n in enumerate(widths)
            ]
            states = [
                abstract((ROWS, n), cell.dtype, s, True) for s, n in zip(cell.states, cell.state_sizes, strict=True)
            ]
            got = cell.step(*inputs, *states)
    except (TraceError, ValueError, TypeError) as error:
        raise _located(name, error) from error
    finally:
        tape.watch(watched)
        leaks = sorted(a for m in attributes for a, value in vars(m).items() if _holds_abstract(value))
        if leaks:
            for m, original in attributes.items():
                vars(m).clear()
                vars(m).update(original)
    if leaks:
        raise PlanError(
            f"{name}.step keeps a tensor of the step in self.{leaks[0]}: it has no value while the step is recorded; "
            f"make it a state, or look at it with tr.probe; {WAY_OUT}"
        )
    nexts = got if isinstance(got, tuple) else (got,)
    _check_nexts(name, cell, states, nexts)
    # Parameters and other arrays become leaves without values; numbers that the step itself makes stay.
    given = {*inputs, *states}
    before = inputs[0].order
    looked = _named_once(seen) if probed else {}
    wanted = (*nexts, *looked.values())
    real = [t for t in topological(wanted) if t.op is None and t not in given and (t.size != 1 or t.order < before)]
    for t in real:
        at = next((f" ({place})" for reader, place in lines.items() if t in (reader.inputs or ())), "")
        if is_abstract(t):
            raise PlanError(
                f"{name}.step{at} uses {t.name or 'a tensor'} of shape {_with_b(str(t.shape))}, but not how it was "
                f"computed: for a value without gradient write tr.stop_gradient(..), not .detach() or tr.no_grad(); "
                f"{WAY_OUT}"
            )
        if ROWS in t.shape:
            raise PlanError(
                f"{name}.step{at} makes an array of shape {_with_b(str(t.shape))}, which would stay the same at every "
                "step: make it of one row, which is repeated, or let it come as a time input or a state; "
                f"{WAY_OUT}"
            )
    with recording():
        known = {t: abstract(t.shape, t.dtype, t.name, t.requires_grad) for t in real}
        params = tuple(known.values())
        known.update({t: t for t in given})
        results = replay(wanted, known)
    step = Step(tuple(inputs), tuple(states), params, tuple(results[: len(nexts)]), (results[0],))
    return Recording(step, real, lines, dict(zip(looked, results[len(nexts) :], strict=True)))


def _named_once(seen: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """What has rows of what was probed, each under a name of its own."""
    found: dict[str, Tensor] = {}
    for name, values in seen.items():
        for t in dict.fromkeys(values):
            if is_rowed(t):
                free, k = name, 2
                while free in found:
                    free, k = f"{name}_{k}", k + 1
                found[free] = t
    return found


def _mixes_rows(t: Tensor) -> bool:
    """Whether a row of t depends on other rows than that row of its inputs."""
    rowed = [s for s in t.inputs if ROWS in s.shape]
    if not rowed:
        return False
    if t.shape[:1] != (ROWS,) or ROWS in t.shape[1:]:
        return True
    op, attrs = t.op.name, t.attrs
    if t.op.code >= 0:
        return any(s.ndim != t.ndim for s in rowed)
    if op == "getitem":
        first = attrs[0][0] if isinstance(attrs[0], tuple) and attrs[0] else attrs[0]
        return not (first is Ellipsis or (isinstance(first, slice) and first.indices(ROWS) == (0, ROWS, 1)))
    if op == "transpose":
        return bool(attrs[0][0] != 0)
    if op == "concat":
        return bool(attrs[0] == 0)
    if op == "matmul":
        return ROWS not in t.inputs[0].shape[:1] or (ROWS in t.inputs[1].shape and t.ndim < 3)
    return op in ("take", "scatter", "scatter_rows")


def _check_nexts(name: str, cell: Cell, states: Sequence[Tensor], nexts: Sequence[Any]) -> None:
    needed = ", ".join(f"{s.name} {_about(s)}" for s in states)
    if len(nexts) == len(states):
        pairs = zip(states, nexts, strict=True)
        if all(isinstance(t, Tensor) and t.shape == s.shape and t.dtype == s.dtype for s, t in pairs):
            return
    got = ", ".join(_about(t) for t in nexts)
    raise PlanError(f"{name}.step must return the new states ({needed}), got ({got})")


def _about(value: Any) -> str:
    return _with_b(f"{value.shape} {value.dtype}") if isinstance(value, Tensor) else type(value).__name__


def _with_b(text: str) -> str:
    """A message with the stand-in for the number of rows, and its multiples, written as B, 2B, .."""

    def name(number: re.Match[str]) -> str:
        times, rest = divmod(int(number[0]), ROWS)
        return number[0] if rest or not times else "B" if times == 1 else f"{times}B"

    return re.sub(r"\d{7,}", name, text)


def _holds_abstract(value: Any) -> bool:
    if isinstance(value, Tensor):
        return is_abstract(value)
    if isinstance(value, dict):
        return any(map(_holds_abstract, value.values()))
    return isinstance(value, (list, tuple, set)) and any(map(_holds_abstract, value))


# -- where in the step -------------------------------------------------------------------------------------------------


def _located(name: str, error: Exception) -> Exception:
    """The same error, with the cell and the line of its step that it comes from."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    lines = dict(traceback.walk_tb(error.__traceback__))
    at = next((f"{f.f_code.co_filename}:{lines[f]}" for f in reversed(frames) if _is_users(f)), None)
    text = _with_b(str(error))
    if "broadcast" in text and text != str(error):
        text += f"; B stands for the rows: what has a fixed batch must come as a time input or a state; {WAY_OUT}"
    kind = type(error) if type(error) in (TraceError, PlanError, ValueError, TypeError) else ValueError
    return kind(f"{name}.step{f' ({at})' if at else ''}: {text}")


def _place(frame: FrameType | None) -> str:
    """file:line of the innermost frame of the step that is not ours."""
    inner = None
    while frame is not None:
        if _is_users(frame):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if inner is None and frame.f_code.co_name == "step":
            inner = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        if frame.f_code is record.__code__:
            break
        frame = frame.f_back
    return inner or ""


def _is_users(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module != "tinyrnn" and not module.startswith("tinyrnn.")
