"""What `tr.explain` finds, as records, and the text that it prints.

Operations and bytes are those of one row of one step unless they say otherwise; what is done once for all steps counts
with its share.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

COLUMNS = 100


@dataclass(frozen=True)
class Product:
    """A product in the loop: (rows, inner) @ (inner, width)."""

    equation: str
    inner: int
    width: int
    has_bias: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.inner * self.width + self.width * self.has_bias


@dataclass(frozen=True)
class Group:
    """Elementwise instructions between two products, which run tile by tile. ops: their number; flops: of one row."""

    equations: tuple[str, ...]
    ops: int
    flops: int


@dataclass(frozen=True)
class Work:
    """Something done for all steps at once. flops, bytes: of one row of one step; shape: M x K x N of a product."""

    equation: str
    flops: int
    bytes: int
    shape: str = ""


@dataclass(frozen=True)
class Kept:
    """A value that is held for every step: `columns` floats a row. by: what makes it, "state", "loop" or "hoisted"."""

    name: str
    columns: int
    by: str


@dataclass(frozen=True)
class Merged:
    """Parameters side by side, so that one op does the work of several."""

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Centred:
    """A parameter less the mean of each of its rows: what it yields has mean 0 in every row."""

    name: str
    of: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Pass:
    """The forward pass, or its reverse.

    merged      parameters that were put side by side
    centred     parameters less the means of their rows
    hoisted     what is done before the loop, for all steps at once
    phases      the loop's body: Products and Groups in turn
    sunk        what is done behind the loop, for all steps at once
    deferred    of the reverse: gradients of parameters, summed over all rows and steps behind the loop
    optional    of the reverse: gradients of inputs, where they are wanted; not counted
    summed      of the reverse: gradients of parameters, added up inside the loop, a few steps at a time
    kept        what is held for every step: forward, for the reverse; in the reverse, for what is deferred and sunk
    reads       of the reverse: what it reads of the forward values
    recomputed  of the reverse: forward values that were not kept because they are cheap
    instructions  the program of the loop, one line each; two plans are the same if these are
    row_bytes   moved between the loop and its sequences for one row of one step
    weight_bytes  of the loop's weights, which every step reads
    """

    merged: tuple[Merged, ...]
    hoisted: tuple[Work, ...]
    phases: tuple[Product | Group, ...]
    sunk: tuple[Work, ...]
    deferred: tuple[Work, ...]
    kept: tuple[Kept, ...]
    reads: tuple[str, ...]
    recomputed: tuple[str, ...]
    instructions: tuple[str, ...]
    row_bytes: int
    weight_bytes: int
    optional: tuple[Work, ...] = ()
    summed: tuple[Work, ...] = ()
    centred: tuple[Centred, ...] = ()

    @property
    def products(self) -> tuple[Product, ...]:
        return tuple(p for p in self.phases if isinstance(p, Product))

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(p for p in self.phases if isinstance(p, Group))

    @property
    def loop_flops(self) -> int:
        return sum(p.flops for p in self.phases)

    @property
    def flops(self) -> int:
        """Of one row of one step, loop and all."""
        return self.loop_flops + sum(w.flops for w in (*self.hoisted, *self.sunk, *self.deferred))

    @property
    def bytes(self) -> int:
        """Moved for one row of one step, loop and all; the loop's weights aside."""
        return self.row_bytes + sum(w.bytes for w in (*self.hoisted, *self.sunk, *self.deferred))

    @property
    def shares(self) -> tuple[float, float]:
        """The share of the loop's floating-point operations in products, and in groups."""
        inside = sum(p.flops for p in self.products)
        total = max(self.loop_flops, 1)
        return inside / total, (self.loop_flops - inside) / total


@dataclass(frozen=True, repr=False)
class Explanation:
    """What `tr.explain` found; print it, or look at its parts.

    cell: its class and sizes. units: the width of its output. equations: of the step as it was recorded. forward,
    reverse: a Pass each. batch: rows of a step, or None. flops, bytes: of a training step of the loop's body and its
    share of everything around it, for `batch` rows, or for one; the weights' bytes are read once a step.
    """

    cell: str
    dtype: str
    units: int
    batch: int | None
    equations: tuple[str, ...]
    forward: Pass
    reverse: Pass

    @property
    def flops(self) -> int:
        return (self.batch or 1) * (self.forward.flops + self.reverse.flops)

    @property
    def bytes(self) -> int:
        passes = (self.forward, self.reverse)
        return sum((self.batch or 1) * p.bytes + p.weight_bytes for p in passes)

    @property
    def kept_floats(self) -> float:
        """Floats that training holds for every (time, row, unit) between the forward pass and the reverse."""
        return sum(k.columns for k in self.forward.kept) / self.units

    def __repr__(self) -> str:
        def count(p: Pass) -> str:
            return f"{_plural(len(p.products), 'product')} and {_plural(len(p.groups), 'group')}"

        return f"<Explanation of {self.cell}: {count(self.forward)} a step, {count(self.reverse)} in reverse>"

    def __str__(self) -> str:
        return "\n".join(_lines(self))


# -- printing ----------------------------------------------------------------------------------------------------------


def _lines(e: Explanation) -> Iterator[str]:
    n, rows = e.batch or 1, "B" if e.batch is None else str(e.batch)
    yield f"{e.cell}  {e.dtype}"
    yield ""
    yield "equations"
    for line in _aligned(e.equations):
        yield from textwrap.wrap(line, COLUMNS, initial_indent="  ", subsequent_indent="      ", break_long_words=False)
    for name, p in (("forward", e.forward), ("reverse", e.reverse)):
        yield ""
        yield name
        for c in p.centred:
            yield from _row("centred", f"{c.name} = {c.of} - mean of each row", " x ".join(map(str, c.shape)))
        for m in p.merged:
            parts = f"[{', '.join(m.parts)}]"
            text = parts if parts == m.name else f"{m.name} = {parts}"
            yield from _row("merged", text, " x ".join(map(str, m.shape)))
        for w in p.hoisted:
            yield from _row("hoisted", w.equation, w.shape)
        for phase in p.phases:
            if isinstance(phase, Product):
                yield from _row("product", phase.equation, f"{rows} x {phase.inner} x {phase.width}")
            else:
                for k, line in enumerate(_aligned(phase.equations) or ["copies"]):
                    yield from _row("" if k else "group", line, "" if k else _plural(phase.ops, "op"))
        behind = (("sunk", p.sunk), ("summed", p.summed), ("deferred", p.deferred), ("if wanted", p.optional))
        for label, works in behind:
            for w in works:
                yield from _row(label, w.equation, w.shape)
        if p.kept:
            floats = sum(k.columns for k in p.kept) / e.units
            yield from _row(
                "kept", ", ".join(k.name for k in p.kept), f"{floats:.3g} float{'s' * (floats != 1)} a (t, b, unit)"
            )
        if p.reads:
            yield from _row("reads", ", ".join(p.reads), "")
        if p.recomputed:
            yield from _row("recomputed", ", ".join(p.recomputed), "")
        product, group = p.shares
        yield from _row(
            "flops",
            f"{_number(p.flops * n)}, {_number(p.loop_flops * n)} in the loop: {product:.1%} in products, {group:.1%} "
            "in groups",
            "",
        )
        yield from _row("bytes", f"{_number(p.bytes * n)}, and {_number(p.weight_bytes)} of the loop's weights", "")
    yield ""
    yield f"a step of {_plural(n, 'row')}, forward and reverse: {_number(e.flops)} flops, {_number(e.bytes)} bytes"


def _row(label: str, text: str, info: str) -> Iterator[str]:
    head = f"  {label:<10} "
    room = COLUMNS - len(head) - (len(info) + 2 if info else 0)
    lines = textwrap.wrap(text, room, subsequent_indent="    ", break_long_words=False) or [""]
    yield f"{head}{lines[0]:<{COLUMNS - len(head) - len(info)}}{info}".rstrip()
    yield from (" " * len(head) + line for line in lines[1:])


def _aligned(lines: Sequence[str]) -> list[str]:
    """Equations with their signs below one another, where the names are short."""
    lefts = [line.partition(" = ")[0] for line in lines]
    most = max((len(n) for n in lefts if len(n) <= 12), default=0)
    return [f"{left:<{most}} = {line.partition(' = ')[2]}" for line, left in zip(lines, lefts, strict=True)]


def _plural(n: float, noun: str) -> str:
    return f"{n:.3g} {noun}{'s' * (n != 1)}"


def _number(n: float) -> str:
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= scale:
            return f"{n / scale:.3g} {unit}"
    return f"{n:g}"
