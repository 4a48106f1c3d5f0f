"""What instructions of a program read and write, and the pairs of them that one pass over the rows does.

The CPU runs a group of elementwise instructions one by one over a block of rows. Where one makes what only another one
reads, as sigmoid(r) in sigmoid(r) * h, both are done in one pass, and the value between them stays in registers
(`_core/pairs.h`). It is a matter of the CPU alone, so programs know nothing of it: a GPU's kernel keeps all values of a
group in registers anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinyrnn._core import kernels

Instruction = dict[str, int]

OPERANDS = ("dst", "a", "b", "c")
SOURCES = OPERANDS[1:]
MAP, PRODUCT = kernels.KINDS["map"], kernels.KINDS["product"]
OPS = {code: (name, arity) for name, (code, arity) in kernels.POINTWISE.items()}
COMMUTATIVE = ("mul", "fma")  # in their first two operands


def columns_written(i: Instruction) -> range:
    """Which columns of its dst an instruction writes."""
    n = i["inner"] if i["kind"] == kernels.KINDS["scatter_add"] else i["width"]
    return range(i["dst_at"], i["dst_at"] + n)


def columns_read(i: Instruction, buffer: int) -> list[range]:
    """Which columns of a buffer an instruction reads, operand by operand; a product may read what it adds itself to."""
    found = [columns_of(i, k) for k, name in enumerate(sources(i)) if i[name] == buffer]
    adds = i["kind"] == PRODUCT and i["add"] & kernels.ONTO and i["dst"] == buffer
    return [*found, columns_written(i)] if adds else found


def sources(i: Instruction) -> tuple[str, ...]:
    """The names of an instruction's operands; one may repeat the first, but not of an elementwise op."""
    return SOURCES[: _arity(i)] or ((*SOURCES, "d") if i["pair"] else SOURCES)


def columns_of(i: Instruction, k: int) -> range:
    """The columns that an instruction reads of its k-th operand; where an index says which, all there could be."""
    kinds, at, columns = kernels.KINDS, i[f"{sources(i)[k]}_at"], i["width"]
    if i["kind"] == kinds["map"]:
        columns = 1 if i["spread"] >> k & 1 else columns
    elif i["kind"] == kinds["product"]:
        columns = i["inner"]
    elif i["kind"] in (kinds["sum"], kinds["max"]):
        columns *= i["n"]
    elif i["kind"] == kinds["gather"]:
        return range(1 << 31)
    return range(at, at + columns)


def overlap(a: range, b: range) -> bool:
    return a.start < b.stop and b.start < a.stop


def covers(a: range, b: range) -> bool:
    return a.start <= b.start and b.stop <= a.stop


def paired(program: Sequence[Instruction], scratch: set[int]) -> list[Instruction]:
    """The program with the pairs that `_core/pairs.h` has as one instruction each, to the same bits.

    scratch: the buffers that hold nothing beyond a step. Ops of one column stay single: they run over it as over a row
    that lies down.
    """
    found = [dict(i) for i in program]
    k = 0
    while k < len(found):
        options = [pair for place in range(_arity(found[k])) if (pair := _pair(found, k, place, scratch))]
        if options:
            first, columns, made = min(options, key=lambda pair: len(columns_written(found[pair[0]])) - len(pair[1]))
            found[k] = made
            left = _without(found[first], columns)
            found[first : first + 1] = left
            k += len(left) - 1
        k += 1
    return found


def take_turns(program: Sequence[Instruction], columns: Mapping[int, int]) -> set[int]:
    """Let tiles of one width take turns where one is not needed any more, so that more rows of them fit the cache.

    columns: of each tile. Returns those that are left without use.
    """
    last: dict[int, int] = {}
    for k, i in enumerate(program):
        last.update((i[name], k) for name in ("dst", *sources(i)) if i[name] in columns)
    taken: dict[int, int] = {}
    free: dict[int, list[int]] = {}
    for k, i in enumerate(program):
        ending = {i[name] for name in ("dst", *sources(i)) if last.get(i[name]) == k}
        for name in (*OPERANDS, "d"):
            b = i[name]
            if b in last:
                if b not in taken:
                    idle = free.get(columns[b])
                    taken[b] = idle.pop() if idle else b
                i[name] = taken[b]
        for b in ending:
            free.setdefault(columns[b], []).append(taken[b])
    return {*columns} - {*taken.values()}


def _arity(i: Instruction) -> int:
    """How many operands an elementwise op has; 0 if an instruction is none, or a pair."""
    return OPS[i["code"]][1] if i["kind"] == MAP and not i["pair"] else 0


def _pair(
    program: Sequence[Instruction], k: int, place: int, scratch: set[int]
) -> tuple[int, range, Instruction] | None:
    """(the number of the instruction that makes an operand of the k-th, its columns, both as one), if that can be."""
    second = program[k]
    buffer, columns = second[SOURCES[place]], columns_of(second, place)
    if buffer not in scratch or second["spread"] >> place & 1 or second["width"] == 1:
        return None
    first = _maker(program, k, buffer, columns)
    if first is None:
        return None
    own = _cut(program[first], columns)
    made = _joined(own, second, place)
    if made is None or not (_is_read_once(program, first, k, columns) and _can_wait(program, own, first, k)):
        return None
    return first, columns, made


def _maker(program: Sequence[Instruction], k: int, buffer: int, columns: range) -> int | None:
    """The number of the elementwise op of the same group that makes these columns for the k-th instruction, or None."""
    for n in range(k - 1, -1, -1):
        i = program[n]
        if i["kind"] == PRODUCT:
            return None
        written = columns_written(i)
        if i["dst"] == buffer and overlap(written, columns):
            return n if covers(written, columns) and _arity(i) else None
    return None


def _is_read_once(program: Sequence[Instruction], first: int, second: int, columns: range) -> bool:
    """Whether the second instruction alone reads these columns of what the first makes, and once."""
    buffer = program[first]["dst"]
    for n in range(first + 1, len(program)):
        i = program[n]
        if sum(overlap(read, columns) for read in columns_read(i, buffer)) != (n == second):
            return False
        if n >= second and i["dst"] == buffer and covers(columns_written(i), columns):
            break
    return True


def _can_wait(program: Sequence[Instruction], own: Instruction, first: int, second: int) -> bool:
    """Whether the first instruction, `own`, could as well run with the second: its operands are still there, and what
    the second writes does not meet them, but element by element.
    """
    operands = [(own[name], columns_of(own, k)) for k, name in enumerate(sources(own))]
    for i in program[first + 1 : second]:
        if any(i["dst"] == b and overlap(columns_written(i), read) for b, read in operands):
            return False
    to, written = program[second]["dst"], columns_written(program[second])
    return all(b != to or read == written or not overlap(read, written) for b, read in operands)


def _cut(i: Instruction, columns: range) -> Instruction:
    """An elementwise instruction for some of the columns that it writes."""
    on, cut = columns.start - i["dst_at"], i | {"dst_at": columns.start, "width": len(columns)}
    for k, name in enumerate(SOURCES):
        # What it does not have repeats the first operand.
        if not i["spread"] >> (k if k < _arity(i) else 0) & 1:
            cut[f"{name}_at"] += on
    return cut


def _without(i: Instruction, columns: range) -> list[Instruction]:
    """An elementwise instruction without some of its columns: what is on either side of them."""
    written = columns_written(i)
    sides = range(written.start, columns.start), range(columns.stop, written.stop)
    return [_cut(i, side) for side in sides if side]


def _joined(first: Instruction, second: Instruction, place: int) -> Instruction | None:
    """Two elementwise instructions, of which the first makes an operand of the second, as one; None if no pair fits."""
    (one, _), (other, _) = OPS[first["code"]], OPS[second["code"]]
    rest = _places(second)
    if other in COMMUTATIVE and place == 1:
        rest[:2], place = rest[1::-1], 0
    del rest[place]
    for ours in (_places(first), _places(first)[1::-1] + _places(first)[2:]):
        operands = ours + rest
        spread = sum(is_spread << k for k, (*_, is_spread) in enumerate(operands))
        number = kernels.PAIRS.get((one, other, place, spread))
        if number is not None:
            made = second | {"code": 0, "spread": spread, "pair": number + 1}
            for k, name in enumerate((*SOURCES, "d")):
                made[name], made[f"{name}_at"], _ = operands[k] if k < len(operands) else operands[0]
            return made
        if one not in COMMUTATIVE:
            break
    return None


def _places(i: Instruction) -> list[tuple[int, int, bool]]:
    """Of each operand of an elementwise instruction: its buffer, its column, and whether that is one for all."""
    return [(i[n], i[f"{n}_at"], bool(i["spread"] >> k & 1)) for k, n in enumerate(SOURCES[: _arity(i)])]
