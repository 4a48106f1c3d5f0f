"""A home for every value of a loop's body: a buffer of its program, and a column in it.

Slices and reshapes are views of their source's home. What a concatenation joins is computed at its place in the whole,
so that a product finds its left side in one piece. A value wanted for the whole sequence has its home in that sequence,
and sums and kept values take the place of a hoisted product that nobody else reads. A sum that ends with a bias stays
where its products are added up: the last of them adds the bias. A value of which only the sum over all steps is wanted
is added to a few partial sums where it is made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinyrnn._core import kernels
from tinyrnn._core.tape import Tensor
from tinyrnn.ops import add, fma
from tinyrnn.plan.columns import OPS, column_range
from tinyrnn.plan.program import BufferSpec, Program
from tinyrnn.plan.rewrite import is_repeated_column
from tinyrnn.plan.step import STATE, Step, consumers, is_repeated, is_rowed, levels, topological, width

Home = tuple[int, int]  # buffer, column
Read = tuple[Tensor | None, int, int]  # by whom (None: by several, or behind the loop), from column, to column

VIEWS = ("reshape", "stop_gradient")


def adds_up_at_once(t: Tensor) -> bool:
    """Whether t is a product that adds up a whole row before it stores it, so that it may add it to a value instead:
    bits do not depend on whether it does. (One of several blocks would add each to the value by itself.)
    """
    return t.op is OPS["matmul"] and t.inputs[1].shape[0] * t.dtype.itemsize <= kernels.SUM_BYTES


class Homes:
    """Where the values of a body live: for each a buffer of the program and a column in it."""

    def __init__(
        self,
        body: Step,
        keep: Sequence[Tensor],
        record_states: Sequence[bool],
        held: Sequence[Tensor],
        spare: Sequence[bool],
        chained: bool,
    ) -> None:
        self.body, self.keep = body, list(keep)
        self.program = Program()
        self.home: dict[Tensor, Home] = {}
        columns = [t for t in held if self._view(t) is not None]
        self.nodes = [t for t in topological([*body.nexts, *keep, *body.totals, *columns]) if is_rowed(t)]
        self.readers = consumers([*body.nexts, *body.totals, *held], self.nodes)
        self.scratch: dict[int, None] = {}
        self.vectors: dict[tuple[Tensor, tuple[int, ...]], int] = {}  # the buffer of each
        self.adds_into: dict[Tensor, Tensor] = {}  # a product -> the sum that it adds itself into
        self.biased: dict[Tensor, Tensor] = {}  # what a product yields -> the same with a bias, which it adds, too
        self.phase: dict[Tensor, int] = {}  # how many products a value waits for, one behind the other
        for t in self.nodes:
            before = max((self.phase[s] for s in t.inputs or () if s in self.phase), default=0)
            self.phase[t] = before + (t.op is OPS["matmul"])
        level = levels(body)
        # Products of inputs, which a plan that hoists does ahead.
        self.early = {t: None for t in self.nodes if t.op is OPS["matmul"] and level[t] != STATE}
        self.spread = {t for t in self.nodes if self._only_spreads(t)}
        self.copies: list[tuple[Tensor, int]] = []  # (a value, a buffer that shall have it too)
        for k, seq in enumerate(body.seqs):
            self.home[seq] = (self._buffer("sequence", width(seq), ("seq", k)), 0)
        self.spare = list(spare)
        self.reused: set[Tensor] = set()  # kept values in the memory of spare sequences
        after: list[int | None] = []
        for k, state in enumerate(body.states):
            if chained and record_states[k]:
                self.home[state] = (self._buffer("sequence", width(state), ("before", k)), 0)
                after.append(None)
            else:
                self.home[state] = (self._buffer("before", width(state), ("pair", k)), 0)
                after.append(self._buffer("after", width(state), ("pair", k)))
        recorded = [
            self._buffer("sequence", width(s), ("state", k)) if record_states[k] else None
            for k, s in enumerate(body.states)
        ]
        self._homes_of_results(after, recorded)
        self.copies += [(t, b) for k, t in enumerate(body.nexts) for b in (after[k], recorded[k]) if b is not None]
        self.partial = {t: self._buffer("partial", width(t), ("sum", k)) for k, t in enumerate(body.totals)}

    # -- homes ---------------------------------------------------------------------------------------------------------

    def _buffer(self, place: str, columns: int, source: tuple[str, int] | None = None) -> int:
        self.program.buffers.append(BufferSpec(place, columns, source))
        return len(self.program.buffers) - 1

    def _is_computed(self, t: Tensor) -> bool:
        """Whether an instruction writes t (as opposed to a leaf, or a view of something)."""
        if t.op is None or t in self.home or t in self.spread:
            return False
        return self._view(t) is None and not self._is_vector(t)

    def _is_vector(self, t: Tensor) -> bool:
        """Whether t is one row of parameters or constants, repeated."""
        return is_repeated(t) and not is_rowed(t.inputs[0])

    def _only_spreads(self, t: Tensor) -> bool:
        """Whether t is one column repeated that its readers can do without: elementwise ops read the column."""
        return is_repeated_column(t) and all(
            r is not None and r.op.code >= 0 and any(width(s) > 1 and s is not t for s in r.inputs)
            for r in self.readers[t]
        )

    def _column(self, s: Tensor) -> Tensor:
        """What s repeats, if that is one column which its readers read."""
        return s.inputs[0] if s in self.spread else s

    def _vector(self, s: Tensor, row: tuple[int, ...]) -> Home:
        key = (s, row)
        if key not in self.vectors:
            self.vectors[key] = self._buffer("vector", int(np.prod(row)), ("vector", len(self.program.vectors)))
            self.program.vectors.append(key)
        return self.vectors[key], 0

    def _view(self, t: Tensor) -> tuple[Tensor, int] | None:
        """(source, column) if t is nothing but columns of its source."""
        if t.op is None or not is_rowed(t.inputs[0]):
            return None
        if t.op.name in VIEWS:
            return t.inputs[0], 0
        if t.op is OPS["getitem"]:
            cut = column_range(t.attrs[0], t.inputs[0].shape)
            if cut is not None:
                return t.inputs[0], cut[0]
        if t.op is OPS["broadcast_to"] and t.shape == t.inputs[0].shape:
            return t.inputs[0], 0
        return None

    def _homes_of_results(self, after: list[int | None], recorded: list[int | None]) -> None:
        """Homes that are decided from outside: kept sequences, states, and the inside of concatenations."""
        kept = {t for t in self.keep if self._is_computed(t)}
        # A concatenation with a kept part is kept as a whole; its parts are columns of it.
        joined: dict[Tensor, tuple[Tensor, int]] = {}
        for t in self.nodes:
            if t.op is OPS["concat"] and t.attrs[0] == 1:
                at = 0
                for part in t.inputs:
                    if is_rowed(part) and self._is_computed(part) and part not in joined and part.op is not t.op:
                        joined[part] = (t, at)
                    at += width(part)
        wholes = {joined[t][0] if t in joined else t for t in kept}
        parts = {t for t in joined if joined[t][0] in wholes}
        self._use_again([t for t in self.nodes if t in parts or (t in wholes and t.op is not OPS["concat"])])
        for t in [t for t in self.nodes if t in wholes and t.op is OPS["concat"]]:
            if all(p in self.reused and joined[p][0] is t for p in t.inputs):
                buffer, at = self.home[t.inputs[0]]
                starts = np.cumsum([at, *map(width, t.inputs)]).tolist()
                if all(self.home[p] == (buffer, start) for p, start in zip(t.inputs, starts, strict=False)):
                    self.home[t] = buffer, at
                    self.reused.add(t)
        for t in [t for t in self.nodes if t in wholes and t not in self.home]:
            self._keep_apart(t)
        for k, t in enumerate(self.body.nexts):
            if self._is_computed(t) and t not in joined:
                target = after[k] if recorded[k] is None else recorded[k]
                assert target is not None
                self.home[t] = (target, 0)
        for t in reversed(self.nodes):
            if t.op is OPS["concat"] and any(joined.get(p, (None,))[0] is t for p in t.inputs):
                whole = self._home(t)
                for part in t.inputs:
                    if joined.get(part, (None,))[0] is t and part not in self.home:
                        self.home[part] = (whole[0], whole[1] + joined[part][1])
        for t in self.nodes:
            self._join_sum(t)
        for t in self.nodes:
            made = self._is_product(t) and t not in self.home and t not in self.biased.values()
            if made and (biased := self._with_bias(t)) is not None:
                self.biased[t] = biased
        for t in reversed(self.nodes):
            if self._is_product(t) and t.op is add:
                for s in t.inputs:
                    if self._is_computed(s):
                        self.home[s] = self._home(t)
        for t in self.keep:
            buffer, at = self._home(t)
            source = self.program.buffers[buffer].source
            if source is None or (source[0] != "keep" and self._resolved(t) not in self.reused):
                # a view of something that is not kept itself
                source = ("keep", len(self.program.kept_columns))
                at = 0
                self.program.kept_columns.append(width(t))
                self.copies.append((t, self._buffer("sequence", width(t), source)))
            self.program.keeps.append((source, at, width(t)))

    def _keep_apart(self, t: Tensor) -> Home:
        """A home for t in a kept sequence of its own."""
        number = len(self.program.kept_columns)
        self.program.kept_columns.append(width(t))
        self.home[t] = (self._buffer("sequence", width(t), ("keep", number)), 0)
        return self.home[t]

    def _resolved(self, t: Tensor) -> Tensor:
        """What t is a view of."""
        while (view := self._view(t)) is not None:
            t = view[0]
        return t

    def _reads(self, t: Tensor) -> list[Read]:
        """Who reads which columns of t, views looked through, from the first column on."""
        found: list[Read] = []
        for r in self.readers[t]:
            view = None if r is None else self._view(r)
            if view is None or r is None:
                found.append((r, 0, width(t)))
            else:
                found += [(q, view[1] + a, view[1] + b) for q, a, b in self._reads(r)]
        apart: list[Read] = []
        for read in sorted(found, key=lambda read: read[1:]):
            if apart and read[1] < apart[-1][2]:
                _, start, stop = apart.pop()
                read = None, start, max(stop, read[2])
            apart.append(read)
        return apart

    def _use_again(self, kept: Sequence[Tensor]) -> None:
        """Use the columns of spare sequences: for sums that begin there, and for kept values.

        x + a @ w: the product adds itself to x. Once their reader has run, columns are free for kept values that wait
        for that reader anyway. A product of inputs that was not hoisted is used in the same way.
        """
        for k, seq in enumerate(self.body.seqs):
            if self.spare[k : k + 1] == [True] and (reads := self._summands(seq)):
                writes, free, found = self._add_products(reads, self.home[seq][0], kept)
                for t, at, stop in free:
                    for v in kept:
                        fits = v not in found and v not in self.home and at + width(v) <= stop
                        if fits and self._may_overwrite(v, t, (self.home[seq][0], at)):
                            found[v] = at
                            at += width(v)
                full = sum(map(width, found)) == width(seq)
                if writes or full:
                    self.program.spent.append(k)
                if full:  # else it would be held whole for the sake of a part
                    self.reused.update(found)
                    self.home.update({v: (self.home[seq][0], start) for v, start in found.items()})
        for t in self.early:
            if t not in self.home and (reads := self._summands(t)):
                home = self._keep_apart(t) if t in kept else self._home(t)
                self._add_products(reads, home[0], kept)

    def _summands(self, source: Tensor) -> list[Read] | None:
        """Who reads columns of a source, if onto one of them a product, or onto all one of elements, is added."""
        reads = self._reads(source)
        onto = any(self._product_onto(t) is not None for t, _, _ in reads)
        return reads if onto or all(self._ends_with(t, source) for t, _, _ in reads) else None

    def _add_products(
        self, reads: Sequence[Read], buffer: int, kept: Sequence[Tensor]
    ) -> tuple[bool, list[Read], dict[Tensor, int]]:
        """Let products add themselves to columns of a buffer: (whether one does, what is read of it after them, which
        of the sums are kept, and at which column)."""
        free: list[Read] = []
        found: dict[Tensor, int] = {}
        writes = False
        for t, start, stop in reads:
            product = self._product_onto(t)
            if t is None or product is None:
                free.append((t, start, stop))
                continue
            writes = True
            t = self._add_up(t, product, (buffer, start))
            if t in kept:
                found[t] = start
            else:
                free += [(r, start + a, start + b) for r, a, b in self._reads(t)]
        return writes, free, found

    def _add_up(self, t: Tensor, product: Tensor | None, home: Home) -> Tensor:
        """Let a product add itself to what is at home, which makes the sum t, and then biases and further products, as
        long as nobody wants the sums before them any more; returns the last one.
        """
        while product is not None:
            self.adds_into[product] = t
            self.home[t] = self.home[product] = home
            biased = self._with_bias(t)
            if biased is not None:
                self.biased[t] = biased
                self.home[biased] = home
                t = biased
            for r in self.readers[t]:
                product = self._product_onto(r)
                if r is not None and product is not None and self._is_last_reader(r, product, t):
                    t = r
                    break
            else:
                product = None
        return t

    def _is_last_reader(self, t: Tensor, product: Tensor, p: Tensor) -> bool:
        """Whether all that reads p, but for the sum t = p + product, runs before the product, which may not read it."""
        others = [r for r in self.readers[p] if r is not t]
        before = set(topological(product.inputs)) if others else set()
        return all(r is not None and r in before and self._view(r) is None for r in others)

    def _product_onto(self, t: Tensor | None) -> Tensor | None:
        """The product that can add itself to the other term of the sum t."""
        if t is None or t.op is not add or t in self.body.nexts or not self._is_computed(t):
            return None
        for q, p in (t.inputs, t.inputs[::-1]):
            alone = adds_up_at_once(q) and self._is_computed(q) and len(self.readers[q]) == 1
            if alone and q not in self.early and p.shape == q.shape == t.shape:
                return q
        return None

    def _with_bias(self, t: Tensor) -> Tensor | None:
        """The sum of what a product yields and a row of parameters, if nobody wants the former alone."""
        if len(self.readers[t]) != 1 or (reader := self.readers[t][0]) is None or reader.op is not add:
            return None
        fits = reader.shape == t.shape and reader not in self.body.nexts and reader not in self.home
        vectors = [s for s in reader.inputs if s is not t and (not is_rowed(s) or self._is_vector(s))]
        return reader if fits and vectors else None

    def _ends_with(self, t: Tensor | None, seq: Tensor) -> bool:
        """Whether t is a * b + c, with c columns of seq."""
        return t is not None and t.op is fma and self._resolved(t.inputs[2]) is seq

    def _may_overwrite(self, v: Tensor, reader: Tensor | None, home: Home) -> bool:
        """Whether v can live in the columns that `reader` reads: it runs later, or is the reader, column by column."""
        if v is reader:
            return v.op.code >= 0 and all(self._place(s) == home for s in v.inputs if not self._is_vector(s))
        return reader is not None and reader in topological([v])

    def _place(self, t: Tensor) -> Home | None:
        """The home of t if it was decided."""
        if t in self.home:
            return self.home[t]
        view = self._view(t)
        home = None if view is None else self._place(view[0])
        return None if view is None or home is None else (home[0], home[1] + view[1])

    def _join_sum(self, t: Tensor) -> None:
        """p + a @ w: the product shall add itself to p, which is there before it and which nothing reads later."""
        if t.op is not add or t.shape != t.inputs[0].shape or t.shape != t.inputs[1].shape:
            return
        if any(s in self.early for s in t.inputs):
            return  # what is added to those, `_use_again` has decided
        for p, q in (t.inputs, t.inputs[::-1]):
            fits = adds_up_at_once(q) and len(self.readers[q]) == 1 and q not in self.home and self._is_computed(q)
            there = self._is_computed(p) and self.phase[p] - self._is_product(p) < self.phase[q]
            if fits and there and p not in self.home and self._is_last_reader(t, q, p):
                self.adds_into[q] = t
                return

    def _home(self, t: Tensor) -> Home:
        if t not in self.home:
            view = self._view(t)
            if view is not None:
                buffer, at = self._home(view[0])
                self.home[t] = (buffer, at + view[1])
            elif self._is_vector(t):
                self.home[t] = self._vector(t.inputs[0], t.shape[1:])
            else:
                self.home[t] = self._scratch(width(t))
        return self.home[t]

    def _scratch(self, columns: int) -> Home:
        buffer = self._buffer("scratch", columns)
        self.scratch[buffer] = None
        return buffer, 0

    def _is_product(self, t: Tensor) -> bool:
        """Whether a product instruction yields t: a product, or a sum that one adds itself to, or with its bias."""
        inputs = t.inputs or ()
        return t.op is OPS["matmul"] or any(self.adds_into.get(s) is t or self.biased.get(s) is t for s in inputs)
