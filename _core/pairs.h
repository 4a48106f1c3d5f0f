/* Two elementwise ops in a row, of which nobody wants what is between them: it stays in registers, and a time loop passes
 * once over its rows instead of twice.
 *
 * The operands of a pair are those of the first op and then the others of the second, of whose operands the first op
 * makes the one at `place`. Its bits are those of the ops one after the other. */
#ifndef TR_PAIRS_H
#define TR_PAIRS_H

/* X(first, its arity, second, its arity, place, spread): bit k of `spread`: operand k is one column, for all. */
#define TR_PAIRS(X)                                                                                      \
    X(sigmoid, 1, mul, 2, 0, 0) X(sigmoid, 1, fma, 3, 0, 0) X(sigmoid, 1, mix, 3, 0, 0)                  \
    X(tanh, 1, mul, 2, 0, 0) X(tanh, 1, fma, 3, 0, 0) X(tanh, 1, mix, 3, 1, 0) X(tanh, 1, lerp, 3, 1, 0) \
    X(add, 2, sigmoid, 1, 0, 0) X(add, 2, tanh, 1, 0, 0) X(sub, 2, mul, 2, 0, 0)                         \
    X(mul, 2, fma, 3, 0, 0) X(mul, 2, fma, 3, 0, 2) X(mul, 2, fma, 3, 2, 0) X(mul, 2, fma, 3, 2, 2)      \
    X(fma, 3, sigmoid, 1, 0, 0) X(fma, 3, tanh, 1, 0, 0)                                                 \
    X(mul, 2, d_sigmoid, 2, 0, 0) X(mul, 2, d_tanh, 2, 0, 0)                                             \
    X(fma, 3, d_sigmoid, 2, 0, 0) X(fma, 3, d_tanh, 2, 0, 0)

#define TR_NUMBER(first, n, second, m, place, spread) TR_PAIR_##first##_##second##_##place##_##spread,
enum tr_PairCode { TR_PAIRS(TR_NUMBER) TR_N_PAIRS };
#undef TR_NUMBER

/* For Python. */
typedef struct tr_Pair {
    const char *first, *second;
    int place, spread;
} tr_Pair;

#define TR_ROW(first, n, second, m, place, spread) {#first, #second, place, spread},
static const tr_Pair tr_pairs[TR_N_PAIRS] __attribute__((unused)) = {TR_PAIRS(TR_ROW)};
#undef TR_ROW

#ifdef __cplusplus
#include "loops.h"

namespace tr {
namespace TR_ISA {

template <class First, int n, class Second, int m, int place> struct Pair {
    static constexpr int arity = n + m - 1;

    template <class T, class... Others> TR_FN T f(T a, Others... others) {
        const T given[] = {a, others...};
        T made;
        if constexpr (n == 1)
            made = First::f(a);
        else if constexpr (n == 2)
            made = First::f(a, given[1]);
        else
            made = First::f(a, given[1], given[2]);
        const auto operand = [&](int k) { return k == place ? made : given[n + k - (k > place)]; };
        if constexpr (m == 1)
            return Second::f(made);
        else if constexpr (m == 2)
            return Second::f(operand(0), operand(1));
        else
            return Second::f(operand(0), operand(1), operand(2));
    }
};

/* As map_rows; rows without gaps are one stretch. */
template <class Op, int spread, class T>
void pair_rows(T *out, ptrdiff_t ld, const T *const *in, const ptrdiff_t *lds, ptrdiff_t rows, ptrdiff_t width) {
    bool whole = !spread && ld == width;
    for (int k = 0; k < Op::arity; k++) whole &= lds[k] == width;
    if (whole) width *= rows, rows = 1;
    const T *at[Op::arity];
    for (int k = 0; k < Op::arity; k++) at[k] = in[k];
    for (ptrdiff_t r = 0; r < rows; r++, out += ld) {
        map_row<Op, Op::arity, spread>(out, at, width);
        for (int k = 0; k < Op::arity; k++) at[k] += lds[k];
    }
}

}  // namespace TR_ISA
}  // namespace tr
#endif
#endif /* TR_PAIRS_H */
