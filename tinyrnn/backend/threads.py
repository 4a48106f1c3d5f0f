"""How a batch is shared among threads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyrnn._core.kernels import get_num_threads

WORTH = 2e6
"""Floating-point operations that a thread must have to do before it is worth starting."""


def count_shards(batch: int, rows: int, flops: float) -> int:
    """Into how many shards a batch is cut. rows: of all steps together; flops: floating-point operations of one."""
    shards = min(batch, rows * flops / WORTH)
    return min(int(shards), get_num_threads()) if shards >= 2 else 1


def cut_rows(ends: NDArray[np.int64], shards: int) -> list[int]:
    """Rows at which a batch is cut into shards of about equal work, from 0 to its end.

    ends: steps of each row, longest first.
    """
    batch = len(ends)
    if shards <= 1:
        return [0, batch]
    work = np.cumsum(ends)
    goals = work[-1] * np.arange(1, shards) / shards
    cuts = (np.searchsorted(work, goals) + 1).tolist()
    return sorted({0, batch, *(c for c in cuts if c < batch)})
