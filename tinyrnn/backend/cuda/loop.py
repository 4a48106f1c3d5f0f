"""The time loop on the GPU: what a plan needs of a device, as `tinyrnn.backend.cpu` has it, and a program's launch.

A program is compiled once for a kind of number, a direction and a size of batch (the next power of two), for the tiling
that a rough account finds fastest. Float32 products inside the loop may round their operands: see `precision`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tinyrnn.backend.cuda import asarray, zeros
from tinyrnn.backend.cuda.arrays import concat
from tinyrnn.backend.cuda.library import cupy
from tinyrnn.backend.cuda.looplayout import Tiling, blocks_of
from tinyrnn.backend.cuda.looptext import LoopText, pack_text
from tinyrnn.backend.cuda.precision import get_precision
from tinyrnn.backend.cuda.stages import Stages
from tinyrnn.backend.cuda.text import kernels_of

__all__ = ["concat", "empty", "matrix", "run_loop", "vector", "zeros"]

REALS = {"float32": "float", "float64": "double"}
STORAGES = {"float": "float32", "double": "float64", "bf16": "uint16", "tf32": "uint32"}  # as arrays hold them
CLUSTERS = (8, 4, 2, 1)
DEPTHS = (4096, 2048, 1024, 512, 256, 128, 64, 32)
THREADS = 256
WAIT, CLUSTER_WAIT, TRIP = 1500.0, 300.0, 700.0  # ns of a wait of all blocks, of a cluster's, of a load from its cache
STAGED, MULTIPLIED, TENSORED = 60.0, 100.0, 1000.0  # bytes, multiply-adds, those of tensor cores a ns and block
# These rates only choose among tilings; they are guesses from data sheets, and not measured.


# -- arrays ------------------------------------------------------------------------------------------------------------


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    return cupy().empty(shape, dtype)


def matrix(x: Any, rows: int, columns: int) -> Any:
    """An array as a matrix whose rows lie in one piece each, one behind the other; a copy only if need be."""
    if x.ndim != 2 or x.strides[1] != x.itemsize or x.strides[0] < columns * x.itemsize:
        x = cupy().ascontiguousarray(x).reshape(rows, columns)
    return x


def vector(x: Any, row: tuple[int, ...]) -> Any:
    """An array repeated to a row's shape, in one piece."""
    x = asarray(x)
    if x.shape != row or not x.flags.c_contiguous:
        x = cupy().ascontiguousarray(cupy().broadcast_to(x, (1, *row)))
    return x


# -- the tiling --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What a tiling is chosen for: multiprocessors, bytes of shared memory that a block may have, and how many blocks a
    cluster, 0 for none."""

    processors: int
    shared: int
    cluster: int = 0


@cache
def this_machine() -> Machine:
    attributes = cupy().cuda.Device().attributes
    cluster = 8 if attributes["ComputeCapabilityMajor"] >= 9 else 0  # what every device with clusters can do
    return Machine(attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"], cluster)


def choose(stages: Stages, machine: Machine, batch: int, make: Callable[[Tiling], LoopText]) -> LoopText:
    """The text with the tiling whose step takes least time, by a rough account. Raises ValueError if none fits."""
    found: list[tuple[float, int, LoopText]] = []
    for resident in (True, False):
        tiles = 1
        while tiles <= min(machine.processors, batch):
            most = machine.processors // tiles
            ways = [(most, False)]
            ways += [(n, True) for n in CLUSTERS if resident and n <= min(machine.cluster, most)]
            for share, cluster in ways:
                own = blocks_of(stages.units, share)  # units of a block
                blocks, rows = blocks_of(stages.units, own), blocks_of(batch, tiles)
                for depth in DEPTHS:
                    chunk = min(16, blocks_of(rows, 4) * 4)
                    text = make(Tiling(blocks, tiles, rows, chunk, depth, THREADS, resident, cluster))
                    if text.layout["end"] <= machine.shared:
                        found.append((_step_time(text), len(found), text))
                        break
            tiles *= 2
        if found:
            return min(found)[2]
    raise ValueError(
        f"a step of {stages.units} units needs more shared memory than the {machine.shared} bytes there are"
    )


def _step_time(text: LoopText) -> float:
    stages, rows = text.stages, text.tiling.rows
    time = (CLUSTER_WAIT if text.tiling.cluster else WAIT) * (len(stages.levels) - 1 + stages.wrap)
    rate = MULTIPLIED if text.storage == text.real else TENSORED
    for product in text.products:
        side = text.side(product)
        chunks = blocks_of(side.inner, text.tiling.depth) * blocks_of(rows, text.tiling.chunk)
        item = text.stored if product in text.operand_of else text.item
        read = side.inner * (rows * item + (0 if text.tiling.resident else side.columns * text.stored))
        if not text.finds_here(product):
            time += TRIP * chunks + read / STAGED
        time += side.inner * side.columns * rows / rate
    return time


def stages_of(program: Any) -> Stages:
    """The stages of a plan's program."""
    before: dict[int, int] = {}
    after: list[tuple[int, int]] = []
    kept = {source for source, _, _ in program.keeps}
    persistent = []
    for b, spec in enumerate(program.buffers):
        source, state = spec.source or ("none", 0)
        kind = source if spec.place == "sequence" else spec.place
        if kind == "before":
            before[state] = b
        elif kind in ("after", "state"):
            after.append((state, b))
        if kind in ("after", "state", "keep", "partial") or (kind == "seq" and spec.source in kept):
            persistent.append(b)
    places = [spec.place for spec in program.buffers]
    columns = [spec.columns for spec in program.buffers]
    pairs = [(before[state], b) for state, b in after if state in before]
    return Stages(program.instructions, places, columns, pairs, persistent)


# -- a program on the device -------------------------------------------------------------------------------------------


def run_loop(
    program: Any,
    arrays: Sequence[Any],
    others: Sequence[Any],
    weights: Sequence[Any],
    layout: Any,
    serial: int = -1,
) -> None:
    """Run a plan's program over the rows of a layout; the rest is what `kernels.Loop.run` takes."""
    dtype = next(one.dtype for one in arrays if one is not None)
    real = REALS[dtype.name]
    precision = get_precision()
    storage = precision if real == "float" and precision != "float32" else real
    batch = 1 << (layout.batch - 1).bit_length()
    key = (real, storage, layout.backwards, layout.uniform, batch)
    if key not in program.on_device:
        stages = stages_of(program)

        def make(tiling: Tiling) -> LoopText:
            return LoopText(stages, tiling, real, storage, layout.backwards, layout.uniform)

        program.on_device[key] = DeviceLoop(choose(stages, this_machine(), batch, make), program.columns)
    program.on_device[key](arrays, others, weights, layout)


class DeviceLoop:
    """A loop's text, compiled. columns: the program's index."""

    def __init__(self, text: LoopText, columns: np.ndarray[Any, Any]) -> None:
        self.text = text
        self.kernel = kernels_of(text.text(), cooperative=not text.tiling.cluster).get_function("run_loop")
        shared, threads = text.layout["end"], text.tiling.threads
        self.kernel.max_dynamic_shared_size_bytes = shared
        fitting = cupy().cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(self.kernel.kernel.ptr, threads, shared)
        if fitting < 1:  # CuPy would shrink the grid, and the blocks would wait for ever
            raise RuntimeError(
                f"a block of {threads} threads and {shared} bytes of shared memory does not fit the device"
            )
        self.pack = kernels_of(pack_text(text.real, text.storage)).get_function("pack")
        self.columns = asarray(columns if columns.size else np.zeros(1, np.int32))

    def __call__(self, arrays: Sequence[Any], others: Sequence[Any], weights: Sequence[Any], layout: Any) -> None:
        text, tiling, batch = self.text, self.text.tiling, layout.batch
        dtype = np.dtype(STORAGES[text.real])
        shares = cupy().empty(max(1, 2 * len(text.folds) * batch * tiling.blocks), dtype)
        arguments: list[Any] = [np.int32(layout.steps), np.int32(batch)]
        if not text.uniform:
            arguments += [asarray(layout.count.astype(np.int32)), asarray(layout.offset)]
        arguments += [cupy().zeros(tiling.tiles, np.uint32), shares, self.columns]
        for one, two, place in zip(arrays, others, text.stages.places, strict=True):
            if place in ("sequence", "before", "after", "vector", "partial"):
                arguments += [one, np.int64(0 if place == "vector" else one.strides[0] // one.itemsize)]
            if place in ("before", "after"):
                arguments.append(two)
        arguments += [cupy().empty((2, batch, columns), dtype) for columns in text.scratch.values()]
        stored = np.dtype(STORAGES[text.storage])
        if not tiling.cluster:
            arguments += [cupy().empty((2, batch, text.operand_ld(operand)), stored) for operand in text.operands]
        arguments += self._packed(weights)
        blocks = tiling.blocks * blocks_of(batch, tiling.rows)
        self.kernel((blocks,), (tiling.threads,), tuple(arguments), shared_mem=text.layout["end"])

    def _packed(self, weights: Sequence[Any]) -> list[Any]:
        """Each side's columns in the order in which blocks read them."""
        text, found = self.text, []
        for side in text.sides:
            w, ld = weights[side.weight], text.weight_ld(side)
            count = text.tiling.blocks * side.columns
            out = cupy().empty((count, ld), np.dtype(STORAGES[text.storage]))
            strides = [np.int64(stride // w.itemsize) for stride in w.strides]
            own = text.own if side.stretches else 0
            sizes = map(np.int32, (side.inner, ld, side.columns, side.width, own, text.stages.units))
            self.pack((count,), (128,), (out, w, *strides, *sizes))
            found.append(out)
        return found
