"""Initial values: functions (rng, shape, dtype) -> array, as `Cell.param(shape, init=...)` takes them.

Options are keywords; bind them with functools.partial: `partial(tr.init.uniform, low=-0.1, high=0.1)`.
rng: numpy.random.Generator. shape: tuple of int. dtype: float32 or float64. Values are drawn in float64 and
rounded, so that a seed gives the same numbers in both dtypes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def zeros(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """All zeros."""
    return np.zeros(shape, dtype)


def constant(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, value: float = 1.0) -> Array:
    """All `value`."""
    return np.full(shape, value, dtype)


def uniform(
    rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, low: float = -0.1, high: float = 0.1
) -> Array:
    """Uniform in [low, high)."""
    if not low <= high:
        raise ValueError(f"low must be <= high, got low={low}, high={high}")
    return rng.uniform(low, high, shape).astype(dtype)


def normal(
    rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, mean: float = 0.0, std: float = 1.0
) -> Array:
    """Normal with the given mean and standard deviation."""
    if not std >= 0:
        raise ValueError(f"std must be >= 0, got {std}")
    return rng.normal(mean, std, shape).astype(dtype)


def glorot(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, gain: float = 1.0) -> Array:
    """Uniform in ±gain·sqrt(6 / (rows + columns)), for a matrix (Glorot & Bengio 2010, eq. 16)."""
    rows, columns = _matrix("glorot", shape)
    bound = gain * (6 / (rows + columns)) ** 0.5
    return rng.uniform(-bound, bound, shape).astype(dtype)


def orthogonal(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, gain: float = 1.0) -> Array:
    """`gain` times a matrix with orthonormal rows or columns, whichever are fewer (Saxe et al. 2014).

    Uniform over all such matrices: the signs of the QR decomposition's diagonal are divided out.
    """
    rows, columns = _matrix("orthogonal", shape)
    q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray(gain * (q if rows >= columns else q.T), dtype=dtype)


def identity(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, gain: float = 1.0) -> Array:
    """`gain` times the identity, cut or padded with zeros to the shape of the matrix (Le, Jaitly & Hinton 2015)."""
    rows, columns = _matrix("identity", shape)
    return (gain * np.eye(rows, columns)).astype(dtype)


def _matrix(name: str, shape: Shape) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"{name} needs the shape of a matrix, got {shape}")
    return shape[0], shape[1]
