"""What a loop keeps for its reverse, and how it lies: what costs more to compute again than to write and read."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from tinyrnn._core.tape import Tensor
from tinyrnn.ops import concat, fma, lerp, mix, mul, square
from tinyrnn.plan.columns import OPS, SUMS, as_columns
from tinyrnn.plan.frontier import VIEWS, source_of
from tinyrnn.plan.step import Step, consumers, is_rowed, topological, width

CHEAP = (*SUMS, mul, square, fma, mix, lerp, *VIEWS, OPS["broadcast_to"])


def choose_kept(step: Step, expressions: Sequence[Tensor], products: AbstractSet[Tensor]) -> list[Tensor]:
    """Which values of the step its reverse shall find kept, beside states and inputs; the others it computes again.

    Sums, products of elements and slices of what is there are computed again, which costs less than memory, unless a
    deferred product needs them for the whole sequence; if one number a row is all they lack, that is kept. Everything
    else that the reverse reads is kept. products: inputs of the step that might have been made in it. What would not
    have been kept then serves to compute nothing again, so that gradients have the same bits wherever they are made.
    """
    own = topological(step.results)
    rowed = {t for t in own if t.op is not None and is_rowed(t)}
    found = topological(expressions, rowed)
    read = {t for t in found if t in rowed}
    multiplied = {s for t in found if t.op in (OPS["matmul"], OPS["transpose"]) for s in t.inputs}
    # Their maximum is found by comparing: computed again, in another order, none of them might equal it.
    compared = {t.inputs[0] for t in own if t.op is OPS["max"]}
    held = {source_of(t) for t in found if source_of(t) in products}
    kept: dict[Tensor, None] = {}

    def is_cheap(t: Tensor) -> bool:
        return t.op in CHEAP and (t.op in VIEWS or (t not in multiplied and t not in compared))

    def keep(t: Tensor) -> None:
        t = source_of(t)
        if t in rowed and t not in step.nexts:
            kept[t] = None

    for t in own:
        if t in read and (not is_cheap(t) or t.op in VIEWS):
            keep(t)
    # The columns that would have to be kept for a value to be computed again; None: no columns would do.
    lacking: dict[Tensor, set[Tensor] | None] = {}
    for t in own:
        columns: set[Tensor] | None = None
        if t in products and t not in held and t not in step.nexts:
            columns = {t} if width(t) == 1 else None
        elif t not in rowed or t in kept or t in step.nexts:
            columns = set()
        elif not is_cheap(t):
            columns = {t} if width(t) == 1 else None
        elif all(lacking[s] is not None for s in t.inputs):
            columns = {c for s in t.inputs for c in lacking[s] or () if c not in kept}
        if columns != set() and t in read:
            for c in columns or (t,):
                keep(c)
            lacking[source_of(t)] = columns = set()
        lacking[t] = columns
    return list(kept)


def side_by_side(step: Step, kept: Sequence[Tensor]) -> list[Tensor]:
    """The kept values, with those made of all the columns of one value, slice by slice, as columns of one again.

    The gradient of that one value has the same columns, and can take their place when they have been read.
    """
    readers = consumers(step.results, topological(step.results))
    made: dict[Tensor, dict[int, Tensor]] = {}
    for t in kept:
        joined = any(r is not None and r.op is OPS["concat"] for r in readers[t])
        if t.op.code >= 0 and t not in step.emits and not joined:
            for source, start in _columns_behind(t):
                made.setdefault(source, {})[start] = t
    found = list(kept)
    for source, by_start in made.items():
        parts = [t for _, t in sorted(by_start.items())]
        starts = np.cumsum([0, *map(width, parts)]).tolist()
        covers = [*sorted(by_start), width(source)] == starts
        if covers and len(set(parts)) == len(parts) > 1 and all(t in found for t in parts):
            found[found.index(parts[0])] = concat(parts, 1)
            found = [t for t in found if t not in parts]
    return found


def _columns_behind(t: Tensor) -> list[tuple[Tensor, int]]:
    """Of what an elementwise op is made, through sums: (value, first column) for slices as wide as its result."""
    found, stack, seen = [], list(t.inputs), set[Tensor]()
    while stack:
        s = stack.pop()
        if s in seen:
            continue
        seen.add(s)
        source, start, stop = as_columns(s)
        if source is not s and stop - start == width(t):
            found.append((source, start))
        elif s.op in SUMS:
            stack.extend(s.inputs)
        elif s.op is fma:
            stack.append(s.inputs[2])
    return found
