"""Arrays on an NVIDIA GPU, through CuPy: what `tinyrnn.backend.cpu` and the compiled kernels do with NumPy's arrays.

CuPy is imported when a device is first asked for. `library` finds it, `text` compiles device text, `arrays` holds the
forwards of the ops that are not elementwise, `elementwise`, `reduce`, `scatter` and `updates` the kernels. Sums and
scatters add in an order that depends on the shapes and indices alone, so the same input gives the same bits.

This module is what the tape knows of the device (`tinyrnn._core.tape.bind_device`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from math import copysign
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyrnn.backend import cpu
from tinyrnn.backend.cuda.library import cupy, is_array

if TYPE_CHECKING:
    from tinyrnn._core.tape import Op

__all__ = [
    "asarray", "counterpart", "cupy", "fetch", "fresh", "is_array", "name", "number", "ones", "pointwise", "zeros",
]  # fmt: skip

name = "cuda"


def asarray(array: Any) -> Any:
    """A NumPy array on the device, in C order; an array of the device as it is."""
    return array if is_array(array) else cupy().asarray(np.asarray(array, order="C"))


def fetch(array: Any) -> np.ndarray[Any, Any]:
    """A copy as a NumPy array."""
    return array.get()


def fresh(array: Any, dtype: np.dtype[Any] | None) -> Any:
    """A contiguous copy of a device's array in `dtype`; None: its own if that is float32 or float64, else float32."""
    if dtype is None:
        dtype = array.dtype if array.dtype.char in "fd" else np.dtype(np.float32)
    copied = array.astype(dtype, copy=False)
    return copied.copy() if copied is array or not copied.flags.c_contiguous else copied


def zeros(shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
    """A new array of zeros."""
    return cupy().zeros(shape, dtype)


def ones(shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
    """A new array of ones."""
    return cupy().ones(shape, dtype)


def number(value: float, dtype: np.dtype[Any]) -> Any:
    """`value` as an array without axes, which nobody may write to: a step's constants are made once."""
    return _number(float(value), copysign(1.0, value), dtype)


@lru_cache(maxsize=512)
def _number(value: float, sign: float, dtype: np.dtype[Any]) -> Any:  # sign: 0.0 == -0.0, which are two numbers
    return cupy().full((), value, dtype)


def pointwise(op: Op, arrays: list[Any], into: Any) -> Any:
    """An elementwise op over arrays of one dtype that broadcast; into a new array if `into` is None."""
    from tinyrnn.backend.cuda import elementwise

    return elementwise.pointwise(op.name, arrays, into)


def counterpart(function: Callable[..., Any]) -> Callable[..., Any]:
    """What does on the device what a function of `tinyrnn.backend.cpu` does; any other function as it is."""
    return _counterparts().get(function, function)


@cache
def _counterparts() -> dict[Any, Callable[..., Any]]:
    from tinyrnn.backend.cuda import arrays

    return {getattr(cpu, name): getattr(arrays, name) for name in arrays.__all__}
