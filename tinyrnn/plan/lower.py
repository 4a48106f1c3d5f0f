"""From the values that must be computed inside the loop to the instructions of `_core/program.h`.

A `Body` is what remains in the loop: a step on its own abstract leaves. Lowering gives every value a home, a buffer
and a column in it. Slices and reshapes are views of their source's home. What a concatenation joins is computed at its
place in the whole, so that a product finds its left side in one piece. A value wanted for the whole sequence has its
home in that sequence. What only elementwise instructions between two products touch lives in a tile of a few rows,
which stays in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinyrnn._core import kernels
from tinyrnn._core.tape import Op, Tensor
from tinyrnn.ops import add
from tinyrnn.plan.rewrite import OPS, column_range
from tinyrnn.plan.step import ROWS, Step, consumers, is_repeated, is_rowed, topological, width


class PlanError(ValueError):
    """A step does something that a plan can not hold; the message names it and the way out.

    op: the name of the op that can not run in the loop, or None.
    """

    op: str | None = None


@dataclass(eq=False)
class BufferSpec:
    """place: see program.h. columns: its width. source: what fills or receives it (see `Program.buffers`)."""

    place: str
    columns: int
    source: object = None

    @property
    def number(self) -> int:
        """The place as program.h counts it."""
        return kernels.PLACES[self.place]


@dataclass(eq=False)
class Program:
    """The instructions of a body, and what their buffers stand for.

    buffers  BufferSpecs; source is for "vector": (tensor, shape of a row); for "sequence": ("seq", k) an input
             sequence, ("state", k) all states after a step, ("keep", j) the j-th kept buffer; for "before" and
             "after": the state's number
    weights  the parameter-level tensors behind products, by number
    keeps    where each kept value lies: (number of the kept buffer, first column, columns)
    made     every value of the body, in the order of the schedule, and how many instructions there are when it is made
    """

    buffers: list[BufferSpec] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    instructions: list[dict[str, int]] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    keeps: list[tuple[int, int, int]] = field(default_factory=list)
    kept_columns: list[int] = field(default_factory=list)
    made: list[tuple[Tensor, int]] = field(default_factory=list)

    @cached_property
    def flops(self) -> float:
        """Floating-point operations of one step of one row; an elementwise op counts as one an element."""
        product, one = kernels.KINDS["product"], kernels.KINDS["map"]
        return float(
            sum(2 * i["width"] * i["inner"] if i["kind"] == product else i["width"] * (i["kind"] == one)
                for i in self.instructions)
        )  # fmt: skip

    def code(self) -> NDArray[np.int32]:
        rows = [[i[f] for f in kernels.INSTRUCTION_FIELDS] for i in self.instructions]
        return np.array(rows, np.int32).reshape(len(rows), len(kernels.INSTRUCTION_FIELDS))


Home = tuple[int, int]  # buffer, column

VIEWS = ("reshape", "stop_gradient")


def lower(body: Step, keep: Sequence[Tensor], record_states: Sequence[bool]) -> Program:
    """The program of a body. keep: the values wanted for the whole sequence; record_states: which states are, too."""
    return _Lowering(body, keep, record_states).program


class _Lowering:
    def __init__(self, body: Step, keep: Sequence[Tensor], record_states: Sequence[bool]) -> None:
        self.body, self.keep = body, list(keep)
        self.program = Program()
        self.home: dict[Tensor, Home] = {}
        self.nodes = [t for t in topological([*body.nexts, *keep]) if is_rowed(t)]
        self.readers = consumers([*body.nexts, *keep], self.nodes)
        self.scratch: dict[int, None] = {}
        self.vectors: dict[tuple[Tensor, tuple[int, ...]], int] = {}
        self.weight_number: dict[Tensor, int] = {}
        self.adds_into: dict[Tensor, Tensor] = {}  # a product -> the sum that it adds itself into
        self.phase: dict[Tensor, int] = {}  # how many products a value waits for, one behind the other
        for t in self.nodes:
            before = max((self.phase[s] for s in t.inputs or () if s in self.phase), default=0)
            self.phase[t] = before + (t.op is OPS["matmul"])
        self.copies: list[tuple[Tensor, int]] = []  # (a value, a buffer that shall have it too)
        for k, seq in enumerate(body.seqs):
            self.home[seq] = (self._buffer("sequence", width(seq), ("seq", k)), 0)
        for k, state in enumerate(body.states):
            self.home[state] = (self._buffer("before", width(state), k), 0)
        after = [self._buffer("after", width(s), k) for k, s in enumerate(body.states)]
        recorded = [
            self._buffer("sequence", width(s), ("state", k)) if record_states[k] else None
            for k, s in enumerate(body.states)
        ]
        self._homes_of_results(after, recorded)
        self.copies += [(t, b) for k, t in enumerate(body.nexts) for b in (after[k], recorded[k]) if b is not None]
        for t in self._schedule():
            self._emit(t)
            for value, buffer in self.copies:
                if value is t and self.home[t] != (buffer, 0):
                    self._copy(t, (buffer, 0))
            self.program.made.append((t, len(self.program.instructions)))
        self._find_tiles()

    # -- homes ---------------------------------------------------------------------------------------------------------

    def _buffer(self, place: str, columns: int, source: object = None) -> int:
        self.program.buffers.append(BufferSpec(place, columns, source))
        return len(self.program.buffers) - 1

    def _is_computed(self, t: Tensor) -> bool:
        """Whether an instruction writes t (as opposed to a leaf, or a view of something)."""
        return t.op is not None and t not in self.home and self._view(t) is None and not self._is_vector(t)

    def _is_vector(self, t: Tensor) -> bool:
        """Whether t is one row of parameters or constants, repeated."""
        return is_repeated(t) and not is_rowed(t.inputs[0])

    def _vector(self, s: Tensor, row: tuple[int, ...]) -> Home:
        key = (s, row)
        if key not in self.vectors:
            self.vectors[key] = self._buffer("vector", int(np.prod(row)), key)
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

    def _homes_of_results(self, after: list[int], recorded: list[int | None]) -> None:
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
        for t in [t for t in self.nodes if t in wholes]:
            number = len(self.program.kept_columns)
            self.program.kept_columns.append(width(t))
            self.home[t] = (self._buffer("sequence", width(t), ("keep", number)), 0)
        for k, t in enumerate(self.body.nexts):
            if self._is_computed(t) and t not in joined:
                target = recorded[k]
                self.home[t] = (target if target is not None else after[k], 0)
        for t in reversed(self.nodes):
            if t.op is OPS["concat"] and any(joined.get(p, (None,))[0] is t for p in t.inputs):
                whole = self._home(t)
                for part in t.inputs:
                    if joined.get(part, (None,))[0] is t and part not in self.home:
                        self.home[part] = (whole[0], whole[1] + joined[part][1])
        for t in self.nodes:
            self._join_sum(t)
        for t in reversed(self.nodes):
            if self._is_product(t) and t.op is add:
                for s in t.inputs:
                    self.home[s] = self._home(t)
        for t in self.keep:
            buffer, at = self._home(t)
            source = self.program.buffers[buffer].source
            if not isinstance(source, tuple) or source[0] != "keep":  # a view of something that is not kept itself
                source = ("keep", len(self.program.kept_columns))
                at = 0
                self.program.kept_columns.append(width(t))
                self.copies.append((t, self._buffer("sequence", width(t), source)))
            self.program.keeps.append((source[1], at, width(t)))

    def _join_sum(self, t: Tensor) -> None:
        """p + a @ w: the product shall add itself to p, which is there before it and which nothing else reads."""
        if t.op is not add or t.shape != t.inputs[0].shape or t.shape != t.inputs[1].shape:
            return
        for p, q in (t.inputs, t.inputs[::-1]):
            fits = q.op is OPS["matmul"] and len(self.readers[q]) == 1 and q not in self.home and self._is_computed(q)
            early = self._is_computed(p) and self.phase[p] - self._is_product(p) < self.phase[q]
            if fits and early and p not in self.home and len(self.readers[p]) == 1:
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

    # -- order ---------------------------------------------------------------------------------------------------------

    def _schedule(self) -> list[Tensor]:
        """The nodes in the order in which they run: as few groups between the products as can be.

        A product runs at the start of its phase. Everything else runs in the last group in which it can, of those that
        are needed anyway.
        """
        begin = self.phase
        end = max(begin.values(), default=0)

        def latest(t: Tensor, group: dict[Tensor, int]) -> int:
            limits = [end if r is None else group[r] - self._is_product(r) for r in self.readers[t]]
            return min(limits, default=end)

        last: dict[Tensor, int] = {}
        for t in reversed(self.nodes):
            last[t] = begin[t] if self._is_product(t) else latest(t, last)
        moves = [t for t in self.nodes if not self._is_product(t) and self._is_instruction(t)]
        needed = {begin[t] for t in moves if begin[t] == last[t]}
        group: dict[Tensor, int] = {}
        for t in reversed(self.nodes):
            if self._is_product(t):
                group[t] = begin[t]
                continue
            group[t] = latest(t, group)
            if self._is_instruction(t):
                fits = [g for g in needed if begin[t] <= g <= group[t]]
                group[t] = max(fits, default=begin[t])
                needed.add(group[t])
        return sorted(self.nodes, key=lambda t: (group[t], not self._is_product(t), t.order))

    def _is_product(self, t: Tensor) -> bool:
        """Whether a product instruction yields t: a product, or a sum that one adds itself to."""
        return t.op is OPS["matmul"] or any(self.adds_into.get(s) is t for s in t.inputs or ())

    def _is_instruction(self, t: Tensor) -> bool:
        return t.op is not None and self._view(t) is None and not self._is_vector(t)

    # -- instructions --------------------------------------------------------------------------------------------------

    def _add(self, kind: str, dst: Home, *sources: Home, **fields: int) -> None:
        """One instruction. Operands that it does not have repeat the first, so that each is a valid place."""
        instruction = dict.fromkeys(kernels.INSTRUCTION_FIELDS, 0) | fields
        instruction["kind"] = kernels.KINDS[kind]
        homes = (dst, *sources, *(sources[:1] * (3 - len(sources))))
        for name, (buffer, at) in zip(("dst", "a", "b", "c"), homes, strict=True):
            instruction[name], instruction[f"{name}_at"] = buffer, at
        self.program.instructions.append(instruction)

    def _copy(self, t: Tensor, to: Home) -> None:
        self._add("copy", to, self._home(t), width=width(t))

    def _emit(self, t: Tensor) -> None:
        if t.op is None or self._view(t) is not None or self._is_vector(t):
            self._home(t)
            return
        op = t.op
        if op.code >= 0:
            for s in t.inputs:
                if self.adds_into.get(s) is t:
                    self._emit_product(s)
                    return
            operands = [self._operand(s, t.shape[1:]) for s in t.inputs]
            self._add("map", self._home(t), *operands, code=op.code, width=width(t))
        elif op is OPS["matmul"]:
            if t not in self.adds_into:  # else the sum emits it, when the other term is there
                self._emit_product(t)
        elif op is OPS["concat"]:
            self._emit_concat(t)
        elif op is OPS["sum"] or op is OPS["max"] or op is OPS["sum_to"]:
            self._emit_reduction(t, op)
        elif op.name in ("broadcast_to", "transpose", "getitem"):
            self._add_gather(t, self._home(t.inputs[0]), self._positions(t))
        elif op is OPS["scatter"]:
            self._emit_scatter(t)
        else:
            raise self._unsupported(t)

    def _unsupported(self, t: Tensor) -> PlanError:
        shapes = " and ".join(str(s.shape).replace(str(ROWS), "B") for s in t.inputs)
        error = PlanError(f"{t.op.name} of shapes {shapes}, which depend on a state, is no op of the compiled loop")
        error.op = t.op.name
        return error

    def _operand(self, s: Tensor, row: tuple[int, ...]) -> Home:
        """Where a value lies that is as wide as a row of this shape, repeated if it is narrower."""
        if not is_rowed(s):
            return self._vector(s, row)
        if s.shape[1:] == row:
            return self._home(s)
        own = (1,) * (len(row) - len(s.shape[1:])) + s.shape[1:]
        positions = np.broadcast_to(np.arange(width(s)).reshape(own), row).ravel()
        home = self._scratch(positions.size)
        self._gather(home, self._home(s), positions)
        return home

    def _gather(self, dst: Home, a: Home, positions: NDArray[np.int64]) -> None:
        start = len(self.program.index)
        self.program.index.extend(positions.tolist())
        self._add("gather", dst, a, width=positions.size, index=start)

    def _add_gather(self, t: Tensor, a: Home, positions: NDArray[np.int64]) -> None:
        self._gather(self._home(t), a, positions)

    def _positions(self, t: Tensor) -> NDArray[np.int64]:
        """For every column of t, which column of its source it is; by applying the op to column numbers."""
        source = t.inputs[0]
        row = np.arange(width(source)).reshape(1, *source.shape[1:])
        if t.op is OPS["broadcast_to"]:
            return np.broadcast_to(row, (1, *t.shape[1:])).ravel()
        if t.op is OPS["transpose"]:
            if t.attrs[0][0] != 0:
                raise self._unsupported(t)
            return row.transpose(t.attrs[0]).ravel()
        picked = row[t.attrs[0]]
        if picked.shape != (1, *t.shape[1:]):
            raise self._unsupported(t)
        return picked.ravel()

    def _emit_scatter(self, t: Tensor) -> None:
        g = t.inputs[0]
        row = np.arange(width(t)).reshape(1, *t.shape[1:])
        picked = row[t.attrs[1]]
        if picked.shape != (1, *g.shape[1:]):
            raise self._unsupported(t)
        start = len(self.program.index)
        self.program.index.extend(picked.ravel().tolist())
        self._add("scatter_add", self._home(t), self._home(g), width=width(g), inner=width(t), index=start)

    def _emit_product(self, t: Tensor) -> None:
        a, w = t.inputs
        if is_rowed(w) or w.ndim != 2 or a.ndim != 2 or not is_rowed(a):
            raise self._unsupported(t)
        number = self.weight_number.setdefault(w, len(self.program.weights))
        if number == len(self.program.weights):
            self.program.weights.append(w)
        self._add("product", self._home(t), self._home(a), code=number, width=width(t), inner=width(a),
                  add=int(t in self.adds_into))  # fmt: skip

    def _emit_concat(self, t: Tensor) -> None:
        """The parts side by side; along another axis than the first of a row they are put in order afterwards."""
        axis = t.attrs[0]
        if axis == 0:
            raise self._unsupported(t)
        whole = self._home(t) if axis == 1 else self._scratch(width(t))
        at, numbers = whole[1], []
        for part in t.inputs:
            home, n = self._operand(part, part.shape[1:]), width(part)
            if home != (whole[0], at):
                self._add("copy", (whole[0], at), home, width=n)
            numbers.append(np.arange(at - whole[1], at - whole[1] + n).reshape(1, *part.shape[1:]))
            at += n
        if axis > 1:
            self._gather(self._home(t), whole, np.concatenate(numbers, axis).ravel())

    def _emit_reduction(self, t: Tensor, op: Op) -> None:
        """The reduced axes as one middle axis; the columns are gathered into that order if need be."""
        x = t.inputs[0]
        if op is OPS["sum_to"]:
            target = (1,) * (x.ndim - t.ndim) + t.shape
            axes = tuple(k for k in range(x.ndim) if target[k] == 1 and x.shape[k] != 1)
        else:
            axes = t.attrs[0]
        if 0 in axes:
            raise self._unsupported(t)
        home, n = self._home(x), int(np.prod([x.shape[k] for k in axes]))
        if not axes:
            axes = (x.ndim - 1,)  # nothing to reduce: a middle axis of one element
            inner = width(x)
        elif axes[-1] - axes[0] == len(axes) - 1:
            inner = int(np.prod(x.shape[axes[-1] + 1 :]))
        else:
            kept = [k for k in range(1, x.ndim) if k not in axes]
            columns = np.arange(width(x)).reshape(x.shape[1:]).transpose([k - 1 for k in (*kept, *axes)])
            gathered = self._scratch(width(x))
            self._gather(gathered, home, columns.ravel())
            home, inner = gathered, 1
        kind = "max" if op is OPS["max"] else "sum"
        self._add(kind, self._home(t), home, width=width(t), inner=inner, n=n)

    # -- tiles ---------------------------------------------------------------------------------------------------------

    def _find_tiles(self) -> None:
        """Scratch that only one group of elementwise instructions touches becomes a tile of a few rows."""
        group, groups = 0, {b: set[int]() for b in self.scratch}
        for i in self.program.instructions:
            product = i["kind"] == kernels.KINDS["product"]
            group += product
            for name in ("dst", "a", "b", "c"):
                if i[name] in groups:
                    groups[i[name]].add(-group if product else group)
            group += product
        for b, seen in groups.items():
            if len(seen) == 1 and min(seen) >= 0:
                self.program.buffers[b].place = "tile"
