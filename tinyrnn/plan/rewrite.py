"""Passes that make a recorded step cheaper without changing what it computes (beyond the order of its sums).

0. `share`       what is computed twice is computed once
   `narrow`      what is the same in every column is computed for one
   `centre`      a product minus its row's mean becomes the product with weights of which each row has mean 0
1. `canonical`   sums are laid flat and put in one order (sums.py)
2. `merge_products`   products with the same left side become one product with the weights side by side
3. `merge_elementwise`   the same op on neighbouring columns becomes one op on all of them
4. `fuse_multiply_add`   a * b + c becomes one op, and so do w * a + (1 - w) * b and a + w * (b - a)

Each takes a Step and returns a Step on the same leaves. They work on the reverse of a step as well as on the step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tinyrnn._core import tape
from tinyrnn._core.tape import Tensor
from tinyrnn.ops import add, broadcast_to, concat, fma, lerp, mix, mul, neg, square, sub
from tinyrnn.plan.columns import OPS, SUMS, as_columns, column_range, columns, join
from tinyrnn.plan.step import (
    PARAMETER,
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
from tinyrnn.plan.sums import canonical


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
        p = less_mean(t)
        if p is None or p.op is not OPS["matmul"] or level[p.inputs[1]] != PARAMETER or not _is_read_here(t, readers):
            known[t] = _again(t, known)
            continue
        a, w = (known[s] for s in p.inputs)
        centred = w - tape.apply(OPS["sum"], (w,), ((1,), True)) * (1.0 / width(p))
        centred.name = f"{w.name or 'weights'}_centred"
        known[t] = named(tape.apply(OPS["matmul"], (a, centred), ()), t)
    return step.with_results([known[r] for r in step.results])


def less_mean(t: Tensor) -> Tensor | None:
    """The matrix x if t is x - sum(x, axis=1, keepdims=True) * (1 / columns)."""
    if t.op is not sub or t.inputs[0].ndim != 2 or t.inputs[1].op is not mul:
        return None
    x, (total, share) = t.inputs[0], t.inputs[1].inputs
    sums = total.op is OPS["sum"] and total.inputs[0] is x and total.attrs == ((1,), True)
    return x if sums and is_number(share) and share._array == np.array(1.0 / x.shape[1], x.dtype) else None


def _is_read_here(t: Tensor, readers: dict[Tensor, list[Tensor | None]]) -> bool:
    """Of t = x - mean(x): whether nothing else reads x and its mean."""
    x, mean = t.inputs
    total = mean.inputs[0]
    return set(readers[x]) == {t, total} and readers[total] == [mean] and readers[mean] == [t]


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
        """The sum, or difference, t with the product of elements in it, if nobody else reads that one."""
        products = [m.op is mul and len(readers[m]) == 1 and m.shape == t.shape and is_rowed(m) for m in t.inputs]
        if t.op is add and all(products) and (parts := _mixed(*t.inputs)):
            return mix(*(known[s] for s in parts))
        for k in (1, 0) if t.op is add else (1,):
            m, other = t.inputs[k], t.inputs[1 - k]
            if products[k] and (parts := moved(t, m, other)):
                return lerp(*(known[s] for s in parts))
            # A product that comes last adds itself to m, and columns of a wider one are added to the same bits.
            if products[k] and t.op is add and (k == 1 or as_columns(other)[0].op is not OPS["matmul"]):
                return fma(known[m.inputs[0]], known[m.inputs[1]], known[other])
        return None

    def moved(t: Tensor, m: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """(a, b, w) if the sum t of a and m is a + w * (b - a), or a - w * (a - b), and nobody else reads b - a."""
        for w, d in (m.inputs, m.inputs[::-1]):
            if d.op is sub and readers[d] == [m] and d.shape == t.shape == a.shape:
                b, start = d.inputs if t.op is add else d.inputs[::-1]
                if start is a and b.shape == t.shape:
                    return a, b, w
        return None

    for t in nodes:
        new = fused(t) if t.op in (add, sub) and is_rowed(t) else None
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
