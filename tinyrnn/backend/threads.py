"""How a batch is shared among threads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyrnn._core.kernels import get_num_threads

WORTH = 2e6
"""Floating-point operations that a thread must have to do before it is worth starting."""


def cut_rows(ends: NDArray[np.int64], rows: int, flops: float) -> list[int]:
    """Rows at which a batch is cut into shards of about equal work, from 0 to its end.

    ends: steps of each row, longest first; rows: of all steps together; flops: floating-point operations of one row.
    """
    batch = len(ends)
    shards = int(min(batch, rows * flops / WORTH))
    if shards > 1:
        shards = min(shards, get_num_threads())
    if shards <= 1:
        return [0, batch]
    work = np.cumsum(ends)
    goals = rows * np.arange(1, shards) / shards
    cuts = (np.searchsorted(work, goals) + 1).tolist()
    return sorted({0, batch, *(c for c in cuts if c < batch)})
