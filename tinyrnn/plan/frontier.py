"""Where a step is cut: what comes before the loop over time, and what the loop makes of that behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tinyrnn._core.tape import Tensor
from tinyrnn.plan.columns import OPS, as_columns
from tinyrnn.plan.step import STATE, is_number, is_repeated, is_rowed, topological, width

VIEWS = (OPS["getitem"], OPS["reshape"])


def frontier_of(reads: Iterable[Tensor], inner: set[Tensor], outside: Iterable[Tensor], hoists: bool) -> set[Tensor]:
    """What a loop that makes `inner` reads from before it. reads: what its ops read; outside: what others read.

    Elementwise ops and reductions of rows, which wait for no state either, are left to the loop, but for values that
    are made for whole sequences anyway: on rows at hand they cost less than passes over sequences. So are, unless it
    hoists, products of inputs that are read whole, and by the loop alone. Slices that cover a value are left to it too,
    so that its gradient comes in one piece.
    """
    outside = [*outside]
    there = set(topological(outside))
    found = _read_from(reads, inner, there)
    while not (made := set(topological(found))) <= there:
        there |= made
        found = _read_from(reads, inner, there)
    found = _with_whole(found)
    if hoists:
        return found
    for t in [t for t in found if is_product(t)]:
        if t not in topological([*outside, *(found - {t})]):
            found = found - {t} | {*t.inputs}
    return _with_whole(found)


def _read_from(reads: Iterable[Tensor], inner: set[Tensor], there: set[Tensor]) -> set[Tensor]:
    """Where a walk back from `reads` through what is light and not `there` ends."""
    found: set[Tensor] = set()
    stack = list(reads)
    while stack:
        t = stack.pop()
        while is_repeated(t) and not is_rowed(t.inputs[0]):
            t = t.inputs[0]  # repeated for every row: the loop reads the one row
        if t in inner or t in found or is_number(t):
            continue
        if t not in there and _is_light(t):
            stack.extend(t.inputs)
        else:
            found.add(t)
    return found


def _with_whole(found: set[Tensor]) -> set[Tensor]:
    """The same with the whole for slices that cover it, or that are read beside it."""
    covered: dict[Tensor, dict[Tensor, range]] = {}
    for t in found:
        source, start, stop = as_columns(t)
        if source is not t:
            covered.setdefault(source, {})[t] = range(start, stop)
    for source, cuts in covered.items():
        if source in found or {c for cut in cuts.values() for c in cut} == set(range(source.shape[1])):
            found = {*found, source} - set(cuts)
    return found


def _is_light(t: Tensor) -> bool:
    """Whether t is an elementwise op of rows as wide as its own, or of one column, or a reduction of rows."""
    if t.op is None or not is_rowed(t):
        return False
    rowed = [s for s in t.inputs if is_rowed(s) and not (is_repeated(s) and not is_rowed(s.inputs[0]))]
    if t.op.code >= 0:
        return bool(rowed) and all(s.shape == t.shape or width(s) == 1 for s in rowed)
    return bool(rowed) and t.op.name in ("sum", "max", "sum_to", "broadcast_to", "stop_gradient")


def is_product(t: Tensor) -> bool:
    """Whether t is a product of an input as it is, or columns of one, with a matrix that is the same for all rows.

    Others are made before every loop: a gradient that goes on through ops of inputs would round otherwise in one.
    """
    if t.op is not OPS["matmul"] or not is_rowed(t.inputs[0]):
        return False
    return source_of(t.inputs[0]).op is None and t.inputs[1].ndim == 2 and not is_rowed(t.inputs[1])


def made_inside(behind: Sequence[Tensor], inner: set[Tensor], level: dict[Tensor, int]) -> set[Tensor]:
    """Which of the values behind a loop that makes `inner` it can make itself: what has rows and is no product."""
    found: set[Tensor] = set()
    for t in behind:
        fits = is_rowed(t) and t.op is not OPS["matmul"] and (t.op is not OPS["concat"] or t.attrs[0] == 1)
        if fits and all(s in inner or s in found or level[s] != STATE for s in t.inputs or ()):
            found.add(t)
    return found


def is_sum(t: Tensor) -> bool:
    """Whether t is a sum over all rows."""
    return t.op in (OPS["sum"], OPS["sum_to"]) and is_rowed(t.inputs[0]) and not is_rowed(t)


def source_of(t: Tensor) -> Tensor:
    """What t is a slice of: a slice is taken where it is read."""
    while t.op in VIEWS and is_rowed(t.inputs[0]):
        t = t.inputs[0]
    return t
