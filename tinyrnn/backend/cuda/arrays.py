"""Forwards of the ops that are not elementwise, on CuPy arrays; the names and arguments are those of `backend.cpu`.

Indices come as NumPy arrays: they are checked and sorted on the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyrnn.backend import cpu
from tinyrnn.backend.cuda import scatter as _scatter
from tinyrnn.backend.cuda.elementwise import pointwise
from tinyrnn.backend.cuda.library import cupy
from tinyrnn.backend.cuda.precision import get_precision
from tinyrnn.backend.cuda.reduce import reduce

Axes = tuple[int, ...]
Shape = tuple[int, ...]

__all__ = [
    "add_at", "add_product", "add_rows", "astype", "broadcast_to", "concat", "getitem", "matmul", "max_over",
    "place_rows", "reshape", "scatter", "scatter_rows", "sum_over", "sum_to", "take", "transpose",
]  # fmt: skip


def astype(x: Any, dtype: np.dtype[Any]) -> Any:
    return x.astype(dtype)


def reshape(x: Any, shape: Shape) -> Any:
    return x.reshape(shape)


def transpose(x: Any, axes: Axes) -> Any:
    return x.transpose(axes)


def broadcast_to(x: Any, shape: Shape) -> Any:
    return cupy().broadcast_to(x, shape)


def concat(arrays: Sequence[Any], axis: int) -> Any:
    return cupy().concatenate(list(arrays), axis)


def matmul(a: Any, b: Any) -> Any:
    if 0 in a.shape or 0 in b.shape:
        return cupy().zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), a.dtype)
    if b.ndim == 2 < a.ndim:  # one product instead of many
        rows = math.prod(a.shape[:-1])
        return _product(a.reshape((rows, a.shape[-1])), b).reshape((*a.shape[:-1], b.shape[1]))
    return _product(a, b)


def _product(a: Any, b: Any) -> Any:
    """CuPy's, in TF32 where float32 products of the time loop round their operands too (see `precision`)."""
    if a.dtype.char != "f" or get_precision() == "float32":
        return cupy().matmul(a, b)
    how = cupy()._core._routines_linalg  # this has no public name, but for a variable of the whole process, CUPY_TF32
    before = how.get_compute_type(np.float32)
    how.set_compute_type(np.float32, how.COMPUTE_TYPE_TF32)
    try:
        return cupy().matmul(a, b)
    finally:
        how.set_compute_type(np.float32, before)


def add_product(buffer: Any, g: Any, a: Any) -> None:
    """buffer += a.T @ g: a weight's gradient, from the gradient of a @ weight."""
    if a.shape[0]:
        pointwise("add", [buffer, _product(a.T, g)], buffer)


def sum_over(x: Any, axes: Axes, keepdims: bool) -> Any:
    return cpu.reduced(reduce, "sum", x, axes, keepdims)


def max_over(x: Any, axes: Axes, keepdims: bool) -> Any:
    return cpu.reduced(reduce, "max", x, axes, keepdims)


def sum_to(x: Any, shape: Shape) -> Any:
    return cpu.summed_to(reduce, x, shape)


# -- by index ----------------------------------------------------------------------------------------------------------


def getitem(x: Any, index: Any) -> Any:
    if cpu.is_basic(index):
        return x[_plain(index)]
    if (rows := _rows(x.shape, index)) is not None:
        return take(x, rows)
    flat = _positions(x.shape, index)
    return x.reshape((-1,))[cupy().asarray(flat.reshape(-1))].reshape(flat.shape)


def add_at(buffer: Any, g: Any, index: Any) -> None:
    """buffer[index] += g, where an element named twice is added to twice, in the order of the index."""
    if cpu.is_basic(index):
        place = buffer[_plain(index)]
        whole = place.flags.c_contiguous and place.shape == g.shape
        total = pointwise("add", [place, g], place if whole else None)
        if not whole:
            buffer[_plain(index)] = total
    elif (rows := _rows(buffer.shape, index)) is not None:
        add_rows(buffer, g, rows)
    else:
        flat = _positions(buffer.shape, index)
        spread = _packed(cupy().broadcast_to(g, flat.shape))
        _scatter.add_rows(buffer.reshape((-1, 1)), spread.reshape((-1, 1)), flat.reshape(-1))


def scatter(g: Any, shape: Shape, index: Any) -> Any:
    buffer = cupy().zeros(shape, g.dtype)
    add_at(buffer, g, index)
    return buffer


def take(table: Any, indices: NDArray[np.int64]) -> Any:
    shape = (*indices.shape, *table.shape[1:])
    if 0 in shape:
        return cupy().zeros(shape, table.dtype)
    return table[cupy().asarray(indices.reshape(-1))].reshape(shape)


def add_rows(buffer: Any, g: Any, indices: NDArray[np.int64]) -> None:
    width = math.prod(buffer.shape[1:])
    if 0 not in buffer.shape and indices.size:
        rows = _packed(g).reshape((indices.size, width))
        _scatter.add_rows(buffer.reshape((buffer.shape[0], width)), rows, indices.reshape(-1))


def scatter_rows(g: Any, indices: NDArray[np.int64], shape: Shape) -> Any:
    buffer = cupy().zeros(shape, g.dtype)
    add_rows(buffer, g, indices)
    return buffer


def place_rows(rows: Any, indices: NDArray[np.int64], shape: Shape) -> Any:
    buffer = cupy().zeros(shape, rows.dtype)
    if rows.size:
        buffer[cupy().asarray(indices)] = rows
    return buffer


def _packed(x: Any) -> Any:
    return x if x.flags.c_contiguous else x.copy()


def _plain(index: Any) -> Any:
    """An index of ints, slices, None and Ellipsis in Python's own types."""
    if isinstance(index, tuple):
        return tuple(map(_plain, index))
    return int(index) if isinstance(index, np.integer) else index


def _rows(shape: Shape, index: Any) -> NDArray[np.int64] | None:
    """The rows, >= 0, that an index names by one array of integers; None if it is of another kind."""
    if isinstance(index, tuple) and len(index) == 1:
        index = index[0]
    if not isinstance(index, np.ndarray) or index.dtype.kind not in "iu" or not shape:
        return None
    return np.arange(shape[0])[index]  # counts from behind, and raises what NumPy raises


def _positions(shape: Shape, index: Any) -> NDArray[np.int64]:
    """Where the elements that an index names lie in an array of that shape laid flat."""
    total: NDArray[np.int64] = np.broadcast_to(np.int64(0), shape)[index]
    step = 1
    for axis in range(len(shape) - 1, -1, -1):
        along = np.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - axis - 1))
        total = total + np.broadcast_to(along, shape)[index] * step
        step *= shape[axis]
    return np.asarray(total, np.int64)
