/* What the functions of pointwise.h take in a loop over arrays: neighbouring elements, a few vectors of them.
 *
 * An operation is done for all vectors of a pack before the next one is, so that the steps of a long formula do not wait
 * for each other. An element has the bits that it has alone. */
#ifndef TR_PACKS_H
#define TR_PACKS_H

#include <cstddef>
#include <cstring>

#include "pointwise.h"
#include "vectors.h"

namespace tr {
namespace TR_ISA {

#define TR_INLINE inline __attribute__((always_inline))
#define TR_EACH _Pragma("GCC unroll 8") for (int k = 0; k < n; k++)

/* The bits of a pack, or what a comparison makes of it: all ones where it holds, else zeros. */
template <class T, int n> struct PackBits {
    typedef typename real<T>::bits Word;
    vector<Word> v[n];

#define TR_WITH_BITS(op) \
    friend TR_INLINE PackBits operator op(PackBits a, const PackBits &b) { TR_EACH a.v[k] = a.v[k] op b.v[k]; return a; }
#define TR_WITH_WORD(op) \
    friend TR_INLINE PackBits operator op(PackBits a, Word b) { TR_EACH a.v[k] = a.v[k] op b; return a; }
    TR_WITH_BITS(|) TR_WITH_BITS(-)
    TR_WITH_WORD(&) TR_WITH_WORD(|) TR_WITH_WORD(+)
#undef TR_WITH_BITS
#undef TR_WITH_WORD
    friend TR_INLINE PackBits operator<<(PackBits a, int by) { TR_EACH a.v[k] = a.v[k] << by; return a; }
    friend TR_INLINE PackBits operator>>(PackBits a, int by) { TR_EACH a.v[k] = a.v[k] >> by; return a; }
};

template <class T, int vectors> struct Pack {
    static constexpr int n = vectors, width = vector_bytes / sizeof(T), count = n * width;
    typedef PackBits<T, n> Bits;
    vector<T> v[n];

    Pack() = default;
    TR_INLINE Pack(T x) { TR_EACH v[k] = x - vector<T>{}; }

    static TR_INLINE Pack load(const T *p) {
        Pack a;
        TR_EACH a.v[k] = tr::TR_ISA::load(p + k * width);
        return a;
    }
    TR_INLINE void store(T *p) const { TR_EACH tr::TR_ISA::store(p + k * width, v[k]); }

#define TR_ARITHMETIC(op) \
    friend TR_INLINE Pack operator op(Pack a, const Pack &b) { TR_EACH a.v[k] = a.v[k] op b.v[k]; return a; }
    TR_ARITHMETIC(+) TR_ARITHMETIC(-) TR_ARITHMETIC(*) TR_ARITHMETIC(/)
#undef TR_ARITHMETIC
    friend TR_INLINE Pack operator-(Pack a) { TR_EACH a.v[k] = -a.v[k]; return a; }

#define TR_COMPARISON(op) \
    friend TR_INLINE Bits operator op(const Pack &a, const Pack &b) { \
        Bits m; \
        TR_EACH m.v[k] = (vector<typename Bits::Word>)(a.v[k] op b.v[k]); \
        return m; \
    }
    TR_COMPARISON(<) TR_COMPARISON(>) TR_COMPARISON(<=) TR_COMPARISON(==) TR_COMPARISON(!=)
#undef TR_COMPARISON

    friend TR_INLINE Pack select(const Bits &m, Pack a, const Pack &b) {
        TR_EACH a.v[k] = m.v[k] ? a.v[k] : b.v[k];
        return a;
    }
    friend TR_INLINE Pack mad(Pack a, const Pack &b, const Pack &c) {
        TR_EACH a.v[k] = tr::TR_ISA::mad(a.v[k], b.v[k], c.v[k]);
        return a;
    }
    friend TR_INLINE Pack at_least(T low, Pack b) {
        TR_EACH b.v[k] = tr::TR_ISA::at_least(low - vector<T>{}, b.v[k]);
        return b;
    }
    friend TR_INLINE Pack at_most(T high, Pack b) {
        TR_EACH b.v[k] = tr::TR_ISA::at_most(high - vector<T>{}, b.v[k]);
        return b;
    }
    friend TR_INLINE Bits to_bits(const Pack &a) {
        Bits b;
        TR_EACH b.v[k] = (vector<typename Bits::Word>)a.v[k];
        return b;
    }
};

template <class T, int n> TR_INLINE Pack<T, n> from_bits(const PackBits<T, n> &b) {
    Pack<T, n> a;
    TR_EACH a.v[k] = (vector<T>)b.v[k];
    return a;
}

/* What has no vector instruction everywhere: one by one. */
template <class T, int n> TR_INLINE Pack<T, n> sqrt_of(Pack<T, n> a) {
    TR_EACH for (int i = 0; i < a.width; i++) a.v[k][i] = sqrt_of(a.v[k][i]);
    return a;
}
template <class T, int n> TR_INLINE Pack<T, n> pow_of(Pack<T, n> a, const Pack<T, n> &b) {
    T x[Pack<T, n>::count], y[Pack<T, n>::count];
    a.store(x);
    b.store(y);
    for (int i = 0; i < a.count; i++) x[i] = pow_of(x[i], y[i]);
    return Pack<T, n>::load(x);
}

/* What the formulas ask of their numbers' type. */
template <class T, int n> struct real<Pack<T, n>> : real<T> {};

#undef TR_EACH
#undef TR_INLINE

}  // namespace TR_ISA
}  // namespace tr
#endif
