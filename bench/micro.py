"""The small parts: what an op costs on the tape, an element in a kernel, a step of an optimiser, a step of a cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tinyrnn as tr
from bench.record import Benchmark, Goal, Run, at_least, at_most

CHAIN = 20  # ops in a row; so the start and the end of a backward pass count little, as in a network
ELEMENTS = 16384  # 64 KiB of float32: argument and result stay in the second-level cache
SIZE = (100, 1, 32, 32)  # T, B, I, H


def benchmarks() -> list[Benchmark]:
    """Every record of this suite."""
    return [
        *(_op(name) for name in ("mul", "add", "tanh", "sigmoid", "matmul")),
        *(_elementwise(name) for name in ("tanh", "sigmoid", "exp", "log")),
        _adam("adam-1M", [(100, 500)] * 20),
        _adam("adam-12k", [(32, 32)] * 8 + [(32,)] * 4 + [(32, 128)]),
        _unroll(),
    ]


def _values(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Any:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


# -- a taped op --------------------------------------------------------------------------------------------------------

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "mul": lambda a, b: a * b,
    "add": lambda a, b: a + b,
    "matmul": lambda a, b: a @ b,
}


def _op(name: str) -> Benchmark:
    """A chain y = op(y, b), or op(y), from a (1, 32): forward, and backward into both a and b."""
    combine = BINARY.get(name)
    a, g = _values((1, 32), 1), np.ones((1, 32), np.float32)
    # Such that the chain neither vanishes nor explodes: denormal numbers would take times of their own.
    b = _values((32, 32), 2, 32**-0.5) if name == "matmul" else 1 + _values((1, 32), 2, 0.05)

    def chained(function: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
        def chain(y: Any, b: Any) -> Any:
            for _ in range(CHAIN):
                y = combine(y, b) if combine else function(y)
            return y

        return chain

    def ours() -> Run:
        leaves = tr.tensor(a, requires_grad=True), tr.tensor(b, requires_grad=True)
        chain, seed = chained(getattr(tr, name)), tr.tensor(g)

        def run() -> Any:
            leaves[0].grad = leaves[1].grad = None
            chain(*leaves).backward(seed)
            return leaves[0].grad

        return run

    def torch() -> Run:
        import torch

        leaves = torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)
        chain, seed = chained(getattr(torch, name)), torch.tensor(g)

        def run() -> Any:
            leaves[0].grad = leaves[1].grad = None
            chain(*leaves).backward(seed)
            return leaves[0].grad

        return run

    def autograd() -> Run:
        import autograd.numpy as anp
        from autograd import make_vjp

        chain = chained(anp.tanh if name == "tanh" else lambda x: 1 / (1 + anp.exp(-x)))
        reverse = make_vjp(chain, (0, 1) if combine else 0)

        def run() -> Any:
            back = reverse(a, b)[0]
            return back(g)[0] if combine else back(g)

        return run

    # The goal speaks of an op of which every kind of cell has many: the elementwise ones.
    goals: list[Goal] = [] if name == "matmul" else [at_least(3.0, "torch")]
    return Benchmark(
        f"op-{name}", "tape: forward + backward of one op on (1, 32)", ours, {"torch": torch, "autograd": autograd},
        goals, work=CHAIN, unit="op", same=1e-4,
    )  # fmt: skip


# -- a kernel ----------------------------------------------------------------------------------------------------------


def _elementwise(name: str) -> Benchmark:
    x = _values((ELEMENTS,), 3, 2.0)
    if name == "log":
        x = np.abs(x) + np.float32(0.01)

    def ours() -> Run:
        op, t = getattr(tr, name), tr.tensor(x)
        return lambda: op(t)

    def numpy() -> Run:
        if name == "sigmoid":
            return lambda: 1 / (1 + np.exp(-x))
        function = getattr(np, name)
        return lambda: function(x)

    def torch() -> Run:
        import torch

        function, t = getattr(torch, name), torch.tensor(x)

        def run() -> Any:
            with torch.inference_mode():
                return function(t)

        return run

    goals = [at_most(0.25e-9, isa="avx512")] if name in ("tanh", "sigmoid") else []
    return Benchmark(
        f"ew-{name}", f"elementwise: float32, {ELEMENTS:,} elements", ours, {"numpy": numpy, "torch": torch}, goals,
        work=ELEMENTS, unit="element", same=1e-6,
    )  # fmt: skip


# -- an optimiser ------------------------------------------------------------------------------------------------------


def _adam(name: str, shapes: Sequence[tuple[int, ...]]) -> Benchmark:
    count = sum(int(np.prod(s)) for s in shapes)

    def ours() -> Run:
        params = [tr.Parameter(_values(s, k)) for k, s in enumerate(shapes)]
        for k, p in enumerate(params):
            p.grad = tr.tensor(_values(p.shape, 100 + k))
        return tr.optim.Adam(params, lr=1e-3).step

    def torch(**options: bool) -> Run:
        import torch

        params = [torch.nn.Parameter(torch.tensor(_values(s, k))) for k, s in enumerate(shapes)]
        for k, p in enumerate(params):
            p.grad = torch.tensor(_values(tuple(p.shape), 100 + k))
        return torch.optim.Adam(params, lr=1e-3, **options).step

    peers = {"torch foreach": lambda: torch(foreach=True), "torch fused": lambda: torch(fused=True)}
    return Benchmark(
        name, f"optimiser step: {count:,} parameters in {len(shapes)} tensors", ours, peers,
        work=count, unit="parameter",
    )  # fmt: skip


# -- a cell, op by op --------------------------------------------------------------------------------------------------


def _unroll() -> Benchmark:
    """The training step of an LSTM run op by op, beside the very same ops in torch."""
    steps, rows, inputs, hidden = SIZE
    xs, g = _values((steps, rows, inputs), 5), _values((steps, rows, hidden), 6)

    def ours() -> Run:
        cell = tr.cells.LSTM(inputs, hidden, rng=0)
        x, seed, parameters = tr.tensor(xs), tr.tensor(g), cell.parameters()

        def run() -> Any:
            for p in parameters:
                p.grad = None
            ys, _ = tr.unroll(cell, x)
            ys.backward(seed)
            return ys

        return run

    def torch() -> Run:
        from bench import torch_peers

        cell = tr.cells.LSTM(inputs, hidden, rng=0)
        return torch_peers.training_step(torch_peers.OpForOp(cell.state_dict()), xs, g)

    return Benchmark(
        "unroll-lstm", f"training step op by op (tr.unroll): T, B, I, H = {SIZE}", ours, {"torch": torch},
        [at_least(2.5, "torch")], unit="step", same=1e-4,
    )  # fmt: skip
