/* The loops over arrays: maps of the ops in pointwise.h, reductions, row gather and scatter.
 *
 * Everything lives in a namespace named after the instruction set, so that no function compiled
 * for a newer machine can be chosen by the linker for an older one. */
#ifndef TR_LOOPS_H
#define TR_LOOPS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "packs.h"

namespace tr {
namespace TR_ISA {

/* ---- maps ----------------------------------------------------------------------------------- */

/* P::count neighbours from where operand k is, at(k); bit k of `spread`: it is one element, which meets all of them. */
template <class Op, int arity, int spread, class P, class At> TR_FN P map_pack(const At &at) {
    const auto take = [&](int k) { return spread >> k & 1 ? P(*at(k)) : P::load(at(k)); };
    if constexpr (arity == 1)
        return Op::f(take(0));
    else if constexpr (arity == 2)
        return Op::f(take(0), take(1));
    else if constexpr (arity == 3)
        return Op::f(take(0), take(1), take(2));
    else
        return Op::f(take(0), take(1), take(2), take(3));
}

/* n neighbours. `out` may be one of the operands. */
template <class Op, int arity, int spread, class T> TR_FN void map_row(T *out, const T *const *in, ptrdiff_t n) {
    typedef Pack<T, 1> Small;
    typedef Pack<T, 2> Large;
    const T *p[arity];
    T ones[arity]; /* What is spread is read before anything is written. */
    for (int k = 0; k < arity; k++) p[k] = in[k], ones[k] = spread >> k & 1 ? *p[k] : T();
    ptrdiff_t i = 0;
    const auto at = [&](int k) { return spread >> k & 1 ? ones + k : p[k] + i; };
    for (; i + Large::count <= n; i += Large::count) map_pack<Op, arity, spread, Large>(at).store(out + i);
    if (i + Small::count <= n) {
        map_pack<Op, arity, spread, Small>(at).store(out + i);
        i += Small::count;
    }
    if (i == n) return;
    T aside[arity + 1][Small::count] = {}; /* the last ones, among zeros */
    for (int k = 0; k < arity; k++) memcpy(aside[k], at(k), (spread >> k & 1 ? 1 : n - i) * sizeof(T));
    map_pack<Op, arity, spread, Small>([&](int k) { return aside[k]; }).store(aside[arity]);
    memcpy(out + i, aside[arity], (n - i) * sizeof(T));
}

template <class Op, int arity, class T> void map(T *out, const T *a, const T *b, const T *c, ptrdiff_t n) {
    const T *const in[] = {a, b, c};
    map_row<Op, arity, 0>(out, in, n);
}

/* Rows of `width` elements, ld apart; bit k of `spread`: operand k has one element a row, which meets every column. */
template <class Op, int arity, class T, int spread = (1 << arity) - 2>
void map_rows(T *out, ptrdiff_t ld, const T *const *in, const ptrdiff_t *lds, int spreads, ptrdiff_t rows,
              ptrdiff_t width) {
    if (spreads != spread) {
        if constexpr (spread > 0) map_rows<Op, arity, T, spread - 1>(out, ld, in, lds, spreads, rows, width);
        return;
    }
    const T *at[arity];
    for (int k = 0; k < arity; k++) at[k] = in[k];
    for (ptrdiff_t r = 0; r < rows; r++, out += ld) {
        map_row<Op, arity, spread>(out, at, width);
        for (int k = 0; k < arity; k++) at[k] += lds[k];
    }
}

/* ---- reductions ------------------------------------------------------------------------------ */

/* A row is reduced in 64 bytes of lanes on every instruction set (16 float32, 8 float64): element i
 * always joins lane i mod lanes, so the order of additions is the same everywhere. */
template <class T> using Lanes = Pack<T, 64 / vector_bytes>;

/* A reduction: what becomes of an element, how two partial results join, and what to start from. */
struct Add {
    template <class V> TR_FN V term(V a) { return a; }
    template <class T> TR_FN T start() { return (T)0; }
    template <class V> TR_FN V join(V a, V b) { return a + b; }
};
struct AddSquares : Add {
    template <class V> TR_FN V term(V a) { return a * a; }
};
struct Max {
    template <class V> TR_FN V term(V a) { return a; }
    template <class T> TR_FN T start() { return (T)-__builtin_huge_val(); }
    template <class V> TR_FN V join(V a, V b) { return ((b > a) | (b != b)) ? b : a; } /* NaN stays */
};

/* The lanes pairwise, k with k + half; here of so many neighbours in registers. */
template <class R, class T, int n> TR_FN T join_lanes(const T *lane) {
    if constexpr (n * sizeof(T) > 16) {
        constexpr int bytes = n * sizeof(T) / 2 < vector_bytes ? n * sizeof(T) / 2 : vector_bytes;
        typedef T Vector __attribute__((vector_size(bytes)));
        constexpr int width = bytes / sizeof(T);
        T half[n / 2];
        for (int k = 0; k < n / 2; k += width) {
            Vector a, b;
            __builtin_memcpy(&a, lane + k, bytes);
            __builtin_memcpy(&b, lane + k + n / 2, bytes);
            a = R::join(a, b);
            __builtin_memcpy(half + k, &a, bytes);
        }
        return join_lanes<R, T, n / 2>(half);
    } else if constexpr (n > 2) {
        return R::join(R::join(lane[0], lane[2]), R::join(lane[1], lane[3]));
    } else {
        return R::join(lane[0], lane[1]);
    }
}

/* n elements through the lanes, then the lanes pairwise. */
template <class R, class T> TR_FN T reduce_block(const T *in, ptrdiff_t n) {
    typedef Lanes<T> L;
    L acc(R::template start<T>());
    ptrdiff_t i = 0;
    for (; i + L::count <= n; i += L::count) {
        L x = L::load(in + i);
#pragma GCC unroll 4
        for (int k = 0; k < L::n; k++) acc.v[k] = R::join(acc.v[k], R::term(x.v[k]));
    }
    T lane[L::count];
    acc.store(lane);
    for (ptrdiff_t k = 0; i + k < n; k++) lane[k] = R::join(lane[k], R::term(in[i + k]));
    return join_lanes<R, T, L::count>(lane);
}

/* Partial sums of at most this many terms a lane or column are kept in T, their total in double:
 * the error of a float32 sum does not grow with its length. */
constexpr ptrdiff_t block_terms = 16;

template <class R, class T> TR_FN T reduce_row(const T *in, ptrdiff_t n) {
    constexpr ptrdiff_t block = block_terms * Lanes<T>::count;
    double total = R::template start<double>();
    for (ptrdiff_t i = 0; i < n; i += block) {
        double part = reduce_block<R>(in + i, n - i < block ? n - i : block);
        total = R::join(total, part);
    }
    return (T)total;
}

/* out[j] = reduction over k of in[k * stride + j], for so many columns j that their sums stay in L1. */
template <class R, class T>
TR_FN void reduce_columns(T *out, const T *in, ptrdiff_t n, ptrdiff_t stride, ptrdiff_t width) {
    constexpr ptrdiff_t columns = 1024;
    T part[columns];
    double total[columns];
    for (ptrdiff_t j0 = 0; j0 < width; j0 += columns) {
        const ptrdiff_t m = width - j0 < columns ? width - j0 : columns;
        for (ptrdiff_t j = 0; j < m; j++) total[j] = R::template start<double>();
        for (ptrdiff_t k0 = 0; k0 < n; k0 += block_terms) {
            const ptrdiff_t k1 = k0 + block_terms < n ? k0 + block_terms : n;
            memcpy(part, in + k0 * stride + j0, m * sizeof(T));
            ptrdiff_t k = k0 + 1;
            for (; k + 5 <= k1; k += 5) {  // several rows at a time, so that the sums are loaded and stored less often
                const T *a = in + k * stride + j0, *b = a + stride, *c = b + stride, *d = c + stride, *e = d + stride;
#pragma omp simd
                for (ptrdiff_t j = 0; j < m; j++)
                    part[j] = R::join(R::join(R::join(R::join(R::join(part[j], a[j]), b[j]), c[j]), d[j]), e[j]);
            }
            for (; k < k1; k++) {
                const T *row = in + k * stride + j0;
#pragma omp simd
                for (ptrdiff_t j = 0; j < m; j++) part[j] = R::join(part[j], row[j]);
            }
#pragma omp simd
            for (ptrdiff_t j = 0; j < m; j++) total[j] = R::join(total[j], (double)part[j]);
        }
#pragma omp simd
        for (ptrdiff_t j = 0; j < m; j++) out[j0 + j] = (T)total[j];
    }
}

template <class R, class T>
void reduce(T *out, const T *in, ptrdiff_t outer, ptrdiff_t n, ptrdiff_t inner, ptrdiff_t stride) {
    for (ptrdiff_t o = 0; o < outer; o++) {
        if (inner == 1)
            out[o] = reduce_row<R>(in + o * n, n);
        else
            reduce_columns<R>(out + o * inner, in + o * n * stride, n, stride, inner);
    }
}

/* The squares of rows, inner = 1: the bits of `reduce` of squares. */
template <class T> void sum_squares(T *out, const T *in, ptrdiff_t outer, ptrdiff_t n, ptrdiff_t, ptrdiff_t) {
    for (ptrdiff_t o = 0; o < outer; o++) out[o] = reduce_row<AddSquares>(in + o * n, n);
}

/* Squares are added in double: eight lanes, then pairwise, on every instruction set. */
template <class T> double sumsq(const T *in, ptrdiff_t n) {
    constexpr int lanes = 8;
    double lane[lanes] = {0, 0, 0, 0, 0, 0, 0, 0};
    ptrdiff_t i = 0;
    for (; i + lanes <= n; i += lanes) {
#pragma omp simd
        for (int k = 0; k < lanes; k++) lane[k] += (double)in[i + k] * (double)in[i + k];
    }
    for (ptrdiff_t k = 0; i + k < n; k++) lane[k] += (double)in[i + k] * (double)in[i + k];
    for (int half = lanes / 2; half; half /= 2)
        for (int k = 0; k < half; k++) lane[k] += lane[k + half];
    return lane[0];
}

/* ---- rows by index -------------------------------------------------------------------------- */

template <class T>
void take_rows(T *out, const T *table, const int64_t *idx, ptrdiff_t n, ptrdiff_t width) {
    for (ptrdiff_t i = 0; i < n; i++) memcpy(out + i * width, table + idx[i] * width, width * sizeof(T));
}

/* In the order of idx, so repeated rows add up the same way every time. */
template <class T>
void add_rows(T *table, const int64_t *idx, const T *src, ptrdiff_t n, ptrdiff_t width) {
    for (ptrdiff_t i = 0; i < n; i++) {
        T *to = table + idx[i] * width;
        const T *from = src + i * width;
#pragma omp simd
        for (ptrdiff_t j = 0; j < width; j++) to[j] += from[j];
    }
}

}  // namespace TR_ISA
}  // namespace tr
#endif /* TR_LOOPS_H */
