"""How a loop lies on the device, for a program's stages and one tiling: which columns a block has of each weight, where
its values lie in shared memory, what has to be in memory, and in which form products find their left sides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from tinyrnn.backend.cuda.stages import CROSS, Action, Location, Stages

SIZES = {"float": 4, "double": 8, "bf16": 2, "tf32": 4}  # bytes
GRANULES = {"float": 4, "double": 4, "bf16": 16, "tf32": 8}  # of k in device.h's products


@dataclass(frozen=True)
class Tiling:
    """How a loop is laid over the device.

    blocks: those that share a tile of rows; tiles: of rows; rows: of a tile; chunk: rows at a time; depth: columns of a
    left side at a time; resident: whether weights stay in shared memory; cluster: whether the blocks of a tile are one
    cluster of the device, which wait for each other, and hand on what products read, without leaving the chip.
    """

    blocks: int
    tiles: int
    rows: int
    chunk: int
    depth: int = 256
    threads: int = 256
    resident: bool = True
    cluster: bool = False


def blocks_of(n: int, size: int) -> int:
    return -(-n // size)


@dataclass(frozen=True)
class Side:
    """A block's columns of a weight: number of the weight, K, columns of one block, and whether they are units'."""

    weight: int
    inner: int
    columns: int
    width: int
    stretches: int


@dataclass(frozen=True)
class Operand:
    """A product's left side as it is stored, its own array for even and for odd steps.

    buffer, at, inner: where it lies as numbers; before: whether that is a state before the step, to which the step
    before wrote; writers: what makes its parts.
    """

    buffer: int
    at: int
    inner: int
    before: bool
    writers: tuple[Action, ...]


class LoopLayout:
    """real: "float" or "double"; storage: of products' operands: real, "bf16" or "tf32"."""

    def __init__(self, stages: Stages, tiling: Tiling, real: str, storage: str, backwards: bool, uniform: bool) -> None:
        if storage != real:  # the tensor cores take 16 rows
            tiling = replace(tiling, chunk=16)
        self.stages, self.tiling, self.real, self.storage = stages, tiling, real, storage
        self.backwards, self.uniform = backwards, uniform
        self.own = blocks_of(stages.units, tiling.blocks)
        self.products = [a for a in stages.actions if a.form == "product"]
        found = {} if storage == real and not tiling.cluster else {p: self._operand(p) for p in self.products}
        self.operand_of = {p: operand for p, operand in found.items() if operand is not None}
        self.operands = {operand: n for n, operand in enumerate(dict.fromkeys(self.operand_of.values()))}
        self.slots = {key: n for n, key in enumerate(stages.row_slots())}
        self.folds = {a: n for n, a in enumerate(a for a in stages.actions if a.form == "fold")}
        self.item, self.stored = SIZES[real], SIZES[storage]
        self.pad, self.granule = 16 // self.stored, GRANULES[storage]  # as in device.h

    # -- sizes ---------------------------------------------------------------------------------------------------------

    @cached_property
    def sides(self) -> dict[Side, int]:
        """The weights' parts that products read, by number."""
        return {side: n for n, side in enumerate(dict.fromkeys(map(self.side, self.products)))}

    def side(self, product: Action) -> Side:
        i = product.code
        columns = product.stretches * self.own if product.stretches else blocks_of(i["width"], self.tiling.blocks)
        return Side(i["code"], i["inner"], columns, i["width"], product.stretches)

    def weight_ld(self, side: Side) -> int:
        """Elements from one column of a packed weight to the next."""
        return blocks_of(side.inner, self.granule) * self.granule + self.pad

    def depth(self, product: Action) -> int:
        """Columns of its left side that a product has in shared memory at a time."""
        whole = blocks_of(product.code["inner"], self.granule) * self.granule
        return whole if self.finds_here(product) else min(self.tiling.depth, whole)

    def _parts(self, side: Side) -> int:
        """Shares::parts of device.h."""
        wide = 16 if self.real == "double" else 32
        if self.storage != self.real:
            wide = 8 * min(4, blocks_of(side.columns, 8))
        tiles = blocks_of(self.tiling.chunk, 16) * blocks_of(side.columns, wide)
        return max(1, min(self.tiling.threads // 32 // tiles, blocks_of(side.inner, 32)))

    @cached_property
    def layout(self) -> dict[str, int]:
        """Where things lie in shared memory, in bytes; "end": how many there are."""
        places: dict[str, int] = {}
        at = 0

        def take(name: str, size: int) -> None:
            nonlocal at
            places[name] = at
            at = blocks_of(at + size, 128) * 128

        tiling = self.tiling
        if tiling.resident:
            for side, n in self.sides.items():
                take(f"w{n}", side.columns * self.weight_ld(side) * self.stored)
        if tiling.cluster:
            for operand, n in self.operands.items():
                take(f"x{n}", 2 * self.room * self.operand_ld(operand) * self.stored)
        for n, product in enumerate(self.products):
            take(f"t{n}", tiling.chunk * self.side(product).columns * self.item)
        take("rows", len(self.slots) * tiling.rows * self.item)
        take("folds", len(self.folds) * tiling.chunk * self.own * self.item)
        work = 0
        for product in self.products:
            side = self.side(product)
            rows = (0 if self.finds_here(product) else tiling.chunk) + (0 if tiling.resident else side.columns)
            own = self._parts(side) * tiling.chunk * side.columns * self.item
            work = max(work, own + rows * (self.depth(product) + self.pad) * self.stored)
        take("work", work)
        places["end"] = at
        return places

    @cached_property
    def scratch(self) -> dict[int, int]:
        """The scratch that lies in memory: buffer -> columns. There are two of each, for even and odd steps."""
        found = {}
        for action in self.stages.actions:
            for at, reach in action.writes:
                if self.stages.places[at[0]] in ("scratch", "tile") and self.goes_to_memory(action, at, reach):
                    found[at[0]] = self.stages.columns[at[0]]
        return found

    def goes_to_memory(self, action: Action, at: Location, reach: str) -> bool:
        return reach == CROSS or self.is_stored(action, at)

    def is_stored(self, action: Action, at: Location) -> bool:
        return self.stages.is_stored(action, at, [p for p, operand in self.operand_of.items() if not operand.before])

    # -- left sides as products find them ------------------------------------------------------------------------------

    def _operand(self, product: Action) -> Operand | None:
        """What a product may read instead of numbers: None if not all of it is made where it can be rounded."""
        stages, i = self.stages, product.code
        places = stages.cut(i["a"], i["a_at"], i["inner"])
        ways: list[tuple[bool, list[Action | None]]] = [(False, [stages.writer_of.get((product, at)) for at in places])]
        for before, after in stages.states:
            if before == i["a"] and not any(ways[0][1]):
                ways.append((True, [stages.last.get((after, c)) for _, c in places]))
        for is_before, writers in ways:
            made = tuple(dict.fromkeys(w for w in writers if w is not None))
            whole = i["a_at"] % stages.units == 0 == i["inner"] % stages.units
            if None not in writers and all(
                w.form in ("product", "elements") or (w.form == "units" and whole) for w in made
            ):
                return Operand(i["a"], i["a_at"], i["inner"], is_before, made)
        return None

    @property
    def room(self) -> int:
        """Rows of a left side in shared memory: whole chunks."""
        return blocks_of(self.tiling.rows, self.tiling.chunk) * self.tiling.chunk

    def operand_ld(self, operand: Operand) -> int:
        """Elements from row to row: as products have them in shared memory, or at multiples of 16 bytes."""
        if self.tiling.cluster:
            return blocks_of(operand.inner, self.granule) * self.granule + self.pad
        return blocks_of(operand.inner, 8) * 8

    def finds_here(self, product: Action) -> bool:
        """Whether a product finds its left side in shared memory."""
        return self.tiling.cluster and product in self.operand_of

    def is_sent_in(self, level: int) -> bool:
        return any(writer.level == level for operand in self.operands for writer in operand.writers)
