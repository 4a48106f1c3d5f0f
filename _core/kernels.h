/* The compiled kernels of one instruction set as a table of function pointers.
 * Both Cython modules include this; isa.cpp, compiled once an instruction set, fills it. */
#ifndef TR_KERNELS_H
#define TR_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pointwise.h" /* op codes; in C the list and the codes alone */
#include "pairs.h"     /* likewise */

#ifdef __cplusplus
extern "C" {
#endif

/* Arrays are contiguous, counts are in elements, nothing is checked or allocated here.
 *
 * map[code]  out[i] = op(a[i], b[i], c[i]); pointers beyond the arity are ignored; out may be one
 *            of the inputs, but must not overlap one otherwise.
 * map_rows   the same for `rows` rows of `width`: row r of operand k begins at in[k] + r * lds[k], of the result at
 *            out + r * ld. Bit k of `spread`: operand k has one element a row, which meets every column; never all.
 * pairs      the same for the ops of pairs.h, each with its own spread.
 * sum, amax  out (outer, inner) = reduction of in (outer, n, inner) over its middle axis, whose elements lie `stride`
 *            apart: inner if the array has no gaps, and where inner is 1. An
 *            output's order of additions depends on n, and whether inner is 1, alone. amax of NaN
 *            is NaN; n >= 1 for amax.
 * take_rows  out (n, width) = table[idx[i]];  add_rows  table[idx[i]] += src (n, width), in order.
 * sumsq      sum of squares, in double, in a fixed order.
 * sgd, rmsprop, adam  one step of an optimiser over n elements; updates.h says what the arguments are. */
#define TR_KERNELS_OF(Name, Side, T)                                                             \
    typedef struct Side { /* of products that have B in common: A, strides rs and cs, and C */   \
        T *c;                                                                                    \
        const T *a;                                                                              \
        ptrdiff_t M, rs, cs;                                                                     \
    } Side;                                                                                      \
    typedef struct Name {                                                                        \
        void (*map[TR_N_POINTWISE])(T *out, const T *a, const T *b, const T *c, ptrdiff_t n);    \
        void (*map_rows[TR_N_POINTWISE])(T *out, ptrdiff_t ld, const T *const *in, const ptrdiff_t *lds, \
                                         int spread, ptrdiff_t rows, ptrdiff_t width);           \
        void (*pairs[TR_N_PAIRS])(T *out, ptrdiff_t ld, const T *const *in, const ptrdiff_t *lds,  \
                                  ptrdiff_t rows, ptrdiff_t width);                              \
        void (*sum)(T *out, const T *in, ptrdiff_t outer, ptrdiff_t n, ptrdiff_t inner, ptrdiff_t stride);  \
        void (*amax)(T *out, const T *in, ptrdiff_t outer, ptrdiff_t n, ptrdiff_t inner, ptrdiff_t stride); \
        void (*sum_squares)(T *out, const T *in, ptrdiff_t outer, ptrdiff_t n, ptrdiff_t, ptrdiff_t);       \
        void (*take_rows)(T *out, const T *table, const int64_t *idx, ptrdiff_t n, ptrdiff_t width); \
        void (*add_rows)(T *table, const int64_t *idx, const T *src, ptrdiff_t n, ptrdiff_t width);  \
        double (*sumsq)(const T *in, ptrdiff_t n);                                               \
        void (*sgd)(T *p, const T *g, T *m, ptrdiff_t n, double lr, double momentum,             \
                    double weight_decay, int nesterov);                                          \
        void (*rmsprop)(T *p, const T *g, T *v, T *m, ptrdiff_t n, double lr, double alpha,      \
                        double eps, double momentum, double weight_decay);                       \
        void (*adam)(T *p, const T *g, T *m, T *v, ptrdiff_t n, double rate, double beta1,       \
                     double beta2, double scale, double eps, double decay, double shrink);       \
        /* products (gemm.h) and the time loop (scan.h); `loop` is a tr::Loop<T> */              \
        ptrdiff_t (*workspace_size)(ptrdiff_t M, ptrdiff_t N, ptrdiff_t K);                      \
        void (*gemm)(const Side *sides, ptrdiff_t n_sides, ptrdiff_t ldc, const T *b, ptrdiff_t b_rs, \
                     ptrdiff_t b_cs, ptrdiff_t N, ptrdiff_t K, bool add, T *workspace);          \
        ptrdiff_t (*packed_size)(ptrdiff_t K, ptrdiff_t N);                                      \
        void (*pack)(T *packed, const T *b, ptrdiff_t rs, ptrdiff_t cs, ptrdiff_t K, ptrdiff_t N); \
        ptrdiff_t (*scratch_size)(const void *loop, ptrdiff_t rows);                             \
        void (*run_loop)(const void *loop, ptrdiff_t first, ptrdiff_t last, T **at, T *scratch); \
    } Name;

TR_KERNELS_OF(tr_Kernels_f32, tr_Side_f32, float)
TR_KERNELS_OF(tr_Kernels_f64, tr_Side_f64, double)
#undef TR_KERNELS_OF

typedef struct tr_Kernels {
    const char *isa;
    tr_Kernels_f32 f32;
    tr_Kernels_f64 f64;
} tr_Kernels;

/* Which exist depends on the build (arm64: the baseline alone, which is NEON). Calling a kernel of an
 * instruction set that the machine lacks is the caller's mistake. */
const tr_Kernels *tr_kernels_baseline(void);
const tr_Kernels *tr_kernels_avx2(void);
const tr_Kernels *tr_kernels_avx512(void);

/* The ops by name, for Python. */
typedef struct tr_PointwiseOp {
    const char *name;
    int arity;
} tr_PointwiseOp;

#define TR_ROW(name, arity) {#name, arity},
static const tr_PointwiseOp tr_pointwise_ops[TR_N_POINTWISE] __attribute__((unused)) = {TR_POINTWISE(TR_ROW)};
#undef TR_ROW

#ifdef __cplusplus
}
#endif
#endif /* TR_KERNELS_H */
