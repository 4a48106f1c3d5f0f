"""The elementwise ops: kernels made from the list in `pointwise.h`, two for each op; one text a dtype."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tinyrnn._core.kernels import POINTWISE
from tinyrnn.backend.cuda.library import cupy
from tinyrnn.backend.cuda.text import REALS, blocks, kernel

AXES = 4  # that the strided kernels walk through; operands of more are copied first
THREADS = 256

# Arrays in one piece, and arrays of up to four axes, of which the last three have n1, n2 and n3 elements: an operand's
# element (i0, i1, i2, i3) is at i0 s0 + i1 s1 + i2 s2 + i3 s3, and a stride of 0 repeats what is there. Indices of 32
# bits, whose divisions are cheap: n < 2^31.
KERNELS = """
extern "C" __global__ void {name}_{real}({real} *out, {pointers}, long long n) {{
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        out[i] = tr::TR_ISA::op::{name}::f({elements});
}}
extern "C" __global__ void {name}_{real}_strided({real} *out, {pointers}, int n, int size1, int size2, int size3,
                                                 {strides}) {{
    const unsigned int n1 = size1, n2 = size2, n3 = size3;
    const unsigned int step = gridDim.x * blockDim.x;
    for (unsigned int i = blockIdx.x * blockDim.x + threadIdx.x; i < (unsigned int)n; i += step) {{
        const unsigned int rows = i / n3, i3 = i - rows * n3, slabs = rows / n2, i2 = rows - slabs * n2;
        const unsigned int i0 = slabs / n1, i1 = slabs - i0 * n1;
        out[i] = tr::TR_ISA::op::{name}::f({strided});
    }}
}}
"""


def _source(real: str) -> tuple[str, tuple[str, ...]]:
    parts = []
    for name, (_, arity) in POINTWISE.items():
        operands = "abc"[:arity]
        at = {k: " + ".join(f"i{d} * {k}{d}" for d in range(AXES)) for k in operands}
        parts.append(
            KERNELS.format(
                name=name,
                real=real,
                pointers=", ".join(f"const {real} *{k}" for k in operands),
                elements=", ".join(f"{k}[i]" for k in operands),
                strides=", ".join(f"long long {k}{d}" for k in operands for d in range(AXES)),
                strided=", ".join(f"{k}[{at[k]}]" for k in operands),
            )
        )
    return "".join(parts), ("pointwise.h",)


@cache
def float_source() -> tuple[str, tuple[str, ...]]:
    """The text of all elementwise kernels of float32, and its headers."""
    return _source("float")


@cache
def double_source() -> tuple[str, tuple[str, ...]]:
    """The text of all elementwise kernels of float64, and its headers."""
    return _source("double")


def pointwise(name: str, arrays: list[Any], into: Any = None) -> Any:
    """The op `name` over arrays of one dtype that broadcast, into a new array or into `into`, contiguous and of the
    result's shape. Raises ValueError for shapes that do not broadcast.
    """
    first = arrays[0]
    shape, real = first.shape, REALS[first.dtype.char]
    source = float_source if real == "float" else double_source
    plain = all(x.flags.c_contiguous and x.shape == shape for x in arrays)
    if not plain:
        shape = _broadcast(name, arrays)
    out = cupy().empty(shape, first.dtype) if into is None else into
    n = out.size
    if n == 0:
        return out
    grid = (blocks(n, THREADS),)
    if plain:
        kernel(source, f"{name}_{real}")(grid, (THREADS,), (out, *arrays, np.int64(n)))
        return out
    sizes, strides = _collapsed(shape, arrays)
    if len(sizes) > AXES or n >= 2**31:
        return pointwise(name, [cupy().broadcast_to(x, shape).copy() for x in arrays], out)
    missing = AXES - len(sizes)
    numbers = [n, *([1] * missing + sizes)[1:]]
    steps = [s for k in strides for s in [0] * missing + k]
    kernel(source, f"{name}_{real}_strided")(
        grid, (THREADS,), (out, *arrays, *map(np.int32, numbers), *map(np.int64, steps))
    )
    return out


def _broadcast(name: str, arrays: list[Any]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*(x.shape for x in arrays))
    except ValueError:
        shapes = " and ".join(str(x.shape) for x in arrays)
        raise ValueError(f"{name} can not broadcast shapes {shapes}") from None


def _collapsed(shape: tuple[int, ...], arrays: list[Any]) -> tuple[list[int], list[list[int]]]:
    """The sizes of the axes, and each operand's strides in elements, 0 where it repeats. Axes of one element are left
    out, and neighbours that every operand walks through in one stride are one axis."""
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in arrays]
    for d in range(-len(shape), 0):
        size = shape[d]
        if size == 1:
            continue
        here = [0 if -d > x.ndim or x.shape[d] == 1 else x.strides[d] // x.itemsize for x in arrays]
        if sizes and all(s[-1] == h * size for s, h in zip(strides, here, strict=True)):
            sizes[-1] *= size
            for s, h in zip(strides, here, strict=True):
                s[-1] = h
        else:
            sizes.append(size)
            for s, h in zip(strides, here, strict=True):
                s.append(h)
    return sizes, strides
