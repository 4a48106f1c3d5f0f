"""Contenders on the GPU: `tr.scan`; `nn.LSTM` and `nn.GRU`, which are cuDNN's where it has them; a Python loop over a
cell's equations in torch, as it is and captured once as a CUDA graph. Needs torch.

Runs return outputs (T, B, H), training steps the gradients of all parameters; `device="cpu"` compares them without a
GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

import tinyrnn as tr
from bench.peers import Equations
from bench.record import Run
from bench.torch_peers import Loop, Native, forward, training_step

Size = tuple[int, int, int]  # T, B, H
Gradients = Callable[[], dict[str, Any]]
KINDS = {
    "fp32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "bf16": (torch.bfloat16, "ieee"),
    "fp16": (torch.float16, "ieee"),
}
"""What a contender is stored in, and how its float32 products, cuDNN's and cuBLAS's, may round their operands."""


@lru_cache(maxsize=1)
def values(size: Size) -> tuple[Any, Any]:
    """The input and the gradient of the outputs, (T, B, H) each: one size at a time, up to 1 GiB each."""
    rng = np.random.default_rng(1)
    return rng.standard_normal(size, dtype=np.float32), rng.standard_normal(size, dtype=np.float32)


@dataclass(frozen=True)
class Outcome:
    """A run's result, which is fetched from the device only if somebody looks at it."""

    fetch: Callable[[], Any]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.fetch(), dtype=dtype)


def flat(gradients: Mapping[str, Any]) -> Any:
    """The gradients of our parameters, by their names, as one vector."""
    return np.concatenate([np.ravel(gradients[name]) for name in sorted(gradients)])


def ours(make: Callable[..., Any], size: Size, precision: str, train: bool, device: str = "cuda") -> Run:
    """`tr.scan` over a new cell: its outputs, or the gradients of its parameters."""
    cell = make(size[2], size[2], rng=0)
    if device != "cpu":
        cell.to(device)
    x, seed = (tr.tensor(v, device=device) for v in values(size))
    parameters = dict(cell.named_parameters())

    def forward() -> Outcome:
        with rounding(precision), tr.no_grad():
            return Outcome(tr.scan(cell, x)[0].numpy)

    def step() -> Outcome:
        for p in parameters.values():
            p.grad = None
        with rounding(precision):
            tr.scan(cell, x)[0].backward(seed)
        return Outcome(lambda: flat({name: p.grad.numpy() for name, p in parameters.items()}))

    return step if train else forward


@contextmanager
def rounding(precision: str) -> Iterator[None]:
    """How our products take their operands."""
    if precision == "float32":
        yield
        return
    library: Any = tr
    before = library.get_precision()
    library.set_precision(precision)
    try:
        yield
    finally:
        library.set_precision(before)


def give_back() -> None:
    """Memory of the benchmark before, which each library keeps for itself."""
    pool = getattr(sys.modules.get("cupy"), "get_default_memory_pool", None)
    if pool is not None:
        pool().free_all_blocks()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# -- in torch ----------------------------------------------------------------------------------------------------------


def native(kind: str, ours: Mapping[str, Any], size: Size, precision: str, train: bool, device: str = "cuda") -> Run:
    """nn.LSTM or nn.GRU with our cell's parameters."""
    model = Native(kind, ours)
    gates = {"LSTM": "ifgo", "GRU": "rzn"}[kind]

    def gradients() -> dict[str, Any]:
        parts = {
            name: np.split(_array(getattr(model.rnn, f"{name}_l0").grad), len(gates))
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        found: dict[str, Any] = {}
        for j, k in enumerate(gates):
            found |= {f"W_x{k}": parts["weight_ih"][j].T, f"W_h{k}": parts["weight_hh"][j].T}
            found |= {f"b_{k}": parts["bias_ih"][j], f"b_h{k}": parts["bias_hh"][j]}
        return {name: g for name, g in found.items() if name in ours}

    return _contender(model, gradients, size, precision, train, device)


def loop(
    equations: Equations, ours: Mapping[str, Any], size: Size, precision: str, train: bool,
    device: str = "cuda", graph: bool = False,
) -> Run:  # fmt: skip
    """A Python loop; graph: captured once, all of a forward pass or training step, and launched as one."""
    model = Loop(equations, size[2], equations.pack(ours))

    def gradients() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, parts in equations.packed.items():
            ends = np.cumsum([ours[k].shape[-1] for k in parts])
            found |= dict(zip(parts, np.split(_array(model.p[name].grad), ends[:-1], axis=-1), strict=True))
        return found

    return _contender(model, gradients, size, precision, train, device, graph)


def _contender(
    model: torch.nn.Module, gradients: Gradients, size: Size, precision: str, train: bool, device: str,
    graph: bool = False,
) -> Run:  # fmt: skip
    """Its run, which has run once: what it needs of memory is there, and what cuDNN chooses is chosen."""
    dtype, mode = KINDS[precision]
    with _out_of_memory(), _products(mode):
        model.to(device, dtype)
        x, g = (torch.from_numpy(v).to(device, dtype) for v in values(size))
        work = training_step(model, x, g) if train else forward(model, x)
        if graph:
            work = _captured(work)
        work()

    def run() -> Outcome:
        with _products(mode):
            ys = work()
        return Outcome((lambda: flat(gradients())) if train else (lambda: _array(ys)))

    return run


def _captured(work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """A CUDA graph of all that `work` launches. Gradients are the same tensors every time, and written anew."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries set themselves up outside of the capture
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ys = work()

    def replay() -> torch.Tensor:
        graph.replay()
        return ys

    return replay


@contextmanager
def _products(mode: str) -> Iterator[None]:
    """Products of float32 as they are ("ieee") or with operands rounded to "tf32", until the end of the block."""
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn)
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = mode
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


@contextmanager
def _out_of_memory() -> Iterator[None]:
    """A device that is too small for a contender as the MemoryError that CuPy raises."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from None


def _array(x: Any) -> Any:
    return x.detach().float().cpu().numpy()
