"""Adding by index, where an element may be named twice: no atomics, each sum in the order of the index."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyrnn.backend.cuda.library import cupy
from tinyrnn.backend.cuda.text import REALS, blocks, kernel

THREADS = 256

# Segment s holds the places from[starts[s]] .. of the rows that are added to row to[s] of the table. One thread adds
# one column of a segment, so nobody else writes there.
KERNEL = """
extern "C" __global__ void add_rows_{real}({real} *table, const {real} *rows, const long long *to,
                                           const long long *starts, const long long *from, long long segments,
                                           long long width) {{
    const long long step = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < segments * width; i += step) {{
        const long long s = i / width, j = i - s * width;
        {real} sum = table[to[s] * width + j];
        for (long long k = starts[s]; k < starts[s + 1]; k++) sum += rows[from[k] * width + j];
        table[to[s] * width + j] = sum;
    }}
}}
"""


@cache
def source() -> tuple[str, tuple[str, ...]]:
    """The text of the kernels, and its headers."""
    return "".join(KERNEL.format(real=real) for real in REALS.values()), ("pointwise.h",)


def add_rows(table: Any, rows: Any, index: NDArray[np.int64]) -> None:
    """table[index[k]] += rows[k], in the order of k. table (N, width), rows (K, width), both contiguous; index (K,)."""
    width = table.shape[1]
    if index.size == 0 or width == 0:
        return
    order = np.argsort(index, kind="stable")
    named = index[order]
    starts = np.flatnonzero(np.concatenate([[True], named[1:] != named[:-1]]))
    to, segments = named[starts], len(starts)
    # One copy to the device: the kernel finds the three lists in it.
    lists = cupy().asarray(np.concatenate([to, starts, [len(index)], order]).astype(np.int64))
    parts = (lists[:segments], lists[segments : 2 * segments + 1], lists[2 * segments + 1 :])
    kernel(source, f"add_rows_{REALS[table.dtype.char]}")(
        (blocks(segments * width, THREADS),), (THREADS,),
        (table, rows, *parts, np.int64(segments), np.int64(width)),
    )  # fmt: skip
