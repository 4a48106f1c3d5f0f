"""From the values that must be computed inside the loop to the instructions of `_core/program.h`.

A `Body` is what remains in the loop: a step on its own abstract leaves. Lowering gives every value a home (homes.py),
puts the values in an order with as few groups between products as can be, and writes an instruction or a few for each.
What only elementwise instructions between two products touch lives in a tile of a few rows, which stays in the
first-level cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from tinyrnn._core import kernels
from tinyrnn._core.tape import Op, Tensor
from tinyrnn.ops import add, fma, mul
from tinyrnn.plan.columns import OPS
from tinyrnn.plan.homes import Home, Homes
from tinyrnn.plan.instructions import OPERANDS, SOURCES, columns_read, columns_written, overlap
from tinyrnn.plan.program import BufferSpec, PlanError, Program
from tinyrnn.plan.rewrite import is_only_summed
from tinyrnn.plan.step import ROWS, Step, is_rowed, width

__all__ = ["BufferSpec", "PlanError", "Program", "lower"]


def lower(
    body: Step,
    keep: Sequence[Tensor],
    record_states: Sequence[bool],
    held: Sequence[Tensor],
    spare: Sequence[bool] = (),
    chained: bool = False,
    ending: Sequence[bool] = (),
) -> Program:
    """The program of a body. keep: the values wanted for the whole sequence; record_states: which states are, too.

    held: what is read behind the loop, of inputs and values, or columns of them.
    spare: which input sequences nobody reads behind the loop but for what is held; their memory is used again.
    chained: a step finds the recorded states before it where the step before recorded them, as it can where every row
    runs at every step. ending: which further input sequences nobody reads any more; kept values take the place of what
    they held.
    """
    over = [seq for seq, ends in zip(body.seqs, ending, strict=False) if ends]
    return _Lowering(body, keep, record_states, held, spare, chained, over).program


class _Lowering(Homes):
    def __init__(
        self,
        body: Step,
        keep: Sequence[Tensor],
        record_states: Sequence[bool],
        held: Sequence[Tensor],
        spare: Sequence[bool],
        chained: bool,
        ending: Sequence[Tensor],
    ) -> None:
        super().__init__(body, keep, record_states, held, spare, chained)
        self.ending = {*ending}
        self.squares = {t for t in self.nodes if t not in self.home and is_only_summed(t, self.readers)}
        self.weight_number: dict[Tensor, int] = {}
        for t in self._schedule():
            self._emit(t)
            for value, buffer in self.copies:
                if value is t and self.home[t] != (buffer, 0):
                    self._copy(t, (buffer, 0))
            if t in self.partial and not self._is_added(t):
                sums = self.partial[t], 0
                self._add("map", sums, sums, self._home(t), code=add.code, width=width(t))
            self.program.made.append((t, len(self.program.instructions)))
        self._write_over([self.home[seq][0] for seq in ending])
        self._find_tiles()

    # -- order ---------------------------------------------------------------------------------------------------------

    def _schedule(self) -> list[Tensor]:
        """The nodes in the order in which they run: as few groups between the products as can be.

        A product runs at the start of its phase. Everything else runs in the last group in which it can, of those that
        are needed anyway; what reads an ending sequence in the first, so that its place is free soon.
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
                ends = any(self._resolved(s) in self.ending for s in t.inputs)
                group[t] = (min if ends else max)(fits, default=begin[t])
                needed.add(group[t])
        # A sum that its product adds a bias to follows it.
        turn = {biased: (t.order, 1) for t, biased in self.biased.items()}
        nodes = sorted(self.nodes, key=lambda t: (group[t], not self._is_product(t), turn.get(t, (t.order, 0))))
        return self._late_takers(nodes, group) if self.ending else nodes

    def _late_takers(self, nodes: list[Tensor], group: dict[Tensor, int]) -> list[Tensor]:
        """The order with what is kept, and may take an ending sequence's place, as late in its group as can be."""
        kept = {k for k, spec in enumerate(self.program.buffers) if spec.is_kept}

        def takes(t: Tensor) -> bool:
            home = self._place(t)
            return home is not None and home[0] in kept

        found: list[Tensor] = []
        there = set[Tensor]()
        for _, several in groupby(nodes, key=lambda t: (group[t], self._is_product(t))):
            waiting = list(several)
            here = set(waiting)
            while waiting:
                ready = [t for t in waiting if all(s in there or s not in here for s in t.inputs or ())]
                t = next((t for t in ready if not takes(t)), ready[0])
                waiting.remove(t)
                there.add(t)
                found.append(t)
        return found

    def _is_instruction(self, t: Tensor) -> bool:
        aside = self.spread | self.squares
        return t.op is not None and self._view(t) is None and not self._is_vector(t) and t not in aside

    # -- instructions --------------------------------------------------------------------------------------------------

    def _add(self, kind: str, dst: Home, *sources: Home, **fields: int) -> None:
        """One instruction. Operands that it does not have repeat the first, so that each is a valid place."""
        instruction = dict.fromkeys(kernels.INSTRUCTION_FIELDS, 0) | fields
        instruction["kind"] = kernels.KINDS[kind]
        homes = (dst, *sources, *(sources[:1] * (3 - len(sources))))
        for name, (buffer, at) in zip(OPERANDS, homes, strict=True):
            instruction[name], instruction[f"{name}_at"] = buffer, at
        self.program.instructions.append(instruction)

    def _is_added(self, t: Tensor) -> bool:
        """Whether t is a product of elements that is made where it is added to its sum over steps, and nowhere else."""
        return t in self.partial and t.op is mul and self.readers[t] == [None]

    def _copy(self, t: Tensor, to: Home) -> None:
        self._add("copy", to, self._home(t), width=width(t))

    def _emit(self, t: Tensor) -> None:
        if t.op is None or self._view(t) is not None or self._is_vector(t):
            self._home(t)
            return
        if t in self.spread or t in self.squares:
            return
        op = t.op
        if op.code >= 0:
            for s in t.inputs:
                if self.adds_into.get(s) is t:
                    self._emit_product(s)
                    return
                if self.biased.get(s) is t:
                    return  # the product did it
            spread = [self._is_spread(s, t.shape[1:]) for s in t.inputs]
            if all(spread):
                spread[0] = False
            operands = [
                self._home(self._column(s)) if one else self._operand(self._column(s), t.shape[1:])
                for s, one in zip(t.inputs, spread, strict=True)
            ]
            bits = sum(one << k for k, one in enumerate(spread))
            if self._is_added(t):
                sums = self.partial[t], 0
                self._add("map", sums, *operands, sums, code=fma.code, width=width(t), spread=bits)
            else:
                self._add("map", self._home(t), *operands, code=op.code, width=width(t), spread=bits)
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

    def _is_spread(self, s: Tensor, row: tuple[int, ...]) -> bool:
        """Whether s is one column, which an elementwise instruction can read for all columns of the row."""
        return is_rowed(s) and width(self._column(s)) == 1 and int(np.prod(row)) > 1

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
        if is_rowed(w) or w.ndim != 2 or a.ndim < 2 or not is_rowed(a):
            raise self._unsupported(t)
        number = self.weight_number.setdefault(w, len(self.program.weights))
        if number == len(self.program.weights):
            self.program.weights.append(w)
        (to, at), (source, start), (inner, columns) = self._home(t), self._home(a), w.shape
        total = self.adds_into.get(t, t)
        how, row = kernels.ONTO * (t in self.adds_into), None
        if (biased := self.biased.get(total)) is not None:
            [bias] = [s for s in biased.inputs if s is not total]
            how, row = how | kernels.BIAS, self._operand(bias, biased.shape[1:])
        for k in range(width(a) // inner):  # a row may hold several rows of the product
            sources = [(source, start + k * inner), *([] if row is None else [(row[0], row[1] + k * columns)])]
            self._add("product", (to, at + k * columns), *sources, code=number, width=columns, inner=inner, add=how)

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
        squares = x in self.squares
        home, n = self._home(x.inputs[0] if squares else x), int(np.prod([x.shape[k] for k in axes]))
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
        self._add(kind, self._home(t), home, code=int(squares), width=width(t), inner=inner, n=n)

    # -- memory used twice ---------------------------------------------------------------------------------------------

    def _write_over(self, ending: Sequence[int]) -> None:
        """Keep values in the memory of ending sequences, where every column of these has been read before.

        What was just read is near: written to, it costs half of what memory from afar does.
        """
        program, written = self.program, {i["dst"] for i in self.program.instructions}
        free = [b for b in ending if b not in written]
        for kept, spec in enumerate(program.buffers):
            if spec.is_kept:
                for b in free:
                    at = next((at for at in self._starts(b) if self._may_take(kept, b, at)), None)
                    if at is not None:
                        self._move(kept, b, at)
                        free.remove(b)
                        break

    def _starts(self, buffer: int) -> list[int]:
        """The columns of a buffer at which something is read."""
        found = {i[f"{name}_at"] for i in self.program.instructions for name in SOURCES if i[name] == buffer}
        return sorted(found)

    def _may_take(self, kept: int, buffer: int, at: int) -> bool:
        """Whether a kept value can live in columns of a sequence, from `at`: they are read before they are written to,
        or column by column by the instruction that writes.
        """
        if at + self.program.buffers[kept].columns > self.program.buffers[buffer].columns:
            return False
        gone: list[range] = []  # columns of the sequence that are written over
        for i in self.program.instructions:
            reads = columns_read(i, buffer)
            if any(overlap(a, b) for a in reads for b in gone):
                return False
            if i["dst"] == kept:
                written = columns_written(i)
                columns = range(at + written.start, at + written.stop)
                exact = i["kind"] in (kernels.KINDS["map"], kernels.KINDS["copy"])
                if any(overlap(a, columns) and not (exact and a == columns) for a in reads):
                    return False
                gone.append(columns)
        return True

    def _move(self, kept: int, buffer: int, at: int) -> None:
        """Let the columns of a sequence, from `at`, be where a value is kept."""
        program = self.program
        for i in program.instructions:
            for name in OPERANDS:
                if i[name] == kept:
                    i[name] = buffer
                    i[f"{name}_at"] += at
        old, new = program.buffers[kept].source, program.buffers[buffer].source
        assert old is not None
        assert new is not None
        program.keeps = [(new, at + a, w) if source == old else (source, a, w) for source, a, w in program.keeps]
        program.kept_columns[old[1]] = 0
        program.buffers[kept] = BufferSpec("tile", 0)
        program.spent.append(new[1])

    # -- tiles ---------------------------------------------------------------------------------------------------------

    def _find_tiles(self) -> None:
        """Scratch that only one group of elementwise instructions touches becomes a tile of a few rows."""
        group, groups = 0, {b: set[int]() for b in self.scratch}
        for i in self.program.instructions:
            product = i["kind"] == kernels.KINDS["product"]
            group += product
            for name in OPERANDS:
                if i[name] in groups:
                    groups[i[name]].add(-group if product else group)
            group += product
        for b, seen in groups.items():
            if len(seen) == 1 and min(seen) >= 0:
                self.program.buffers[b].place = "tile"
