"""Where arrays live and who computes with them: the only place that knows one device from another.

`cpu` holds the forwards of the ops that are not elementwise, over NumPy arrays and the compiled kernels. Elementwise
ops call their kernels straight from the tape. `cuda` has the same for the arrays of a GPU, to which the tape turns
where an array is not NumPy's.
"""

from types import ModuleType
from typing import Any

import numpy as np

from tinyrnn._core import kernels
from tinyrnn.backend import cpu, cuda
from tinyrnn.backend.cpu import (
    add_at,
    add_product,
    add_rows,
    astype,
    broadcast_to,
    concat,
    getitem,
    identity,
    matmul,
    max_over,
    place_rows,
    reshape,
    scatter,
    scatter_rows,
    sum_over,
    sum_to,
    take,
    transpose,
)

__all__ = [
    "add_at", "add_product", "add_rows", "astype", "broadcast_to", "check_device", "clip", "concat", "cuda",
    "from_dlpack", "getitem", "identity", "matmul", "max_over", "move", "move_towards", "of", "place_rows", "reshape",
    "scale", "scatter", "scatter_rows", "sum_over", "sum_to", "sumsq", "take", "to_host", "transpose", "updates",
]  # fmt: skip


def check_device(device: str | None) -> str:
    """The device's name, "cpu" for None.

    Raises ValueError for what is none, and for "cuda" ImportError without CuPy, RuntimeError without a driver or a GPU;
    both say what is missing.
    """
    if device is None:
        return "cpu"
    if not isinstance(device, str) or device not in ("cpu", cuda.name):
        one = isinstance(device, str) and device.startswith("cuda:")
        hint = "; tinyrnn uses one GPU, CuPy's current one, which is 'cuda'" if one else ""
        raise ValueError(f"device must be 'cpu' or 'cuda', got {device!r}{hint}")
    if device == cuda.name:
        cuda.cupy()
    return device


def of(array: Any) -> ModuleType:
    """The module with what a time loop needs to compute with an array: `cpu`, or that of its device."""
    if type(array) is np.ndarray or not cuda.is_array(array):
        return cpu
    from tinyrnn.backend.cuda import loop

    return loop


def to_host(array: Any) -> np.ndarray[Any, Any]:
    """A NumPy array as it is, one of a device as a copy."""
    return cuda.fetch(array) if cuda.is_array(array) else array


def move(array: Any, device: str) -> Any:
    """The array on a device, itself if it is there."""
    if device == "cpu":
        return to_host(array)
    return cuda.asarray(array)


def from_dlpack(source: Any) -> Any:
    """The NumPy or CuPy array over the memory of another library's array."""
    kind, number = (int(n) for n in source.__dlpack_device__())
    if kind in (2, 13):  # CUDA, and memory that CUDA manages
        if number != 0:
            raise ValueError(f"x must be on the CPU or on the first GPU, got one on GPU {number}")
        return cuda.cupy().from_dlpack(source)
    if kind in (1, 3):  # the CPU's, and its pinned memory
        return np.from_dlpack(source)
    raise ValueError(f"x must be on the CPU or on a GPU of CUDA, got DLPack's device {kind}")


# -- in place: what optimisers and clipping do -------------------------------------------------------------------------


def updates(device: str) -> ModuleType:
    """The module with `sgd`, `rmsprop` and `adam` for arrays on a device."""
    if device == "cpu":
        return kernels
    from tinyrnn.backend.cuda import updates

    return updates


def move_towards(means: list[Any], values: list[Any], rate: float) -> None:
    """mean += rate·(value - mean) for each pair of one dtype, in place; all on one device.

    That is what SGD does at the learning rate -rate with a decay of -1 where the gradient is `value`.
    """
    device = "cpu" if isinstance(means[0], np.ndarray) else cuda.name
    for dtype in {mean.dtype for mean in means}:
        pairs = [(mean, value) for mean, value in zip(means, values, strict=True) if mean.dtype == dtype]
        updates(device).sgd([m for m, _ in pairs], [v for _, v in pairs], None, -rate, 0.0, -1.0, False)


def sumsq(arrays: list[Any]) -> float:
    """The sum of all squares in arrays, each on any device, in float64."""
    away = [a for a in arrays if type(a) is not np.ndarray and cuda.is_array(a)]
    if not away:
        return float(sum(map(kernels.sumsq, arrays)))
    from tinyrnn.backend.cuda import reduce

    return reduce.sumsq(away) + float(sum(kernels.sumsq(a) for a in arrays if not cuda.is_array(a)))


def scale(array: Any, factor: float) -> Any:
    """array times a number: written into it where it is contiguous and may be written, else a new array."""
    if isinstance(array, np.ndarray):
        return np.multiply(array, factor, out=array if array.flags.carray else np.empty(array.shape, array.dtype))
    return updates("cuda").scale(array, factor, array if array.flags.c_contiguous else None)


def clip(array: Any, limit: float) -> Any:
    """array limited to ±limit, NaN as it is: written into it where it is contiguous and may be written."""
    if isinstance(array, np.ndarray):
        into = array if array.flags.carray else np.empty(array.shape, array.dtype)
        return np.clip(array, -limit, limit, out=into)
    return updates("cuda").clip(array, limit, array if array.flags.c_contiguous else None)
