"""`paths`: by which ways a state's derivative reaches its next value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core import tape
from tinyrnn._core.tape import Tensor
from tinyrnn.autograd import enable_grad
from tinyrnn.flow.local import Local, as_range, ended, jacobian_of, stretches
from tinyrnn.flow.norms import spectral_norms
from tinyrnn.flow.runs import Run, on_host, prepare
from tinyrnn.flow.shares import leaf_like
from tinyrnn.flow.terms import Update
from tinyrnn.loop import Sequences, States
from tinyrnn.module import Cell
from tinyrnn.plan.columns import OPS
from tinyrnn.plan.step import replay, topological
from tinyrnn.records import Record

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Paths(Record):
    """d c_{t+1} / d c_t of a state c at steps t = from..to - 1, and its terms, which sum to it."""

    state: str
    from_step: int
    to_step: int
    update: str
    """The equation whose factors the terms name."""
    factors: dict[str, str]
    """v1, v2, .. -> the expression, for what is long and not probed."""
    terms: dict[str, Array]
    """label -> (to - from, B, n, n): first those in which c is itself a factor, "f", then "c * df/dc" and the like."""
    jacobian: Array
    """Their sum, taken of the whole update in one piece, (to - from, B, n, n)."""

    @cached_property
    def norms(self) -> dict[str, Floats]:
        """label -> the spectral norm of each term, (to - from, B)."""
        return {label: spectral_norms(term) for label, term in self.terms.items()}

    @cached_property
    def jacobian_norms(self) -> Floats:
        """The spectral norm of the sum, (to - from, B)."""
        return spectral_norms(self.jacobian)


@on_host
def paths(
    cell: Cell,
    xs: Sequences,
    state: States = None,
    *,
    of: str | None = None,
    lengths: npt.ArrayLike | None = None,
    from_step: int = 0,
    to_step: int | None = None,
) -> Paths:
    """The derivative of a state by its value one step before, term by term, for each row of the batch.

    For the LSTM's c' = f * c + i * g these are the four terms of lecture 004, the forget-gate path first:

        f,  c * df/dc,  g * di/dc,  i * dg/dc

    cell, xs, state, lengths    as `tr.scan` takes them
    of    the name of the state; None: the first whose update has the state itself as a factor
    from_step, to_step    which steps, as a slice xs[from_step:to_step]; None: all

    It is the total derivative: the gates read h_t = o * tanh(c_t), so c_t reaches them by way of h_t, and by peepholes
    if there are any; all else of step t is held fixed. (In step 0 the first states are independent of one another.)
    For a cell of one state it is `jacobian(..).steps`.

    The terms come from the tape: the update is read as a sum of products, each product is cut off from all its factors
    but one, and what is left is differentiated. A factor that no state reaches has no term. Gates are called as
    `tr.probe` names them, other factors by their expressions. Terms are 0 for rows that have ended.

    It holds (to_step - from_step) · B · n² numbers for each term. Raises what `tr.scan` raises; ValueError for an
    update that is no sum of products, such as h' = tanh(..), for an unknown name, and for steps that are none of xs.
    """
    run, local = prepare(cell, xs, state, lengths, Local)
    first, last = as_range(run, from_step, to_step)
    number, update = _update(cell, local, of)
    before = local.states(run, last)
    moving = _moving(local, number)
    terms = [t for t in update.terms if t.product.factors[t.factor] in moving]
    n = cell.state_sizes[number]
    found = np.zeros((len(terms) + 1, last - first, run.rows, n, n), cell.dtype)
    with enable_grad():
        for cut in ([slice(0, 1)] if first == 0 else []) + [*stretches(max(first, 1), last, run.rows)]:
            known, leaf = _two_steps(local, number, run, before, cut)
            new = replay([update.root], known, leaf.shape[0])[0]
            replay([f for t in terms for f in t.product.factors], known, leaf.shape[0])
            for k, value in enumerate([*(t.cut(known, new.shape) for t in terms), new]):
                found[k, cut.start - first : cut.stop - first] = jacobian_of([value], [leaf]).reshape(
                    -1, run.rows, n, n
                )
    over = ended(run, first, last)
    if over is not None:
        found[:, over] = 0
    return Paths(
        update.name,
        first,
        last,
        update.equation,
        update.definitions(),
        {t.label: found[k] for k, t in enumerate(terms)},
        found[-1],
    )


def _update(cell: Cell, local: Local, of: str | None) -> tuple[int, Update]:
    """The state asked for, by its number, and its update."""
    if of is not None and (not isinstance(of, str) or of not in cell.states):
        raise ValueError(f"of must be a state of the {type(cell).__name__}, {', '.join(cell.states)}, got {of!r}")
    asked = [cell.states.index(of)] if of is not None else list(range(len(cell.states)))
    updates = {k: Update(cell, local.recorded, k) for k in asked}
    for k, update in updates.items():
        if update.ok and (of is not None or update.direct):
            return k, update
    text = "; ".join(update.equation for update in updates.values())
    text = text if len(text) < 400 else f"{text[:400]} .."
    if of is not None:
        raise ValueError(
            f"the update of {of!r} of the {type(cell).__name__} is no sum of products, so it has no terms: {text}"
        )
    raise ValueError(
        f"no state of the {type(cell).__name__} is updated by a sum of products with the state as a factor, as in "
        f"c' = f * c + i * g; `of` names another state: {text}"
    )


def _two_steps(
    local: Local, number: int, run: Run, before: list[Array], cut: slice
) -> tuple[dict[Tensor, Tensor], Tensor]:
    """The leaves of some steps as functions of one state before them, and that state.

    What the step before made of that state, as h = o * tanh(c), follows it; what it made without, stays. Before step 0
    there is none.
    """

    def rows(array: Array, shift: int = 0) -> Tensor:
        part = array[cut.start - shift : cut.stop - shift]
        return tape.wrap(part.reshape(-1, part.shape[2]))

    step = local.step
    leaf = leaf_like(rows(before[number])._array)
    states = [leaf if k == number else rows(s) for k, s in enumerate(before)]
    if cut.start > 0:
        known = local.known([rows(x._array, 1) for x in run.inputs], [rows(s, 1) for s in before])
        made = step.nexts[number]
        if made.op is not None:
            known[made] = leaf
            follow = replay(step.nexts, known, leaf.shape[0])
            states = [f if f.requires_grad else s for f, s in zip(follow, states, strict=True)]
    return local.known([rows(x._array) for x in run.inputs], states), leaf


def _moving(local: Local, number: int) -> set[Tensor]:
    """The values of a step that can move with one state of the step before, also by way of the others."""
    step = local.step
    made = step.nexts[number]
    found = {step.states[number]}
    if made.op is not None:
        found |= {s for s, t in zip(step.states, step.nexts, strict=True) if made in topological([t])}
    for t in topological([step.nexts[number]]):
        if t.op is not None and t.op is not OPS["stop_gradient"] and not found.isdisjoint(t.inputs):
            found.add(t)
    return found
