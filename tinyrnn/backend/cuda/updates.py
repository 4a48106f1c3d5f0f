"""The optimisers' updates and what clipping needs; the functions are those of `tinyrnn._core.kernels`."""

from __future__ import annotations

from functools import cache
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyrnn.backend.cuda import number
from tinyrnn.backend.cuda.elementwise import pointwise
from tinyrnn.backend.cuda.text import REALS, blocks, kernel

THREADS = 256
LOOP = """
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)"""
# m, v: the state of all parameters of a dtype; this one's begins at `at`.
KERNELS = """
extern "C" __global__ void sgd_{real}({real} *p, const {real} *g, {real} *m, long long at, long long n, double lr,
                                      double momentum, double weight_decay, int kind) {{
    typedef tr::TR_ISA::Sgd<{real}> Rule;
    const Rule rule = Rule::of(lr, momentum, weight_decay);{loop} {{
        if (kind == 0) Rule::plain(rule, p[i], g[i]);
        if (kind == 1) Rule::heavy(rule, p[i], g[i], m[at + i]);
        if (kind == 2) Rule::nesterov(rule, p[i], g[i], m[at + i]);
    }}
}}
extern "C" __global__ void rmsprop_{real}({real} *p, const {real} *g, {real} *v, {real} *m, long long at, long long n,
                                          double lr, double alpha, double eps, double momentum, double weight_decay,
                                          int kind) {{
    typedef tr::TR_ISA::RmsProp<{real}> Rule;
    const Rule rule = Rule::of(lr, alpha, eps, momentum, weight_decay);{loop} {{
        if (kind == 0) Rule::plain(rule, p[i], g[i], v[at + i]);
        if (kind == 1) Rule::heavy(rule, p[i], g[i], v[at + i], m[at + i]);
    }}
}}
extern "C" __global__ void adam_{real}({real} *p, const {real} *g, {real} *m, {real} *v, long long at, long long n,
                                       double rate, double beta1, double beta2, double scale, double eps, double decay,
                                       double shrink) {{
    typedef tr::TR_ISA::Adam<{real}> Rule;
    const Rule rule = Rule::of(rate, beta1, beta2, scale, eps, decay, shrink);{loop}
        Rule::step(rule, p[i], g[i], m[at + i], v[at + i]);
}}
"""


@cache
def source() -> tuple[str, tuple[str, ...]]:
    """The text of the updates, and its headers."""
    text = "".join(KERNELS.format(real=real, loop=LOOP) for real in REALS.values())
    return text, ("pointwise.h", "updates.h")


def _run(rule: str, p: Any, g: Any, state: tuple[Any, ...], at: int, *options: Any) -> None:
    if g.size:
        packed = g if g.flags.c_contiguous else g.copy()
        kernel(source, f"{rule}_{REALS[p.dtype.char]}")(
            (blocks(g.size, THREADS),), (THREADS,), (p, packed, *state, np.int64(at), np.int64(g.size), *options)
        )


def _each(parameters: list[Any], gradients: list[Any]) -> list[tuple[int, Any, Any, int]]:
    """(number, parameter, gradient, where its state begins) of those that have a gradient."""
    at, found = 0, []
    for k, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
        if g is not None:
            found.append((k, p, g, at))
        at += p.size
    return found


def sgd(
    parameters: list[Any], gradients: list[Any], momenta: Any, lr: float, momentum: float, weight_decay: float,
    nesterov: bool,
) -> None:  # fmt: skip
    """One step of SGD in place; see `kernels.sgd`."""
    kind = np.int32(0 if momenta is None else 1 + nesterov)
    options = [*map(np.float64, (lr, momentum, weight_decay)), kind]
    for _, p, g, at in _each(parameters, gradients):
        _run("sgd", p, g, (p if momenta is None else momenta,), at, *options)


def rmsprop(
    parameters: list[Any], gradients: list[Any], squares: Any, momenta: Any, lr: float, alpha: float, eps: float,
    momentum: float, weight_decay: float,
) -> None:  # fmt: skip
    """One step of RMSprop in place; see `kernels.rmsprop`."""
    options = [*map(np.float64, (lr, alpha, eps, momentum, weight_decay)), np.int32(momenta is not None)]
    for _, p, g, at in _each(parameters, gradients):
        _run("rmsprop", p, g, (squares, squares if momenta is None else momenta), at, *options)


def adam(
    parameters: list[Any], gradients: list[Any], means: Any, squares: Any, steps: NDArray[np.int64], lr: float,
    beta1: float, beta2: float, eps: float, weight_decay: float, decoupled: bool,
) -> None:  # fmt: skip
    """One step of Adam or AdamW in place; see `kernels.adam`. steps: on the host."""
    decay, shrink = (0.0, 1 - lr * weight_decay) if decoupled else (weight_decay, 1.0)
    for k, p, g, at in _each(parameters, gradients):
        steps[k] += 1
        taken = int(steps[k])
        rate, scale = lr / (1 - beta1**taken), 1 / sqrt(1 - beta2**taken)
        options = map(np.float64, (rate, beta1, beta2, scale, eps, decay, shrink))
        _run("adam", p, g, (means, squares), at, *options)


def scale(x: Any, factor: float, into: Any) -> Any:
    """x times a number, into an array of its shape that may be x, or a new one."""
    return pointwise("mul", [x, number(factor, x.dtype)], into)


def clip(x: Any, limit: float, into: Any) -> Any:
    """x limited to ±limit; NaN stays."""
    low = pointwise("minimum", [x, number(limit, x.dtype)], into)
    return pointwise("maximum", [low, number(-limit, x.dtype)], low)
