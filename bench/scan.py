"""The compiled loop over time, beside the fastest that a user could have instead, in six sizes.

The input needs no gradient. Operations are those of the products alone: one of the input and one of the state forward;
in a training step also the gradient of the state, and of both weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinyrnn as tr
from bench import cells, peers
from bench.record import Benchmark, Factory, Goal, Run, at_least, at_most, on_threads, share_of_peak

# T, B, I, H
SIZES = [
    (100, 1, 32, 32),
    (100, 16, 64, 64),
    (100, 32, 128, 128),
    (100, 64, 256, 256),
    (100, 64, 512, 512),
    (50, 128, 1024, 1024),
]
FIRST = (100, 16, 64, 64)
KEPT = (100, 16, 64, 64)
Size = tuple[int, int, int, int]


@dataclass(frozen=True)
class Row:
    """A cell of the table. products: columns of its input's and of its states' products, in units of H.

    native: the class of torch.nn that is the peer the goals count, or "": the best of the loop in torch and JAX.
    """

    cell: Callable[..., Any]
    equations: peers.Equations
    products: tuple[int, int]
    native: str = ""


ROWS = {
    "lstm": Row(tr.cells.LSTM, peers.LSTM, (4, 4), "LSTM"),
    "gru-after": Row(
        lambda i, h, rng: tr.cells.GRU(i, h, reset="after", flipped=True, rng=rng), peers.GRU_AFTER, (3, 3), "GRU"
    ),
    "gru-before": Row(tr.cells.GRU, peers.GRU_BEFORE, (3, 3)),
    "peephole": Row(lambda i, h, rng: tr.cells.LSTM(i, h, peephole="diagonal", rng=rng), peers.PEEPHOLE, (4, 4)),
    "layer-norm": Row(tr.cells.LayerNormLSTM, peers.LAYER_NORM, (4, 4)),
    "mut1": Row(tr.cells.MUT1, peers.MUT1, (2, 2)),
    "random18": Row(cells.Random18, peers.RANDOM18, (2, 2)),
}


def benchmarks() -> list[Benchmark]:
    """Every record of this suite."""
    table = [_row(name, size, train) for name in ROWS for size in SIZES for train in (False, True)]
    found = [*table, _first_call(False), _first_call(True), _kept()]
    large = [size for size in SIZES if size[1] >= 16 and size[3] >= 128]
    return found + [_threads(size, train) for size in large for train in (False, True)]


def values(size: Size) -> tuple[Any, Any]:
    """The input (T, B, I) and the gradient of the outputs (T, B, H)."""
    steps, rows, inputs, hidden = size
    rng = np.random.default_rng(1)
    return (
        rng.normal(size=(steps, rows, inputs)).astype(np.float32),
        rng.normal(size=(steps, rows, hidden)).astype(np.float32),
    )


def _ours(cell: Any, size: Size, train: bool) -> Run:
    xs, g = values(size)
    x, seed, parameters = tr.tensor(xs), tr.tensor(g), cell.parameters()

    def forward() -> Any:
        with tr.no_grad():
            return tr.scan(cell, x)[0]

    def step() -> Any:
        for p in parameters:
            p.grad = None
        ys = tr.scan(cell, x)[0]
        ys.backward(seed)
        return ys

    return step if train else forward


def _row(name: str, size: Size, train: bool) -> Benchmark:
    row = ROWS[name]
    steps, rows, inputs, hidden = size

    def cell() -> Any:
        return row.cell(inputs, hidden, rng=0)

    def native() -> Run:
        from bench import torch_peers

        return _torch_run(torch_peers.Native(row.native, cell().state_dict()), size, train)

    def loop() -> Run:
        from bench import torch_peers

        packed = row.equations.pack(cell().state_dict())
        return _torch_run(torch_peers.Loop(row.equations, hidden, packed), size, train)

    def jax() -> Run:
        return _jax_run(row, cell(), size, train)

    against: dict[str, Factory] = {f"nn.{row.native}": native} if row.native else {"torch loop": loop}
    of_input, of_state = (2 * steps * rows * size[2 + k] * row.products[k] * hidden for k in range(2))
    return Benchmark(
        f"{name}-{'train' if train else 'forward'}-{'x'.join(map(str, size))}",
        f"{name}: forward, and training step; T, B, I, H",
        lambda: _ours(cell(), size, train), against | {"jax": jax}, _goals(name, row, size, train), unit="run",
        flops=2 * of_input + 3 * of_state if train else of_input + of_state, same=1e-4,
    )  # fmt: skip


def _goals(name: str, row: Row, size: Size, train: bool) -> list[Goal]:
    """The table of goals: ratio to the peers, and for LSTM at large sizes the share of the core's peak."""
    hidden = size[3]
    if row.native == "LSTM":
        smallest = size == SIZES[0]
        forward = 2.0 if smallest else 0.95 if hidden >= 256 else 1.0
        goals = [at_least(1.2 if train else forward, "nn.LSTM")]
        return goals + [share_of_peak(0.80 if train else 0.85)] * (hidden >= 512)
    if row.native == "GRU":
        return [at_least(1.7, "nn.GRU")]
    return [at_least((1.5 if hidden <= 256 else 1.25) if train else 1.3)]


def _torch_run(model: Any, size: Size, train: bool) -> Run:
    from bench import torch_peers

    xs, g = values(size)
    return torch_peers.training_step(model, xs, g) if train else torch_peers.forward(model, xs)


def _jax_run(row: Row, cell: Any, size: Size, train: bool) -> Run:
    from bench import jax_peers

    xs, g = values(size)
    packed = row.equations.pack(cell.state_dict())
    if train:
        return jax_peers.training_step(row.equations, size[3], packed, xs, g)
    return jax_peers.forward(row.equations, size[3], packed, xs)


# -- beside the table --------------------------------------------------------------------------------------------------


def _first_call(train: bool) -> Benchmark:
    """The first run of a cell that was never seen: recording, planning and running, or compiling and running."""
    rng = np.random.default_rng()
    limit = 20e-3 if train else 10e-3
    return Benchmark(
        f"first-{'train' if train else 'forward'}", f"first call of a new cell: T, B, I, H = {FIRST}",
        lambda: _ours(cells.salted(*FIRST[2:], rng), FIRST, train),
        {"jax": lambda: _jax_run(ROWS["random18"], cells.Random18(*FIRST[2:]), FIRST, train)},
        [at_most(limit)], unit="call", measure="first",
    )  # fmt: skip


def _kept() -> Benchmark:
    """What stays in memory between forward and backward, the outputs included, in floats a step, row and unit.

    Ours is what Python's tracemalloc saw arrays take, so memory that compiled code took by itself is not in it.
    """

    def ours() -> Run:
        import tracemalloc

        cell, x = tr.cells.LSTM(*KEPT[2:], rng=0), tr.tensor(values(KEPT)[0])
        tr.scan(cell, x)

        def run() -> float:
            tracemalloc.start()
            try:
                ys = tr.scan(cell, x)  # held until it was counted
                return tracemalloc.get_traced_memory()[0] / ys[0].dtype.itemsize
            finally:
                tracemalloc.stop()

        return run

    def native() -> Run:
        from bench import torch_peers

        model = torch_peers.Native("LSTM", tr.cells.LSTM(*KEPT[2:], rng=0).state_dict())
        return lambda: torch_peers.kept(model, values(KEPT)[0])

    steps, rows, _, hidden = KEPT
    return Benchmark(
        "kept-lstm", f"memory kept for an LSTM's backward pass: floats, T, B, I, H = {KEPT}", ours,
        {"nn.LSTM": native}, [at_most(10.0)], work=steps * rows * hidden,
        unit="t, b, unit", measure="value",
    )  # fmt: skip


def _threads(size: Size, train: bool) -> Benchmark:
    """Two threads beside one."""

    def ours(threads: int) -> Run:
        return on_threads(threads, tr.set_num_threads, _ours(tr.cells.LSTM(*size[2:], rng=0), size, train))

    return Benchmark(
        f"threads-{'train' if train else 'forward'}-{'x'.join(map(str, size))}", "LSTM on 2 threads beside 1",
        lambda: ours(2), {"1 thread": lambda: ours(1)}, [at_least(1.8)], threads=2, clock="wall", same=0.0,
    )  # fmt: skip


def peak() -> float:
    """Floating-point operations a second of this core: the best that any BLAS at hand reaches on 1024 x 1024."""
    import time

    a = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)
    x = tr.tensor(a)
    products: list[Callable[[], object]] = [lambda: a @ a, lambda: x @ x]
    try:
        import torch

        t = torch.from_numpy(a)
        products.append(lambda: t @ t)
    except ImportError:
        pass
    best = 0.0
    for product in products:
        for _ in range(12):
            start = time.process_time()
            product()
            best = max(best, 2 * 1024**3 / (time.process_time() - start))
    return best
