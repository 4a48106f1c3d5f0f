"""Forwards of the ops that are not elementwise, on NumPy arrays. Arguments were checked by the ops' shape rules."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyrnn._core import kernels
from tinyrnn.backend.threads import count_shards, cut_rows

Array = NDArray[Any]
Axes = tuple[int, ...]
POOLED = 1 << 17
"""Bytes of a result from which memory that was used before is asked for: fresh pages cost more than the copying."""
Reduce = Callable[[str, Any, int, int], Any]
"""(kind, array, first, last) -> the array reduced over the neighbouring axes first .. last-1."""


def identity(x: Array) -> Array:
    return x


def astype(x: Array, dtype: np.dtype) -> Array:
    return x.astype(dtype)


reshape = kernels.reshape


def transpose(x: Array, axes: Axes) -> Array:
    return x.transpose(axes)


def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(x, shape)


def concat(arrays: Sequence[Array], axis: int) -> Array:
    first = arrays[0]
    if first.nbytes * len(arrays) < POOLED:
        return np.concatenate(arrays, axis)
    n = sum(a.shape[axis] for a in arrays)
    out: Array = kernels.empty((*first.shape[:axis], n, *first.shape[axis + 1 :]), first.dtype)
    return np.concatenate(arrays, axis, out=out)


def add_product(buffer: Array, g: Array, a: Array) -> None:
    """buffer += a.T @ g: a weight's gradient, from the gradient of a @ weight."""
    kernels.matmul(a.T, g, buffer)


def matmul(a: Array, b: Array) -> Array:
    if a.ndim == 2 == b.ndim:
        return kernels.matmul(a, b)
    if b.ndim == 2:  # one product instead of many
        rows = math.prod(a.shape[:-1])
        return kernels.matmul(a.reshape(rows, a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[1])
    return np.asarray(np.matmul(a, b))


products = kernels.products


def reduced(reduce: Reduce, kind: str, x: Any, axes: Axes, keepdims: bool) -> Any:
    """Reduce over sorted axes, each run of neighbours in one pass."""
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    result = x
    while axes:
        last = axes[-1]
        first = last
        while first - 1 in axes:
            first -= 1
        result = reduce(kind, result, first, last + 1)
        axes = tuple(i for i in axes if i < first)
    return result.reshape(shape) if keepdims else result


def sum_over(x: Array, axes: Axes, keepdims: bool) -> Array:
    return reduced(kernels.reduce, "sum", x, axes, keepdims)


def max_over(x: Array, axes: Axes, keepdims: bool) -> Array:
    return reduced(kernels.reduce, "max", x, axes, keepdims)


def sum_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Sum what broadcasting from `shape` repeated."""
    return summed_to(kernels.reduce, x, shape)


def summed_to(reduce: Reduce, x: Any, shape: tuple[int, ...]) -> Any:
    """`sum_to`, by a function that reduces neighbouring axes."""
    if x.size == math.prod(shape):
        return x.reshape(shape)
    extra = x.ndim - len(shape)
    if x.shape[extra:] == shape:
        return reduce("sum", x, 0, extra)
    axes = tuple(i for i in range(x.ndim) if i < extra or (shape[i - extra] == 1 and x.shape[i] != 1))
    return reduced(reduce, "sum", x, axes, False).reshape(shape)


def is_basic(index: Any) -> bool:
    """Whether an index is of ints, slices, None and Ellipsis."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, int | np.integer | slice) for part in parts)


getitem = operator.getitem


def add_at(buffer: Array, g: Array, index: Any) -> None:
    """buffer[index] += g, where an element named twice is added to twice, in the order of the index."""
    if is_basic(index):
        buffer[index] += g
    else:
        np.add.at(buffer, index, g)


def scatter(g: Array, shape: tuple[int, ...], index: Any) -> Array:
    buffer: Array = kernels.zeros(shape, g.dtype)
    add_at(buffer, g, index)
    return buffer


def take(table: Array, indices: Array) -> Array:
    return kernels.take_rows(table, indices)


def add_rows(buffer: Array, g: Array, indices: Array) -> None:
    kernels.add_rows(buffer, indices, g)


def scatter_rows(g: Array, indices: Array, shape: tuple[int, ...]) -> Array:
    buffer: Array = kernels.zeros(shape, g.dtype)
    kernels.add_rows(buffer, indices, g)
    return buffer


def place_rows(rows: Array, indices: Array, shape: tuple[int, ...]) -> Array:
    """Zeros but for these rows, each of which is named once."""
    buffer: Array = kernels.zeros(shape, rows.dtype)
    buffer[indices] = rows
    return buffer


# -- the time loop -----------------------------------------------------------------------------------------------------

empty = kernels.empty
zeros = kernels.zeros
matrix = kernels.matrix
vector = kernels.repeated


def run_loop(
    program: Any, arrays: list[Any], others: list[Any], weights: list[Array], layout: Any, serial: int = -1
) -> None:
    """Run a plan's program over the rows of a layout; the rest is what `kernels.Loop.run` takes."""
    shards = count_shards(layout.batch, layout.rows, program.flops)
    cuts = layout.cuts.get(shards)
    if cuts is None:
        cuts = layout.cuts[shards] = cut_rows(layout.ends, shards)
    program.loop.run(arrays, others, weights, layout.count, layout.offset, layout.backwards, cuts, serial)
