"""A cell's step made observable: what it computes comes out as sequences, and so do the gradients of its values.

A zero, the nudge, is added to each value whose gradient is asked for. It comes as a time input of its own, so the
gradient of that input is the gradient of the value at every step, from one pass of the compiled loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyrnn._core import tape
from tinyrnn._core.tape import Op, Tensor, abstract
from tinyrnn.autograd import recording
from tinyrnn.module import Cell
from tinyrnn.ops import add
from tinyrnn.plan import plan_recorded
from tinyrnn.plan.columns import SUMS
from tinyrnn.plan.record import record
from tinyrnn.plan.step import Step, consumers, is_rowed, named, topological


@dataclass(frozen=True, eq=False)
class Entry:
    """Where a value made of parameters alone meets the rows: op(.., shared, ..), at the position `at` of its inputs.

    operands: where the op's inputs with rows stand among the emits, None for those without. shared: all inputs that
    have no rows, None for those with. nudge, sign: which nudge's gradient is that of the result, and with what sign.
    """

    op: Op
    attrs: tuple[Any, ...]
    at: int
    operands: tuple[int | None, ...]
    shared: tuple[Tensor | None, ...]
    ndim: int
    nudge: int
    sign: int

    @property
    def source(self) -> Tensor:
        """The value made of parameters alone."""
        found = self.shared[self.at]
        assert found is not None
        return found


class Observed:
    """The plan of a step with nudges, and where to find what.

    plan, params    as `plan_of` gives them; the plan's seqs are the time inputs, then the nudges
    leaves          the abstract params, in the order of `params`
    nudges          the shape of each nudge, without rows
    states, probes  (which emit holds the values, which nudge's gradient is theirs): of each state in order, which the
                    step has just made, and of what is probed, by name
    entries         where parameters meet the rows
    """

    def __init__(self, cell: Cell, widths: tuple[int, ...]) -> None:
        recorded = record(cell, widths, probed=True)
        step = recorded.step
        self.params, self.leaves = recorded.params, step.params
        self.nudges: list[tuple[int, ...]] = []
        self._leaves: list[Tensor] = []
        self._emits: dict[Tensor, int] = {}
        own = {id(p) for p in cell.parameters()}
        learned = {leaf for leaf, p in zip(step.params, recorded.params, strict=True) if id(p) in own}
        living = topological(step.nexts)
        readers = consumers(step.nexts, living)
        met = [(t, k) for t in living if t.op is not None and is_rowed(t) for k in _shared(t, learned)]
        taps = {t: _tap(t, readers) for t, _ in met}
        wanted = [t for t in step.nexts if t.op is not None]
        wanted += [*recorded.probed.values(), *(root for root, _ in taps.values())]
        with recording():
            nudge = {t: self._nudge(t) for t in sorted(dict.fromkeys(wanted), key=lambda t: t.order)}
            raw: dict[Tensor, Tensor] = {}
            known: dict[Tensor, Tensor] = {}
            for t in topological([*step.nexts, *recorded.probed.values()]):
                raw[t] = t if t.op is None else named(tape.apply(t.op, tuple(known[s] for s in t.inputs), t.attrs), t)
                known[t] = add(raw[t], self._leaves[nudge[t]]) if t in nudge else raw[t]
            # A state that is only passed on, as it came, has no value of its own to nudge but the one it returns.
            passed = {k: self._nudge(t) for k, t in enumerate(step.nexts) if t.op is None}
            nexts = [
                add(known[t], self._leaves[passed[k]]) if k in passed else known[t] for k, t in enumerate(step.nexts)
            ]
            self.states = [
                (self._emit(new), passed[k] if k in passed else nudge[old])
                for k, (new, old) in enumerate(zip(nexts, step.nexts, strict=True))
            ]
            made = {*step.nexts}
            self.probes = {
                name: (self._emit(known[t] if t in made else raw[t]), nudge[t]) for name, t in recorded.probed.items()
            }
            self.entries = [self._entry(t, at, raw, nudge[taps[t][0]], taps[t][1]) for t, at in met]
            seqs = (*step.seqs, *self._leaves)
            self.plan = plan_recorded(
                cell, recorded, Step(seqs, step.states, step.params, tuple(nexts), tuple(self._emits))
            )

    def _nudge(self, t: Tensor) -> int:
        self._leaves.append(abstract(t.shape, t.dtype, "nudge", True))
        self.nudges.append(t.shape[1:])
        return len(self.nudges) - 1

    def _emit(self, t: Tensor) -> int:
        return self._emits.setdefault(t, len(self._emits))

    def _entry(self, t: Tensor, at: int, raw: dict[Tensor, Tensor], nudge: int, sign: int) -> Entry:
        # The gradient of a sum needs none of its terms.
        operands = tuple(self._emit(raw[s]) if is_rowed(s) and t.op not in SUMS else None for s in t.inputs)
        shared = tuple(None if is_rowed(s) else s for s in t.inputs)
        return Entry(t.op, t.attrs, at, operands, shared, t.ndim, nudge, sign)


def _shared(t: Tensor, learned: set[Tensor]) -> list[int]:
    """The positions of t's inputs that have no rows and depend on what is learned."""
    return [k for k, s in enumerate(t.inputs) if not is_rowed(s) and not learned.isdisjoint(topological([s]))]


def _tap(t: Tensor, readers: dict[Tensor, list[Tensor | None]]) -> tuple[Tensor, int]:
    """The sum that t ends up in if nothing else reads it, whose gradient is t's, and t's sign in it.

    One nudge then serves x W_x, h W_h and b, and where they are summed the loop has a gradient for them anyway.
    """
    sign = 1
    while len(readers[t]) == 1 and (reader := readers[t][0]) is not None:
        if reader.op not in SUMS or reader.shape != t.shape:
            break
        if reader.op.name == "neg" or (reader.op.name == "sub" and reader.inputs[1] is t):
            sign = -sign
        t = reader
    return t, sign
