"""Where arrays live and who computes with them: the only place that knows one device from another.

`cpu` holds the forwards of the ops that are not elementwise, over NumPy arrays and the compiled kernels. Elementwise
ops call their kernels straight from the tape.
"""

from types import ModuleType
from typing import Any

from tinyrnn.backend import cpu
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
    reshape,
    scatter,
    scatter_rows,
    sum_over,
    sum_to,
    take,
    transpose,
)

__all__ = [
    "add_at", "add_product", "add_rows", "astype", "broadcast_to", "check_device", "concat", "getitem", "identity",
    "matmul",
    "max_over", "of", "reshape", "scatter", "scatter_rows", "sum_over", "sum_to", "take", "transpose",
]  # fmt: skip


def of(array: Any) -> ModuleType:
    """The module that computes with an array: `cpu`, or that of its device."""
    return cpu


def check_device(device: str | None) -> str:
    """The device's name; ValueError for one that this installation does not have."""
    if device in (None, "cpu"):
        return "cpu"
    raise ValueError(f"device must be 'cpu', the one device of this version of tinyrnn, got {device!r}")
