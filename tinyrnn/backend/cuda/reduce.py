"""Sums and maxima along neighbouring axes, in an order that depends on the shape alone."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np

from tinyrnn.backend.cuda.library import cupy
from tinyrnn.backend.cuda.text import REALS, kernel

THREADS = 256
TERMS = 64  # of a thread, in a part of a long reduction
ROUND = 16  # of them are added in the array's dtype, their totals in double, as on the CPU

# out[o, j] = reduction over k of in[o, k, j], of shape (outer, n, inner). A block has `rows` times `ways` times
# `columns` threads: each takes every ways-th k of the part, and the `ways` of a column join in shared memory by halves.
# Of the blocks along k each reduces `part` terms, a multiple of `ways`, to one that a second run joins.
TEXT = """
struct Add {
    TR_FN double start() { return 0; }
    template <class T> TR_FN T load(T a) { return a; }
    template <class T> TR_FN T join(T a, T b) { return a + b; }
};
struct Max {
    TR_FN double start() { return -tr::TR_ISA::infinite<double>(); }
    template <class T> TR_FN T load(T a) { return a; }
    template <class T> TR_FN T join(T a, T b) { return ((b > a) | (b != b)) ? b : a; } /* NaN stays */
};
struct Squares {
    TR_FN double start() { return 0; }
    TR_FN double load(double a) { return a * a; }
    TR_FN double join(double a, double b) { return a + b; }
};

template <class R, class Term, class Out, class In>
TR_FN void reduce(Out *out, const In *in, long long outer, long long n, long long inner, int rows, int ways,
                  int columns, long long part) {
    TR_TOTALS(total);
    const long long parts = (n + part - 1) / part, across = (inner + columns - 1) / columns;
    const int j0 = threadIdx.x % columns, way = threadIdx.x / columns % ways, row = threadIdx.x / columns / ways;
    const long long o = blockIdx.x / across * rows + row, j = blockIdx.x % across * columns + j0;
    const long long begin = blockIdx.y * part, end = begin + part < n ? begin + part : n;
    double sum = R::start();
    if (o < outer && j < inner) {
        const In *at = in + o * n * inner + j;
        for (long long k = begin + way; k < end; k += (long long)ROUND * ways) {
            Term round = R::load((Term)at[k * inner]);
            for (int t = 1; t < ROUND && k + (long long)t * ways < end; t++)
                round = R::join(round, R::load((Term)at[(k + (long long)t * ways) * inner]));
            sum = R::join(sum, (double)round);
        }
    }
    total[threadIdx.x] = sum;
    for (int half = ways / 2; half; half /= 2) {
        __syncthreads();
        if (way < half) total[threadIdx.x] = R::join(total[threadIdx.x], total[threadIdx.x + half * columns]);
    }
    if (way == 0 && o < outer && j < inner) out[(o * parts + blockIdx.y) * inner + j] = (Out)total[threadIdx.x];
}
""".replace("ROUND", str(ROUND))
SHARED = """
#ifdef TR_HOST_SHIM
#define TR_TOTALS(name) double *name = (double *)tr_shim_dynamic_shared()
#else
#define TR_TOTALS(name) extern __shared__ double name[]
#endif
"""
KERNEL = """
extern "C" __global__ void {name}({out} *out, const {given} *in, long long outer, long long n, long long inner,
                                  int rows, int ways, int columns, long long part) {{
    reduce<{kind}, {term}>(out, in, outer, n, inner, rows, ways, columns, part);
}}
"""


@cache
def source() -> tuple[str, tuple[str, ...]]:
    """The text of the reductions, and its headers: from float and double, to the same or, in parts, to double."""
    parts = [SHARED, TEXT]
    for kind in ("Add", "Max", "Squares"):
        for given in REALS.values():
            for out in REALS.values():
                term = "double" if kind == "Squares" else given
                name = f"{kind.lower()}_{given}_{out}"
                parts.append(KERNEL.format(name=name, kind=kind, given=given, out=out, term=term))
    return "".join(parts), ("pointwise.h",)


def _power(n: int, most: int) -> int:
    """The smallest power of two that is at least n, up to `most`."""
    return min(most, 1 << max(0, n - 1).bit_length())


def tiling(outer: int, n: int, inner: int) -> tuple[int, int, int, int]:
    """Rows, ways and columns of a block, and the terms of a part. How many rows share a block alone depends on `outer`,
    so a row's bits do not depend on the rows beside it."""
    columns = _power(inner, 32)
    ways = _power(n, THREADS // columns)
    part = ways * max(TERMS, -(-n // (ways * 65535)))  # 65535: blocks along a grid's second axis
    return _power(outer, THREADS // columns // ways), ways, columns, part


def _run(kind: str, out: Any, x: Any, outer: int, n: int, inner: int) -> None:
    rows, ways, columns, part = tiling(outer, n, inner)
    parts = -(-n // part)
    partial = out if parts == 1 else cupy().empty((outer, parts, inner), np.float64)
    name = f"{kind}_{REALS[x.dtype.char]}_{REALS[partial.dtype.char]}"
    threads = rows * ways * columns
    grid = (-(-outer // rows) * -(-inner // columns), parts)
    sizes = (np.int64(outer), np.int64(n), np.int64(inner))
    shares = (np.int32(rows), np.int32(ways), np.int32(columns), np.int64(part))
    kernel(source, name)(grid, (threads,), (partial, x, *sizes, *shares), shared_mem=8 * threads)
    if parts > 1:
        _run("add" if kind == "squares" else kind, out, partial, outer, parts, inner)


def reduce(kind: str, x: Any, first: int, last: int) -> Any:
    """The "sum" or "max" of x over the axes first .. last-1, which go. A maximum needs one element or more."""
    shape = x.shape[:first] + x.shape[last:]
    outer, n, inner = prod(x.shape[:first]), prod(x.shape[first:last]), prod(x.shape[last:])
    if n == 0 or outer * inner == 0:
        return cupy().zeros(shape, x.dtype)
    out = cupy().empty(shape, x.dtype)
    _run({"sum": "add", "max": "max"}[kind], out, _packed(x), outer, n, inner)
    return out


def sumsq(arrays: list[Any]) -> float:
    """The sum of all squares, in float64, with one wait for the device."""
    totals = cupy().zeros((len(arrays),), np.float64)
    for k, x in enumerate(arrays):
        if x.size:
            _run("squares", totals[k : k + 1], _packed(x), 1, x.size, 1)
    return float(sum(totals.get().tolist()))


def _packed(x: Any) -> Any:
    return x if x.flags.c_contiguous else x.copy()
