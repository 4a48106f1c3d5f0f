"""Sums of a step laid flat, in one order: input terms, parameters, products of states, the rest.

A product of a concatenation becomes a sum of products; sums of slices' gradients become concatenations.
"""

from __future__ import annotations

import functools
from itertools import pairwise

from tinyrnn._core import tape
from tinyrnn._core.tape import Tensor
from tinyrnn.ops import add, broadcast_to, getitem, mul, neg, sub
from tinyrnn.plan.columns import OPS, SUMS, as_columns, column_range, columns, join
from tinyrnn.plan.step import (
    INPUT,
    PARAMETER,
    ROWS,
    STATE,
    Step,
    consumers,
    is_number,
    is_rowed,
    levels,
    named,
    topological,
)

Term = tuple[int, Tensor]  # its sign, and the value


def canonical(step: Step) -> Step:
    nodes = topological(step.results)
    readers = consumers(step.results, nodes)
    level = levels(step)
    known: dict[Tensor, Tensor] = {}
    new_level: dict[Tensor, int] = {}
    phase: dict[Tensor, int] = {}
    products: dict[Tensor, list[Tensor]] = {}  # of those that became a sum
    # What is wanted for the whole sequence alone has the bits of the product of whole sequences.
    whole = {*step.emits}.difference(step.nexts)

    def settle(old: Tensor, new: Tensor) -> None:
        known[old] = named(new, old)
        new_level[new] = level[old]
        _phase_of(new, phase, new_level)

    def is_inner(t: Tensor) -> bool:
        """Whether t is a sum that the one sum which reads it will lay flat."""
        who = readers[t]
        return t.op in SUMS and len(who) == 1 and who[0] is not None and who[0].op in SUMS and who[0].shape == t.shape

    def terms(root: Tensor) -> list[Term]:
        found: list[Term] = []
        stack = [(1, root)]
        while stack:
            sign, t = stack.pop()
            if t.op in SUMS and (t is root or is_inner(t)):
                signs = (-sign,) if t.op is neg else (sign, -sign if t.op is sub else sign)
                stack += zip(signs[::-1], t.inputs[::-1], strict=True)
            else:
                found.append((sign, known[t]))
        return found

    for t in nodes:
        if t.op is None:
            settle(t, t)
        elif level[t] == PARAMETER:
            settle(t, tape.apply(t.op, tuple(known[s] for s in t.inputs), t.attrs))
        elif t.op in SUMS:
            if is_inner(t):
                known[t] = t  # never read: its reader lays it flat
                continue
            flat = [(sign, s) for sign, term in terms(t) for s in products.get(term, (term,))]
            settle(t, _sum(flat, new_level, phase, t.shape))
        elif t.op is OPS["matmul"] and level[t.inputs[1]] == PARAMETER:
            made = _products(known[t.inputs[0]], known[t.inputs[1]], new_level, t in whole)
            settle(t, functools.reduce(add, made))
            if len(made) > 1:
                products[known[t]] = made
        elif t.op is OPS["scatter"]:
            source = known[t.inputs[0]]
            cut = column_range(t.attrs[1], t.attrs[0]) if is_rowed(t) else None
            settle(t, _padded([(cut, source)], t.attrs[0][1]) if cut else tape.apply(t.op, (source,), t.attrs))
        elif t.op is OPS["getitem"]:
            source = known[t.inputs[0]]
            cut = column_range(t.attrs[0], source.shape) if is_rowed(source) else None
            settle(t, columns(source, *cut) if cut else tape.apply(t.op, (source,), t.attrs))
        elif t.op.name in ("reshape", "broadcast_to", "sum_to") and t.shape == t.inputs[0].shape:
            settle(t, known[t.inputs[0]])
        else:
            settle(t, tape.apply(t.op, tuple(known[s] for s in t.inputs), t.attrs))
    return step.with_results([known[r] for r in step.results])


def _products(a: Tensor, w: Tensor, level: dict[Tensor, int], whole: bool = False) -> list[Tensor]:
    """a @ w, as products whose sum it is if a joins values that are there before, like [x, h]; whole: even then as one.

    What is joined from values of this step, like the gradients of gates, is better multiplied in one piece.
    """
    joins = a.op is OPS["concat"] and a.attrs[0] == 1 and w.ndim == 2 == a.ndim
    made = joins and all(p.op is not None for p in a.inputs)
    if not joins or whole or (made and len({_level_of(p, level) for p in a.inputs if not _is_zeros(p)}) == 1):
        return [tape.apply(OPS["matmul"], (a, w), ())]
    at, found = 0, []
    for part in a.inputs:
        found += _products(part, getitem(w, slice(at, at + part.shape[1])), level)
        at += part.shape[1]
    return found


def _sum(terms: list[Term], level: dict[Tensor, int], phase: dict[Tensor, int], shape: tuple[int, ...]) -> Tensor:
    """The sum in its one order; concatenations of gradients first where there are several.

    What is there before the loop leads, products follow, and the rest meets them in the group behind. But a product of
    what a group makes comes last if that group can add up the rest: then it adds itself to that, and no group follows.
    """
    scatters = [(sign, t) for sign, t in terms if t.op is OPS["concat"] and _padding(t)]
    if len(scatters) > 1 and all(sign > 0 for sign, _ in scatters):
        parts = [piece for _, t in scatters for piece in _pieces(t)]
        terms = [(1, _padded(parts, shape[1])), *((s, t) for s, t in terms if not any(t is u for _, u in scatters))]
        level.setdefault(terms[0][1], STATE)

    states = [t for _, t in terms if _level_of(t, level) == STATE]
    rest = [t for t in states if t.op is not OPS["matmul"]]
    latest = max((_phase_of(t, phase, level) for t in rest), default=0)
    leads = all(t.op is mul or _level_of(t, level) == PARAMETER for _, t in terms)

    def rank(term: Term) -> int:
        """Inputs, products of states, parameters, the rest. A bias added in the loop meets values in cache.

        Where all else are products of elements, the bias leads, so that each of them is a multiply-add.
        """
        sign, t = term
        product = t.op is OPS["matmul"]
        kind = _level_of(t, level)
        if kind == PARAMETER and leads:
            return -1
        if kind == INPUT:
            return 0 if product else 1
        if product and kind == STATE:
            made = as_columns(t.inputs[0])[0].op not in (None, t.op)
            return 6 if made and sign > 0 and rest and latest <= _phase_of(t.inputs[0], phase, level) else 2
        if kind == PARAMETER:
            return 3 if len(rest) < len(states) else 5
        return 4

    ordered = sorted(terms, key=rank)
    # A leading minus costs an op of its own; any plus can lead instead.
    lead = next((k for k, (sign, _) in enumerate(ordered) if sign > 0), None)
    total = neg(ordered.pop(0)[1]) if lead is None else ordered.pop(lead)[1]
    for sign, t in ordered:
        total = add(total, t) if sign > 0 else sub(total, t)
    return total if total.shape == shape else broadcast_to(total, shape)


def _level_of(t: Tensor, level: dict[Tensor, int]) -> int:
    if t not in level:
        for s in topological([t], level):
            if s not in level:
                level[s] = max((level[r] for r in s.inputs or ()), default=PARAMETER)
    return level[t]


def _phase_of(t: Tensor, phase: dict[Tensor, int], level: dict[Tensor, int]) -> int:
    """How many products of a step come before t, one behind the other."""
    if t not in phase:
        for s in topological([t], phase):
            if s not in phase:
                before = max((phase[r] for r in s.inputs or ()), default=0)
                phase[s] = before + (s.op is OPS["matmul"] and _level_of(s, level) == STATE)
    return phase[t]


# A gradient of columns start..stop of a matrix is that gradient between columns of zeros.


def _is_zeros(t: Tensor) -> bool:
    return t.op is OPS["broadcast_to"] and is_number(t.inputs[0]) and not t.inputs[0]._array.any()


def _padding(t: Tensor) -> bool:
    return any(_is_zeros(part) for part in t.inputs)


def _pieces(t: Tensor) -> list[tuple[tuple[int, int], Tensor]]:
    at, found = 0, []
    for part in t.inputs:
        n = part.shape[1]
        if not _is_zeros(part):
            found.append(((at, at + n), part))
        at += n
    return found


def _zeros(like: Tensor, n: int) -> Tensor:
    return broadcast_to(Tensor(0.0, dtype=like.dtype), (ROWS, n))


def _padded(pieces: list[tuple[tuple[int, int], Tensor]], total: int) -> Tensor:
    """A matrix of `total` columns: each piece at its columns, the sum where they overlap, zeros elsewhere."""
    cuts = sorted({0, total, *(c for (a, b), _ in pieces for c in (a, b))})
    parts = []
    for a, b in pairwise(cuts):
        here = [columns(t, a - start, b - start) for (start, stop), t in pieces if start <= a and b <= stop]
        value = None
        for t in here:
            value = t if value is None else add(value, t)
        parts.append(value if value is not None else _zeros(pieces[0][1], b - a))
    return join(parts)
