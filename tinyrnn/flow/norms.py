"""Norms of many vectors and matrices at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def row_norms(a: Array) -> npt.NDArray[np.float64]:
    """The Euclidean norm along the last axis, (..,), in float64 where squares leave the range of a's dtype."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = np.einsum("...i,...i->...", a, a)
        found = np.sqrt(squares, dtype=np.float64)
        odd = ~((squares > np.finfo(a.dtype).tiny) & np.isfinite(squares))
        if odd.any():  # 0, or too small or large to be squared
            rows = a[odd].astype(np.float64)
            largest = np.abs(rows).max(-1, initial=0)
            scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
            found[odd] = np.sqrt(np.square(rows / scale[:, None]).sum(-1)) * scale
    return found


def spectral_norms(a: Array) -> npt.NDArray[np.float64]:
    """The largest singular value of each matrix, (.., n, m) -> (..,); NaN where an element is NaN, else inf for inf."""
    found = np.abs(a).max((-2, -1), initial=0).astype(np.float64)
    good = np.isfinite(found) & (found > 0)
    with np.errstate(under="ignore"):
        scaled = a[good].astype(np.float64) / found[good][:, None, None]
        if scaled.shape[-1] > scaled.shape[-2]:
            scaled = scaled.swapaxes(-1, -2)
        if scaled.shape[-1] == 1:
            largest = np.sqrt(np.square(scaled).sum((-2, -1)))
        else:  # of the smaller square, whose largest eigenvalue is well conditioned, and found faster
            largest = np.sqrt(np.linalg.eigvalsh(scaled.swapaxes(-1, -2) @ scaled)[:, -1])
        found[good] *= largest
    return found
