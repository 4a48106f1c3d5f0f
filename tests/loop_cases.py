"""What tests of the GPU's time loop share: programs as `tr.scan` runs them, with the arrays that they were given and
what the CPU's loop made of them; and the same, run by the stand-in for a GPU."""

import contextlib
import math
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from unittest import mock

import numpy as np
from hostcuda import stand_in
from scan_cases import run

import tinyrnn as tr
from tinyrnn._core import tape
from tinyrnn.backend import cpu
from tinyrnn.backend.cuda import library, loop
from tinyrnn.backend.cuda import text as device_text
from tinyrnn.backend.cuda.looplayout import Tiling, blocks_of
from tinyrnn.backend.cuda.looptext import LoopText

# blocks, rows of a tile, rows at a time, depth, threads, resident, cluster: up to 7 rows, on a device for 8 blocks
TILINGS = [
    (1, 6, 4, 256, 64, True),
    (2, 3, 2, 4, 64, True),
    (3, 4, 3, 256, 96, False),
    (4, 7, 4, 4, 32, False),
    (4, 4, 8, 8, 128, True),
    (8, 7, 1, 4, 32, True),
    (2, 3, 4, 4, 64, True, True),
    (3, 7, 3, 8, 32, True, True),
]


def tiled(batch, blocks, rows, chunk, depth, threads, resident, cluster=False):
    return Tiling(blocks, blocks_of(batch, rows), rows, chunk, depth, threads, resident, cluster)


@dataclass(frozen=True)
class View:
    """A matrix in one of a call's memories."""

    memory: int
    offset: int
    rows: int
    columns: int
    ld: int

    def of(self, memories):
        size = memories[self.memory].itemsize
        return np.lib.stride_tricks.as_strided(
            memories[self.memory][self.offset :], (self.rows, self.columns), (self.ld * size, size)
        )


@dataclass(eq=False)
class Call:
    """A call of `run_loop`: its program, layout and weights; before, after: its memories, one for all views of it.

    buffers: (its spec, a View or None, the View of its other half or None) of each.
    """

    program: object
    layout: object
    buffers: list
    before: list
    after: list
    weights: list

    @cached_property
    def stages(self):
        return loop.stages_of(self.program)

    def text(self, tiling, storage=None, real=None):
        """tiling: what `tiled` takes behind the batch. real: the type that the call's numbers are of, or another."""
        real = real or {"f": "float", "d": "double"}[self.before[0].dtype.char]
        one, layout = tiled(self.layout.batch, *tiling), self.layout
        return LoopText(self.stages, one, real, storage or real, layout.backwards, layout.uniform)

    def results(self):
        """The views that the loop is there to make."""
        kept = {source for source, _, _ in self.program.keeps}
        for spec, *views in self.buffers:
            if spec.place in ("before", "after", "partial") or (
                spec.place == "sequence" and (spec.source[0] in ("keep", "state") or spec.source in kept)
            ):
                yield from (view for view in views if view)


class Memories:
    """Numbers the memories behind arrays."""

    def __init__(self):
        self.found = {}

    def view(self, a):
        if a is None:
            return None
        base = a
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert base.flags.c_contiguous
        number, _ = self.found.setdefault(id(base), (len(self.found), base))
        offset = (a.ctypes.data - base.ctypes.data) // a.itemsize
        rows, columns = a.reshape(-1, a.shape[-1]).shape
        return View(number, offset, rows, columns, a.strides[0] // a.itemsize if rows > 1 else columns)

    def copies(self):
        return [base.reshape(-1).copy() for _, base in self.found.values()]


@contextlib.contextmanager
def recorded(hoists=True):
    """A context that gives a list, to which every run of a program on the CPU adds a Call.

    hoists: products of inputs are done before the loop, as in the programs that a GPU gets; else they are done in it.
    Nor do gradients take the place of kept values there, so no graph is let go of.
    """
    calls, original, many = [], cpu.run_loop, math.inf if hoists else 0

    def record(program, arrays, others, weights, layout, serial):
        memories, found = Memories(), []
        for spec, one, two in zip(program.buffers, arrays, others, strict=True):
            if spec.place == "sequence" and spec.source[0] in ("keep", "state"):
                one[: layout.rows] = np.nan  # what the loop makes, and others may have left here
            if two is not None and layout.uniform:
                two[...] = np.nan
            found.append((spec, memories.view(one), memories.view(two)))
        before = memories.copies()
        original(program, arrays, others, weights, layout, serial)
        calls.append(Call(program, layout, found, before, memories.copies(), [w.copy() for w in weights]))

    with (
        mock.patch.object(cpu, "run_loop", record),
        mock.patch.object(tr.plan, "MANY_ROWS", many),
        mock.patch.object(tape, "let_go", return_value=False),
    ):
        yield calls


def calls_of(cell, task, order=1, hoists=True):
    """The calls that the values of a case make, and its gradients up to an order."""
    with recorded(hoists) as calls:
        with tr.no_grad():
            tr.scan(cell, tuple(map(tr.tensor, task.xs)), tuple(map(tr.tensor, task.state)), lengths=task.lengths,
                    reverse=task.reverse)  # fmt: skip
        run(tr.scan, cell, task, order=order)
    return list({(call.program, call.layout.backwards): call for call in calls}.values())


# -- on the stand-in ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def device():
    """A context in which the package finds the stand-in for CuPy; gives it."""
    caches = library.cupy, device_text.kernels_of, loop.this_machine
    with stand_in() as cupy:
        for cached in caches:
            cached.cache_clear()
        try:
            yield cupy
        finally:
            for cached in caches:
                cached.cache_clear()


def piece(texts):
    """Texts of loops of one kind of number as one, and the names of their kernels: compilers are slow to start."""
    names = {source: f"run_loop_{k}" for k, source in enumerate(dict.fromkeys(text.text() for text in texts))}
    return "".join(source.replace("run_loop(", f"{name}(") for source, name in names.items()), names


@contextlib.contextmanager
def in_one_piece(texts):
    """A context in which these loops are compiled together."""
    whole, names = piece(texts)
    kernels_of = loop.kernels_of

    def find(text, cooperative=False):
        if text not in names:
            return kernels_of(text, cooperative=cooperative)
        return SimpleNamespace(get_function=lambda _: kernels_of(whole, cooperative=True).get_function(names[text]))

    loop.kernels_of = find
    try:
        yield
    finally:
        loop.kernels_of = kernels_of


def on_device(cupy, call, launch):
    """The memories behind a call on the stand-in. launch(arrays, others, weights, layout)."""
    room = [1] * len(call.before)  # so that the last row of a view is as long as the others
    for _, *views in call.buffers:
        for v in filter(None, views):
            room[v.memory] = max(room[v.memory], v.offset + v.rows * v.ld - call.before[v.memory].size)
    there = [cupy.asarray(np.concatenate([a, np.zeros(n, a.dtype)])) for a, n in zip(call.before, room, strict=True)]

    def view(v):
        if v is None:
            return None
        if v.ld == 0:  # one row for all
            row = there[v.memory][v.offset : v.offset + v.columns].reshape(1, v.columns)
            return cupy.broadcast_to(row, (v.rows, v.columns))
        return there[v.memory][v.offset : v.offset + v.rows * v.ld].reshape(v.rows, v.ld)

    arrays, others = ([view(pair[k]) for _, *pair in call.buffers] for k in (0, 1))
    launch(arrays, others, [cupy.asarray(w) for w in call.weights], call.layout)
    return [a.get()[: b.size] for a, b in zip(there, call.before, strict=True)]


def assert_agrees(call, found, tolerance):
    """Relative to the largest element; what the loop has no business with keeps its bits."""
    written = {action["dst"] for action in call.program.instructions}
    touched = {v.memory for b in written for v in call.buffers[b][1:] if v}
    for k, (a, b) in enumerate(zip(found, call.before, strict=True)):
        assert k in touched or a.tobytes() == b.tobytes()
    for view in call.results():
        a, b = view.of(found), view.of(call.after)
        scale = max(1.0, np.abs(b).max(initial=0, where=np.isfinite(b)))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)
