"""Passes that make a recorded step cheaper without changing what it computes (beyond the order of its sums).

0. `share`       what is computed twice is computed once
   `narrow`      what is the same in every column is computed for one
   `centre`      a product minus its row's mean becomes the product with weights of which each row has mean 0
1. `canonical`   sums are laid flat and put in one order, input terms, parameters, products of states, the rest; a
                 product of a concatenation becomes a sum of products; sums of slices' gradients become concatenations
2. `merge_products`   products with the same left side become one product with the weights side by side
3. `merge_elementwise`   the same op on neighbouring columns becomes one op on all of them
4. `fuse_multiply_add`   a * b + c becomes one op, and so does w * a + (1 - w) * b

Each takes a Step and returns a Step on the same leaves. They work on the reverse of a step as well as on the step.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tinyrnn._core import tape
from tinyrnn._core.tape import Op, Tensor
from tinyrnn.ops import add, broadcast_to, concat, fma, getitem, mix, mul, neg, square, sub
from tinyrnn.ops.arrays import RECORDS as ARRAY_OPS
from tinyrnn.plan.step import (
    INPUT,
    PARAMETER,
    ROWS,
    STATE,
    Step,
    consumers,
    is_number,
    is_repeated,
    is_rowed,
    levels,
    named,
    topological,
    width,
)

OPS: dict[str, Op] = {op.name: op for op in ARRAY_OPS}
SUMS = (add, sub, neg)


def rewrite(step: Step) -> Step:
    """All passes, in order."""
    step = merge_products(canonical(centre(narrow(share(step)))))
    while (merged := merge_elementwise(step)) is not step:
        step = merged
    return fuse_multiply_add(step)


# -- 0. the same twice -------------------------------------------------------------------------------------------------


def share(step: Step) -> Step:
    first: dict[Any, Tensor] = {}
    known: dict[Tensor, Tensor] = {}
    for t in topological(step.results):
        new = _again(t, known)
        key: Any = id(new)
        if is_number(new):
            key = (float(new._array), new.shape)
        elif new.op is not None and not any(isinstance(a, np.ndarray) for a in _flatten(new.attrs)):
            key = (new.op, tuple(map(id, new.inputs)), repr(new.attrs))
        known[t] = named(first.setdefault(key, new), t)
    return step.with_results([known[r] for r in step.results])


def _flatten(attrs: Any) -> Iterator[Any]:
    for a in attrs:
        if isinstance(a, (tuple, list)):
            yield from _flatten(a)
        else:
            yield a


def narrow(step: Step) -> Step:
    """Ops on repeated columns alone become ops on the columns, and sums of negatives negative sums."""
    known: dict[Tensor, Tensor] = {}
    for t in topological(step.results):
        new = _again(t, known)
        if new.op is not None and new.op.code >= 0 and is_rowed(new):
            columns = [s.inputs[0] if is_repeated_column(s) else s if is_number(s) else None for s in new.inputs]
            if all(c is not None for c in columns) and any(is_rowed(c) for c in columns if c is not None):
                new = named(broadcast_to(new.op(*columns), new.shape), new)
        elif new.op in (OPS["sum"], OPS["sum_to"]) and new.inputs[0].op is neg:
            new = named(neg(tape.apply(new.op, new.inputs[0].inputs, new.attrs)), new)
        known[t] = new
    return step.with_results([known[r] for r in step.results])


def is_repeated_column(t: Tensor) -> bool:
    return is_repeated(t) and is_rowed(t.inputs[0]) and width(t.inputs[0]) == 1 < width(t)


def centre(step: Step) -> Step:
    """p - mean(p), of a product p = a @ W that nothing else reads, becomes a @ (W - mean(W)): layer norm's begin."""
    readers = consumers(step.results, topological(step.results))
    level = levels(step)
    known: dict[Tensor, Tensor] = {}
    for t in topological(step.results):
        p = _centred(t, readers)
        if p is not None and p.ndim == 2 and level[w := p.inputs[1]] == PARAMETER:
            centred = w - tape.apply(OPS["sum"], (w,), ((1,), True)) * (1.0 / width(p))
            centred.name = f"{w.name or 'weights'}_centred"
            known[t] = named(tape.apply(OPS["matmul"], (known[p.inputs[0]], centred), ()), t)
        else:
            known[t] = _again(t, known)
    return step.with_results([known[r] for r in step.results])


def _centred(t: Tensor, readers: dict[Tensor, list[Tensor | None]]) -> Tensor | None:
    """The product p if t is p - sum(p) * (1 / columns), and no more than that reads it and its mean."""
    if t.op is not sub or t.inputs[0].op is not OPS["matmul"]:
        return None
    p, mean = t.inputs
    if mean.op is not mul or mean.inputs[0].op is not OPS["sum"] or not is_number(mean.inputs[1]):
        return None
    total, share = mean.inputs
    of_row = total.inputs[0] is p and total.attrs == ((1,), True) and share._array == np.array(1.0 / width(p), p.dtype)
    alone = set(readers[p]) == {t, total} and readers[total] == [mean] and readers[mean] == [t]
    return p if of_row and alone else None


# -- columns -----------------------------------------------------------------------------------------------------------


def column_range(index: Any, shape: Sequence[int]) -> tuple[int, int] | None:
    """(start, stop) if an index takes neighbouring columns of all rows of a matrix, else None."""
    if len(shape) != 2 or not isinstance(index, tuple) or len(index) != 2:
        return None
    rows, cols = index
    if not (isinstance(rows, slice) and isinstance(cols, slice)):
        return None
    if rows != slice(None) and rows.indices(shape[0]) != (0, shape[0], 1):
        return None
    start, stop, stride = cols.indices(shape[1])
    return (start, max(start, stop)) if stride == 1 else None


def as_columns(t: Tensor) -> tuple[Tensor, int, int]:
    """t as columns start..stop of some value; t itself if it is not a slice."""
    if t.op is OPS["getitem"]:
        cut = column_range(t.attrs[0], t.inputs[0].shape)
        if cut is not None and is_rowed(t):
            source, start, _ = as_columns(t.inputs[0])
            return source, start + cut[0], start + cut[1]
    return t, 0, t.shape[1] if t.ndim == 2 else 0


def columns(t: Tensor, start: int, stop: int) -> Tensor:
    """t[:, start:stop], looking through slices and concatenations."""
    if (start, stop) == (0, t.shape[1]):
        return t
    if t.op is OPS["getitem"]:
        source, at, _ = as_columns(t)
        if source is not t:
            return columns(source, at + start, at + stop)
    if t.op is OPS["concat"] and t.attrs[0] == 1:
        at = 0
        for part in t.inputs:
            n = part.shape[1]
            if at <= start and stop <= at + n:
                return columns(part, start - at, stop - at)
            at += n
    return getitem(t, (slice(None), slice(start, stop)))


def join(parts: Sequence[Tensor]) -> Tensor:
    """concat(parts, axis=1), with neighbouring slices of one value joined into one slice."""
    joined: list[Tensor] = []
    for part in parts:
        for piece in part.inputs if part.op is OPS["concat"] and part.attrs[0] == 1 else (part,):
            if joined:
                (a, a0, a1), (b, b0, b1) = as_columns(joined[-1]), as_columns(piece)
                if a is b and a1 == b0:
                    joined[-1] = columns(a, a0, b1)
                    continue
            joined.append(piece)
    return joined[0] if len(joined) == 1 else concat(joined, 1)


# -- 1. sums -----------------------------------------------------------------------------------------------------------

Term = tuple[int, Tensor]  # its sign, and the value


def canonical(step: Step) -> Step:
    nodes = topological(step.results)
    readers = consumers(step.results, nodes)
    level = levels(step)
    known: dict[Tensor, Tensor] = {}
    new_level: dict[Tensor, int] = {}
    phase: dict[Tensor, int] = {}
    products: dict[Tensor, list[Tensor]] = {}  # of those that became a sum

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
            made = _products(known[t.inputs[0]], known[t.inputs[1]], new_level)
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


def _products(a: Tensor, w: Tensor, level: dict[Tensor, int]) -> list[Tensor]:
    """a @ w, as products whose sum it is if a joins values that are there before, like [x, h].

    What is joined from values of this step, like the gradients of gates, is better multiplied in one piece.
    """
    joins = a.op is OPS["concat"] and a.attrs[0] == 1 and w.ndim == 2 == a.ndim
    if not joins or (all(p.op is not None for p in a.inputs) and len({_level_of(p, level) for p in a.inputs}) == 1):
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


# -- 2. products -------------------------------------------------------------------------------------------------------


def merge_products(step: Step) -> Step:
    nodes = topological(step.results)
    readers = consumers(step.results, nodes)
    level = levels(step)
    groups: dict[Tensor, list[Tensor]] = defaultdict(list)
    for t in nodes:
        if t.op is OPS["matmul"] and is_rowed(t) and t.ndim == 2 and level[t.inputs[1]] == PARAMETER:
            groups[t.inputs[0]].append(t)

    def fate(t: Tensor) -> str:
        """What happens to a product next: those that are summed and then meet the same op shall be neighbours."""
        names = ""
        while len(readers[t]) == 1 and (reader := readers[t][0]) is not None:
            t = reader
            names += f" {t.op.name}"
            if t.op not in SUMS:
                break
        return names

    known: dict[Tensor, Tensor] = {}
    for t in nodes:
        if t in known:
            continue
        group = groups.get(t.inputs[0], []) if t.op is OPS["matmul"] and t.inputs else []
        if t in group and len(group) > 1:
            group = sorted(group, key=fate)
            weights = [_ready(p.inputs[1], known) for p in group]
            whole = tape.apply(OPS["matmul"], (known[t.inputs[0]], concat(weights, 1)), ())
            at = 0
            for p in group:
                known[p] = named(columns(whole, at, at + p.shape[1]), p)
                at += p.shape[1]
        else:
            known[t] = _again(t, known)
    return step.with_results([known[r] for r in step.results])


def _ready(t: Tensor, known: dict[Tensor, Tensor]) -> Tensor:
    """A value of parameters alone, computed early if need be."""
    if t not in known:
        for s in t.inputs or ():
            _ready(s, known)
        known[t] = _again(t, known)
    return known[t]


def _again(t: Tensor, known: dict[Tensor, Tensor]) -> Tensor:
    """t applied to what its inputs became; t itself if they did not change."""
    if t.op is None:
        return t
    inputs = tuple(known[s] for s in t.inputs)
    if t.op is OPS["getitem"] and is_rowed(inputs[0]):
        cut = column_range(t.attrs[0], inputs[0].shape)
        if cut is not None:
            return named(columns(inputs[0], *cut), t)
    if t.op is OPS["concat"] and t.attrs[0] == 1 and is_rowed(t) and t.ndim == 2:
        return named(join(inputs), t)
    if all(a is b for a, b in zip(inputs, t.inputs, strict=True)):
        return t
    return named(tape.apply(t.op, inputs, t.attrs), t)


# -- 3. the same op on neighbours --------------------------------------------------------------------------------------


def merge_elementwise(step: Step) -> Step:
    """One round of merging; the same Step if there was nothing to merge."""
    nodes = topological(step.results)
    readers = consumers(step.results, nodes)
    level = levels(step)
    groups: dict[Any, list[Tensor]] = defaultdict(list)
    for t in nodes:
        key = None if is_only_summed(t, readers) else _merge_key(t, level)
        if key is not None:
            groups[key].append(t)
    leader: dict[Tensor, list[Tensor]] = {}
    for group in groups.values():
        for run in _runs(group):
            leader.update(dict.fromkeys(run, run))
    if not leader:
        return step
    known: dict[Tensor, Tensor] = {}
    for t in nodes:
        if t in known:
            continue
        if t not in leader:
            known[t] = _again(t, known)
            continue
        run = leader[t]
        operands = [_side_by_side([p.inputs[k] for p in run], known) for k in range(len(t.inputs))]
        whole = t.op(*operands)
        at = 0
        for p in run:
            known[p] = named(columns(whole, at, at + p.shape[1]), p)
            at += p.shape[1]
    return step.with_results([known[r] for r in step.results])


def is_only_summed(t: Tensor, readers: Mapping[Tensor, Sequence[Tensor | None]]) -> bool:
    """Whether t is a square of which nobody wants anything but the sum over its columns: it need not be stored."""
    if t.op is not square or len(readers[t]) != 1 or (reader := readers[t][0]) is None:
        return False
    return reader.op is OPS["sum"] and reader.attrs[0] == (t.ndim - 1,) and t.inputs[0].shape == t.shape


def _merge_key(t: Tensor, level: dict[Tensor, int]) -> Any:
    """What two values must share to be merged, beside being neighbours; None if t can not be merged."""
    if t.op is None or t.op.code < 0 or not is_rowed(t) or t.ndim != 2:
        return None
    kinds: list[Any] = []
    for s in t.inputs:
        source = as_columns(s)[0]
        if source is not s and s.shape == t.shape:
            kinds.append(source)
        elif level[s] == PARAMETER and s.shape == t.shape[1:]:
            kinds.append("vector")
        elif is_number(s) and s.shape == ():
            kinds.append(float(s._array))
        else:
            return None
    return (t.op, *kinds) if any(isinstance(k, Tensor) for k in kinds) else None


def _runs(group: list[Tensor]) -> list[list[Tensor]]:
    """The maximal lists of values whose slices are neighbours, each operand's in the same order."""

    def cuts(t: Tensor) -> list[tuple[int, int]]:
        return [c[1:] for s in t.inputs if (c := as_columns(s))[0] is not s]

    runs: list[list[Tensor]] = []
    for t in sorted(group, key=cuts):
        if runs and all(a[1] == b[0] for a, b in zip(cuts(runs[-1][-1]), cuts(t), strict=True)):
            runs[-1].append(t)
        else:
            runs.append([t])
    return [run for run in runs if len(run) > 1]


def _side_by_side(operands: list[Tensor], known: dict[Tensor, Tensor]) -> Tensor:
    first = operands[0]
    if first.shape == ():
        return first
    ready = [_ready(s, known) for s in operands]
    return concat(ready, 0) if first.ndim == 1 else join(ready)


# -- 4. multiply-add ---------------------------------------------------------------------------------------------------


def fuse_multiply_add(step: Step) -> Step:
    nodes = topological(step.results)
    readers = consumers(step.results, nodes)
    known: dict[Tensor, Tensor] = {}

    def fused(t: Tensor) -> Tensor | None:
        """The sum t with the product of elements in it, if nobody else reads that one."""
        products = [m.op is mul and len(readers[m]) == 1 and m.shape == t.shape and is_rowed(m) for m in t.inputs]
        if all(products) and (parts := _mixed(*t.inputs)):
            return mix(*(known[s] for s in parts))
        for k in (1, 0):
            m, other = t.inputs[k], t.inputs[1 - k]
            if products[k] and (k == 1 or other.op is not OPS["matmul"]):  # else the product adds itself to m
                return fma(known[m.inputs[0]], known[m.inputs[1]], known[other])
        return None

    for t in nodes:
        new = fused(t) if t.op is add and is_rowed(t) else None
        known[t] = _again(t, known) if new is None else named(new, t)
    return step.with_results([known[r] for r in step.results])


def _mixed(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """(w, a, b) if the products p and q are w * a and (1 - w) * b, in any order."""
    for first, second in ((p, q), (q, p)):
        for w, a in (first.inputs, first.inputs[::-1]):
            for rest, b in (second.inputs, second.inputs[::-1]):
                if rest.op is sub and rest.inputs[1] is w and is_number(rest.inputs[0]) and rest.inputs[0].item() == 1:
                    return w, a, b
    return None
