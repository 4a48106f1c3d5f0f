"""How many threads the time loop uses, and how a batch is shared among them."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

_threads: list[int | None] = [None]


def set_num_threads(n: int | None) -> None:
    """Use up to n threads from now on, in the whole process; None: as many as this process may run on."""
    if n is not None and (isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1):
        raise ValueError(f"n must be a positive int or None, got {n!r}")
    _threads[0] = None if n is None else int(n)


def get_num_threads() -> int:
    """The number of threads in use: the one set, else as many processors as this process may run on."""
    if _threads[0] is not None:
        return _threads[0]
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cut_rows(ends: NDArray[np.int64]) -> list[int]:
    """Rows at which a batch is cut into shards of about equal work, from 0 to its end. ends: steps of each row."""
    batch, shards = len(ends), min(get_num_threads(), len(ends))
    if shards <= 1:
        return [0, batch]
    work = np.cumsum(ends)
    goals = work[-1] * np.arange(1, shards) / shards
    cuts = [0, *(np.searchsorted(work, goals) + 1).tolist(), batch]
    return sorted(set(min(c, batch) for c in cuts))
