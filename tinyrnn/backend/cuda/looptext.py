"""The CUDA text of a loop: one kernel that runs all steps, for a program's stages and one tiling.

The blocks of one tile of rows share the units among them, and wait for each other; tiles of rows never meet. One has
its columns of the weights, in shared memory where they fit. Inside a level a block takes its rows a chunk at a time, so
that a product's result is in shared memory when the elementwise code behind it runs, which reads it there, keeps what
it makes in registers and writes only what is read elsewhere. Where products round their operands, whoever makes a left
side leaves it rounded, in half the bytes for bf16, and once instead of in every block that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial, reduce
from itertools import count

from tinyrnn._core import kernels
from tinyrnn.backend.cuda.looplayout import LoopLayout, Operand
from tinyrnn.backend.cuda.stages import NAMES, OPS, OWN, Action, Segment


def pack_text(real: str, storage: str) -> str:
    """The kernel that brings a weight's columns into the order in which blocks read them, a block for each.

    It stands in a module of its own: all kernels of a module are launched as the loop is, every block at once.
    """
    return f"""using namespace tr::TR_ISA;
extern "C" __global__ void pack({storage} *out, const {real} *w, long long ldk, long long ldn, int inner, int ld,
                                int columns, int width, int own, int units) {{
    const int block = blockIdx.x / columns, c = blockIdx.x % columns;
    const bool there = !own || block * own + c % own < units;
    const int j = own ? c / own * units + block * own + c % own : block * columns + c;
    for (int k = threadIdx.x; k < ld; k += blockDim.x)
        out[(long long)blockIdx.x * ld + k] =
            Stored<{storage}>::from(there && k < inner && j < width ? w[k * ldk + j * ldn] : ({real})0);
}}
"""


class LoopText(LoopLayout):
    """stages and tiling -> text."""

    @property
    def kind(self) -> str:
        """How device.h multiplies."""
        return f"Plain<{self.real}>" if self.storage == self.real else f"Matrix<{self.storage}>"

    # -- left sides as they are stored ---------------------------------------------------------------------------------

    def _operand_at(self, operand: Operand, odd: str, row: str, column: str) -> str:
        """row: of the batch."""
        n, ld = self.operands[operand], self.operand_ld(operand)
        if self.tiling.cluster:
            return f"x{n}[(({odd}) * {self.room} + {row} - row0) * {ld} + {column}]"
        return f"x{n}[((long long)({odd}) * batch + {row}) * {ld} + {column}]"

    def _send(self, action: Action, first: int, columns: int, row: str, column: str, value: str) -> Iterator[str]:
        """Leave a value for the products that read it as a left side. first, columns: which of the buffer it may be."""
        for operand in self.operands:
            last = operand.at + operand.inner
            if action not in operand.writers or first >= last or first + columns <= operand.at:
                continue
            inside = operand.at <= first and first + columns <= last
            guard = "" if inside else f"if ({column} >= {operand.at} && {column} < {last}) "
            place = self._operand_at(operand, "1 - odd" if operand.before else "odd", row, f"{column} - {operand.at}")
            stored = f"Stored<{self.storage}>::from({value})"
            to_all = f"to_all<{self.tiling.blocks}>(&{place}, {stored});"
            yield f"{guard}{to_all}" if self.tiling.cluster else f"{guard}{place} = {stored};"

    def _first_operands(self) -> Iterator[str]:
        """The states before the first step, as they are stored: by all blocks of the tile, or by each for itself."""
        tiling, threads = self.tiling, self.tiling.threads
        if not (tiling.cluster or any(operand.before for operand in self.operands)):
            return
        share, of = ("thread", threads) if tiling.cluster else (f"block * {threads} + thread", tiling.blocks * threads)
        if tiling.cluster:
            for operand, n in self.operands.items():
                size = 2 * self.room * self.operand_ld(operand)
                yield f"for (int i = thread; i < {size}; i += {threads}) x{n}[i] = 0;"
            yield "__syncthreads();"
        yield "{"
        yield "const int odd = 0;"
        if self.uniform:
            yield f"const long long off = {'(steps - 1ll) * batch' if self.backwards else '0'};"
        for operand in self.operands:
            if operand.before:
                yield "{"
                yield f"const int count = least(batch - row0, {tiling.rows}) * {operand.inner};"
                yield f"for (int e = {share}; e < count; e += {of}) {{"
                yield f"const int row = row0 + e / {operand.inner}, c = e % {operand.inner};"
                value = self._at(operand.buffer, "row", f"{operand.at} + c")
                first, second = (self._operand_at(operand, odd, "row", "c") for odd in "01")
                yield f"{first} = {second} = Stored<{self.storage}>::from({value});"
                yield from "}}"
        yield "}"
        # What a block has for itself alone must only be there before the others write to it.
        yield "__syncthreads();" if tiling.cluster and not self.is_sent_in(0) else self._wait()

    # -- the kernel ----------------------------------------------------------------------------------------------------

    def arguments(self) -> list[tuple[str, str]]:
        """(type, name) of each: what a launch passes, in order."""
        found = [("int", "steps"), ("int", "batch")]
        if not self.uniform:
            found += [("const int *", "count"), ("const long long *", "offset")]
        found += [("unsigned int *", "counters"), (f"{self.real} *", "shares"), ("const int *", "index")]
        for b, place in enumerate(self.stages.places):
            if place in ("sequence", "before", "after", "vector", "partial"):
                found += [(f"{self.real} *", f"b{b}"), ("long long", f"ld{b}")]
            if place in ("before", "after"):
                found.append((f"{self.real} *", f"o{b}"))
        found += [(f"{self.real} *", f"s{b}") for b in self.scratch]
        if not self.tiling.cluster:
            found += [(f"{self.storage} *", f"x{n}") for n in self.operands.values()]
        return found + [(f"const {self.storage} *", f"weight{n}") for n in self.sides.values()]

    def text(self) -> str:
        tiling, own = self.tiling, self.own
        cluster = f"__cluster_dims__({tiling.blocks}, 1, 1) " if tiling.cluster else ""
        arguments = ", ".join(f"{kind} {name}" for kind, name in self.arguments())
        lines = [
            "using namespace tr::TR_ISA;",
            f"typedef {self.real} Real;",
            f'extern "C" __global__ void {cluster}__launch_bounds__({tiling.threads}) run_loop({arguments}) {{',
            "TR_DYNAMIC_SHARED(shared);",
            f"const int block = blockIdx.x % {tiling.blocks}, tile = blockIdx.x / {tiling.blocks};",
            f"const int row0 = tile * {tiling.rows}, u0 = block * {own}, thread = threadIdx.x;",
            *(f"Real *const t{n} = (Real *)(shared + {self.layout[f't{n}']});" for n in range(len(self.products))),
            *([f"Real *const row_values = (Real *)(shared + {self.layout['rows']});"] if self.slots else []),
            *([f"Real *const folds = (Real *)(shared + {self.layout['folds']});"] if self.folds else []),
            f"unsigned char *const work = shared + {self.layout['work']};",
        ]
        if tiling.cluster:
            stored = self.storage
            lines += [
                f"{stored} *const x{n} = ({stored} *)(shared + {self.layout[f'x{n}']});" for n in self.operands.values()
            ]
        for side, n in self.sides.items():
            size = side.columns * self.weight_ld(side)
            lines.append(f"const {self.storage} *w{n} = weight{n} + (long long)block * {size};")
            if tiling.resident:
                lines += [
                    "{",
                    f"{self.storage} *const to = ({self.storage} *)(shared + {self.layout[f'w{n}']});",
                    f"for (int i = thread; i < {size}; i += {tiling.threads}) to[i] = w{n}[i];",
                    f"w{n} = to;",
                    "}",
                ]
        lines += [
            "unsigned int turn = 0;",
            *self._first_operands(),
            "for (int k = 0; k < steps; k++) {",
            "const int s = steps - 1 - k, odd = k & 1;" if self.backwards else "const int s = k, odd = k & 1;",
            "const int going = batch;" if self.uniform else "const int going = count[s];",
            "const long long off = (long long)s * batch;" if self.uniform else "const long long off = offset[s];",
            f"const int rows = least(going - row0, {tiling.rows});",
            "if (rows <= 0) continue; /* for all blocks of this tile */",
            *self._fetch_ahead(),
        ]
        for number, segments in enumerate(self.stages.levels):
            if number:
                lines.append(self._wait())
            lines += self._level(number, segments)
        if self.stages.wrap:
            lines.append(self._wait())
        else:
            lines.append("__syncthreads();")
        lines.append("}")
        if tiling.cluster and not self.stages.wrap and self.is_sent_in(len(self.stages.levels) - 1):
            lines.append(self._wait())  # others may still write to this block's shared memory
        return "\n".join([*lines, "}"]) + "\n"

    def _fetch_ahead(self) -> Iterator[str]:
        """Each unit's part of the sequences that the next step begins with, if rows lie there as in this step."""
        stages, step = self.stages, "-" if self.backwards else "+"
        made = {b for a in stages.actions for (b, _), _ in a.writes}
        first: dict[tuple[int, int], None] = {}
        for action in stages.actions:
            for (b, c), reach in action.reads:
                fresh = stages.places[b] == "sequence" and (b not in made or (action, (b, c)) not in stages.writer_of)
                if fresh and reach == OWN and b not in {before for before, _ in stages.states}:
                    first[b, c // stages.units * stages.units] = None
        if not first or not self.uniform:
            return
        yield f"if (k + 1 < steps && u0 < {stages.units}) for (int r = thread; r < rows; r += {self.tiling.threads}) {{"
        yield f"const long long row = off {step} going + row0 + r;"
        for b, c in first:
            yield f"prefetch(&b{b}[row * ld{b} + {c} + u0]);"
        yield "}"

    def _wait(self) -> str:
        blocks = self.tiling.blocks
        return (
            f"wait_in_cluster<{blocks}>();"
            if self.tiling.cluster
            else f"wait_for_all(counters + tile, {blocks}, turn);"
        )

    def _level(self, number: int, segments: list[Segment]) -> Iterator[str]:
        for fold, slot in self.folds.items():
            if fold.ready == number:
                yield from self._join(fold, slot)
        if any(f.ready == number for f in self.folds):
            yield "__syncthreads();"
        if not segments:
            return
        yield f"for (int r0 = 0; r0 < rows; r0 += {self.tiling.chunk}) {{"
        yield f"const int n = least({self.tiling.chunk}, rows - r0);"
        for segment in segments:
            yield from {
                "product": self._product_segment, "units": self._unit_segment, "row": self._row_segment,
                "row_fold": self._row_fold_segment, "elements": self._element_segment,
            }[segment.form](segment)  # fmt: skip
        yield "}"

    # -- places --------------------------------------------------------------------------------------------------------

    def _at(self, b: int, row: str, column: str) -> str:
        """An element in memory. row: of the batch."""
        place = self.stages.places[b]
        if place == "vector":
            return f"b{b}[{column}]"
        if place == "sequence":
            return f"b{b}[(off + {row}) * ld{b} + {column}]"
        if place == "partial":
            most = "batch" if self.uniform else "count[0]"
            return f"b{b}[((long long)(s / {kernels.SUM_STEPS}) * {most} + {row}) * ld{b} + {column}]"
        if place in ("before", "after"):
            base = f"(odd ? o{b} : b{b})" if place == "before" else f"(odd ? b{b} : o{b})"
            return f"{base}[{row} * ld{b} + {column}]"
        return f"s{b}[((long long)odd * batch + {row}) * {self.stages.columns[b]} + {column}]"

    def _row_value(self, reader: Action, b: int, row: str) -> str:
        """The value of a row that a segment reads."""
        writer = self.stages.writer_of.get((reader, (b, 0)))
        if writer is not None and (writer, (b, 0)) in self.slots:
            return f"row_values[{self.slots[writer, (b, 0)] * self.tiling.rows} + {row}]"
        value = self._at(b, f"(row0 + {row})", "0")
        return f"shared_load(&{value})"  # the first block wrote it, a step ago

    # -- segments ------------------------------------------------------------------------------------------------------

    def _product_segment(self, segment: Segment) -> Iterator[str]:
        for action in segment.actions:
            i, n, side = action.code, self.products.index(action), self.side(action)
            here = self.finds_here(action)
            sizes = (self.tiling.chunk, side.columns, side.inner, self.depth(action), self.tiling.threads)
            shape = f"Shape<{', '.join(map(str, sizes))}, {str(self.tiling.resident).lower()}>"
            left, ld = self._left(action)
            given = f"&{left}" if here else f"&{left}, {ld}, n"
            weight = f"w{self.sides[side]}, {self.weight_ld(side)}"
            yield f"product{'_here' * here}<{self.kind}, {shape}>(t{n}, work, {given}, {weight});"
            yield "__syncthreads();"
            stored = any(self.goes_to_memory(action, at, reach) for at, reach in action.writes)
            column = f"({i['dst_at']} + j)"
            sent = [*self._send(action, i["dst_at"], i["width"], "row", column, f"t{n}[e]")]
            if not (i["add"] or stored or sent):
                continue
            yield f"for (int e = thread; e < n * {side.columns}; e += {self.tiling.threads}) {{"
            yield f"const int r = e / {side.columns}, c = e % {side.columns}, row = row0 + r0 + r;"
            if action.stretches:
                yield f"const int j = c / {self.own} * {self.stages.units} + u0 + c % {self.own};"
                yield f"const bool there = u0 + c % {self.own} < {self.stages.units};"
            else:
                yield f"const int j = block * {side.columns} + c;"
                yield f"const bool there = j < {i['width']};"
            to = self._at(i["dst"], "row", f"{i['dst_at']} + j")
            if i["add"] & kernels.ONTO:
                old = to
                writer = self.stages.writer_of.get((action, action.writes[0][0]))
                if writer is not None and self.stages.in_tile(writer, action):
                    old = self._in_tile(writer, i["dst_at"], "r", "c")
                yield f"if (there) t{n}[e] += {old};"
            if i["add"] & kernels.BIAS:
                bias = self._at(i["b"], "row", f"{i['b_at']} + j")
                yield f"if (there) t{n}[e] += {bias};"
            if stored:
                yield f"if (there) {to} = t{n}[e];"
            if sent:
                yield from ("if (there) {", *sent, "}")
            yield "}"
            yield "__syncthreads();"

    def _left(self, product: Action) -> tuple[str, str]:
        """Where a product's left side begins, for the rows from r0 on, and its elements from row to row."""
        i = product.code
        if product in self.operand_of:
            operand = self.operand_of[product]
            return self._operand_at(operand, "odd", "(row0 + r0)", "0"), str(self.operand_ld(operand))
        place = self.stages.places[i["a"]]
        ld_name = f"{self.stages.columns[i['a']]}" if place in ("scratch", "tile") else f"ld{i['a']}"
        return self._at(i["a"], "(row0 + r0)", str(i["a_at"])), ld_name

    def _unit_segment(self, segment: Segment) -> Iterator[str]:
        """One thread for a row's columns of one unit: straight code, values in registers."""
        stages, own, threads = self.stages, self.own, self.tiling.threads
        yield f"for (int e = thread; e < n * {own}; e += {threads}) {{"
        yield f"const int r = r0 + e / {own}, local = e % {own}, unit = u0 + local, row = row0 + r;"
        folds = [a for a in segment.actions if a.form == "fold"]
        if folds:
            yield f"if (unit >= {stages.units}) {{"
            for fold in folds:
                yield f"folds[{self.folds[fold] * self.tiling.chunk * own} + e] = {self._neutral(fold)};"
            yield "}"
        yield f"if (unit < {stages.units}) {{"
        yield from self._unit_lines(segment)
        yield "}"
        yield "}"
        yield "__syncthreads();"
        for fold in folds:
            slot, base = self.folds[fold], self.folds[fold] * self.tiling.chunk * own
            yield f"for (int r = thread; r < n; r += {threads}) {{"
            yield f"Real v = folds[{base} + r * {own}];"
            share = f"folds[{base} + r * {own} + x]"
            yield f"for (int x = 1; x < {own}; x++) v = {self._joined(fold, 'v', share)};"
            yield f"{self._share(slot, 'row0 + r0 + r')}[block] = v;"
            yield "}"
        if folds:
            yield "__syncthreads();"  # the next rows' shares take the same places

    def _unit_lines(self, segment: Segment) -> list[str]:
        """The actions of a unit, on registers v0, v1, .."""
        stages, units = self.stages, self.stages.units
        lines: list[str] = []
        names = map("v{}".format, count())
        known: dict[tuple[int, int], str] = {}  # (buffer, stretch) -> the register that has it

        def register(value: str) -> str:
            name = next(names)
            lines.append(f"const Real {name} = {value};")
            return name

        def operand(action: Action, name: str, k: int, m: int) -> str:
            i = action.code
            b, at = i[name], i[f"{name}_at"]
            if stages.places[b] == "vector":
                one = stages.columns[b] == 1 or i["spread"] >> k & 1
                return register(self._at(b, "row", str(at) if one else f"{at + m * units} + unit"))
            if i["spread"] >> k & 1:
                return register(self._row_value(action, b, "r"))
            place = b, at // units + m
            if place not in known:
                known[place] = register(self._unit_value(action, *place))
            return known[place]

        for action in segment.actions:
            i, stretches = action.code, range(action.stretches)
            if action.form == "fold":
                terms = [self._term(action, operand(action, "a", 0, m)) for m in stretches]
                total = reduce(partial(self._joined, action), terms)
                lines.append(f"folds[{self.folds[action] * self.tiling.chunk * self.own} + e] = {total};")
                continue
            sources = list(enumerate(stages.sources(i)))
            made = [
                register(self._result(action, [operand(action, name, k, m) for k, name in sources])) for m in stretches
            ]
            for m, value in enumerate(made):
                column = i["dst_at"] + m * units
                known[i["dst"], column // units] = value
                if any(self.is_stored(action, at) for at in stages.cut(i["dst"], column, units)):
                    lines.append(f"{self._at(i['dst'], 'row', f'{column} + unit')} = {value};")
                lines += self._send(action, column, units, "row", f"({column} + unit)", value)
        return lines

    @staticmethod
    def _result(action: Action, values: list[str]) -> str:
        """What a map or a copy makes of its operands."""
        i = action.code
        return f"op::{OPS[i['code']][0]}::f({', '.join(values)})" if NAMES[i["kind"]] == "map" else values[0]

    def _share(self, slot: int, row: str) -> str:
        """Where the blocks leave their shares of a row, one beside the other."""
        return f"(shares + ((odd * {len(self.folds)} + {slot}) * (long long)batch + {row}) * {self.tiling.blocks})"

    def _unit_value(self, action: Action, b: int, stretch: int) -> str:
        """A value that another segment, or an earlier step, made."""
        stages = self.stages
        writer = stages.writer_of.get((action, (b, stretch * stages.units)))
        if writer is not None and stages.in_tile(writer, action):
            return self._in_tile(writer, stretch * stages.units, "(r - r0)", "local")
        return self._at(b, "row", f"{stretch * stages.units} + unit")

    def _in_tile(self, product: Action, column: int, row: str, rest: str) -> str:
        """Where a product left an element in shared memory: of a row of those at hand, `rest` behind a column of its
        buffer."""
        ahead = (column - product.code["dst_at"]) // self.stages.units * self.own
        return f"t{self.products.index(product)}[{row} * {self.side(product).columns} + {ahead} + {rest}]"

    def _row_segment(self, segment: Segment) -> Iterator[str]:
        """One thread a row; every block does all its rows."""
        stages = self.stages
        yield f"for (int r = r0 + thread; r < r0 + n; r += {self.tiling.threads}) {{"
        yield "const int row = row0 + r;"
        known: dict[int, str] = {}
        for number, action in enumerate(segment.actions):
            i = action.code
            values = []
            for name in stages.sources(i):
                b = i[name]
                if stages.places[b] == "vector":
                    values.append(self._at(b, "row", str(i[f"{name}_at"])))
                else:
                    values.append(known.get(b) or self._row_value(action, b, "r"))
            yield f"const Real v{number} = {self._result(action, values)};"
            known[i["dst"]] = f"v{number}"
            yield from self._keep_row(action, f"v{number}")
        yield "}"
        yield "__syncthreads();"

    def _keep_row(self, action: Action, value: str) -> Iterator[str]:
        """A row's value where others find it: in every block, and in memory by the first."""
        at = (action.code["dst"], 0)
        if (action, at) in self.slots:
            yield f"row_values[{self.slots[action, at] * self.tiling.rows} + r] = {value};"
        if self.is_stored(action, at):
            yield f"if (block == 0) {self._at(at[0], 'row', '0')} = {value};"

    def _neutral(self, action: Action) -> str:
        return "(Real)0" if NAMES[action.code["kind"]] == "sum" else "-infinite<Real>()"

    @staticmethod
    def _term(action: Action, element: str) -> str:
        """What a reduction adds up, or compares, of an element."""
        return f"op::square::f({element})" if NAMES[action.code["kind"]] == "sum" and action.code["code"] else element

    def _joined(self, action: Action, a: str, b: str) -> str:
        return f"({a} + {b})" if NAMES[action.code["kind"]] == "sum" else f"op::maximum::f({a}, {b})"

    def _join(self, fold: Action, slot: int) -> Iterator[str]:
        """Behind a wait: the blocks' shares of a row together."""
        shares = self._share(slot, "row")
        yield from self._folded(fold, "0", "rows", f"shared_load(&{shares}[p])", self.tiling.blocks)

    def _row_fold_segment(self, segment: Segment) -> Iterator[str]:
        for action in segment.actions:
            i = action.code
            element = self._at(i["a"], "row", f"{i['a_at']} + p")
            yield from self._folded(action, "r0", "r0 + n", self._term(action, f"shared_load(&{element})"), i["n"])
            yield "__syncthreads();"

    def _folded(self, action: Action, first: str, last: str, element: str, n: int) -> Iterator[str]:
        """Rows first .. last - 1 of the tile, each reduced over n elements p; a warp a row, in one order."""
        yield f"for (int r = {first} + thread / 32; r < {last}; r += {self.tiling.threads // 32}) {{"
        yield "const int row = row0 + r;"
        yield f"Real v = {self._neutral(action)};"
        term = self._joined(action, "v", element)
        yield f"for (int p = thread % 32; p < {n}; p += 32) v = {term};"
        other = self._joined(action, "v", "u")
        yield f"for (int o = 16; o; o /= 2) {{ const Real u = __shfl_xor_sync(0xffffffffu, v, o); v = {other}; }}"
        yield "if (thread % 32 == 0) {"
        yield from self._keep_row(action, "v")
        yield "}"
        yield "}"

    def _element_segment(self, segment: Segment) -> Iterator[str]:
        """Each element by whoever comes to it; all through memory."""
        stages, blocks, threads = self.stages, self.tiling.blocks, self.tiling.threads
        for action in segment.actions:
            i, kind = action.code, NAMES[action.code["kind"]]
            width = i["inner"] if kind == "scatter_add" else i["width"]

            def read(name: str, column: str, k: int = 0, i: dict[str, int] = i) -> str:
                b, at = i[name], i[f"{name}_at"]
                if i["spread"] >> k & 1 or (stages.places[b] == "vector" and stages.columns[b] == 1):
                    column = "0"
                value = self._at(b, "row", f"{at} + {column}")
                return value if stages.places[b] == "vector" else f"shared_load(&{value})"

            yield f"for (int e = block * {threads} + thread; e < n * {width}; e += {blocks * threads}) {{"
            yield f"const int row = row0 + r0 + e / {width}, j = e % {width};"
            if kind in ("map", "copy"):
                values = [read(name, "j", k) for k, name in enumerate(stages.sources(i))]
                yield f"const Real v = {self._result(action, values)};"
            elif kind == "gather":
                picked = read("a", f"index[{i['index']} + j]")
                yield f"const Real v = {picked};"
            elif kind == "scatter_add":
                yield "Real v = (Real)0;"
                yield f"for (int x = 0; x < {i['width']}; x++) if (index[{i['index']} + x] == j) v += {read('a', 'x')};"
            else:
                inner = i["inner"]
                element = self._term(action, read("a", f"(j / {inner} * {i['n']} + x) * {inner} + j % {inner}"))
                yield f"Real v = {self._neutral(action)};"
                yield f"for (int x = 0; x < {i['n']}; x++) v = {self._joined(action, 'v', element)};"
            to = self._at(i["dst"], "row", f"{i['dst_at']} + j")
            yield f"{to} = v;"
            yield from self._send(action, i["dst_at"], width, "row", f"({i['dst_at']} + j)", "v")
            yield "}"
