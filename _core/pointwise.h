/* The scalar maths of every elementwise op, once.
 *
 * A C++17 compiler and NVRTC both read this file: the CPU loops, the tile interpreter, the CUDA
 * text and Python's list of ops all come from it. A new op is one row of the list and one struct.
 *
 * Everything is branch-free (selects only), and a template: T is float or double, or a pack of
 * them (packs.h), by which the CPU's loops take many elements at once.
 * The host is compiled with -ffp-contract=off and fused multiply-adds are written as mad(), so a
 * value has the same bits in a pack and alone, on one instruction set.
 * Bounds (all instruction sets): float32 within 2 ulp or 1e-7 absolute, float64 within 4 ulp;
 * infinities, NaN and denormals behave as in IEEE 754 (CUDA's -ftz=true flushes denormals).
 */
#ifndef TR_POINTWISE_H
#define TR_POINTWISE_H

/* X(name, arity); the code of an op is its place in this list. d_* are derivatives: g is the
 * incoming gradient, y the op's output. */
#define TR_POINTWISE(X)                                                                         \
    X(neg, 1) X(abs, 1) X(sign, 1) X(square, 1) X(sqrt, 1) X(exp, 1) X(log, 1) X(sigmoid, 1)    \
    X(tanh, 1) X(softplus, 1) X(relu, 1)                                                        \
    X(add, 2) X(sub, 2) X(mul, 2) X(div, 2) X(pow, 2) X(maximum, 2) X(minimum, 2) X(greater, 2) \
    X(wins, 2) X(d_sigmoid, 2) X(d_tanh, 2) X(d_relu, 2)                                        \
    X(where, 3) X(fma, 3) X(mix, 3) X(lerp, 3)

#define TR_CODE(name, arity) TR_##name,
enum tr_PointwiseCode { TR_POINTWISE(TR_CODE) TR_N_POINTWISE };
#undef TR_CODE

#ifdef __cplusplus

#ifdef __CUDACC__ /* NVRTC defines it too */
#define TR_DEVICE 1
#define TR_FN static __device__ __forceinline__
#define TR_ISA device
#else
#define TR_DEVICE 0
#define TR_FN static inline __attribute__((always_inline))
#ifndef TR_ISA
#define TR_ISA host
#endif
#endif

namespace tr {
namespace TR_ISA {

/* ---- fused multiply-add, bits --------------------------------------------------------------- */

/* a*b + c: rounded once where the instruction exists, else twice; never a slow library call. */
#if TR_DEVICE
TR_FN float mad(float a, float b, float c) { return fmaf(a, b, c); }
TR_FN double mad(double a, double b, double c) { return fma(a, b, c); }
#elif defined(__FMA__) || defined(__aarch64__)
TR_FN float mad(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
TR_FN double mad(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
TR_FN float mad(float a, float b, float c) { return a * b + c; }
TR_FN double mad(double a, double b, double c) { return a * b + c; }
#endif

#if TR_DEVICE
TR_FN unsigned int to_bits(float a) { return __float_as_uint(a); }
TR_FN unsigned long long to_bits(double a) { return (unsigned long long)__double_as_longlong(a); }
TR_FN float from_bits(unsigned int a) { return __uint_as_float(a); }
TR_FN double from_bits(unsigned long long a) { return __longlong_as_double((long long)a); }
#else
TR_FN unsigned int to_bits(float a) { unsigned int b; __builtin_memcpy(&b, &a, 4); return b; }
TR_FN unsigned long long to_bits(double a) { unsigned long long b; __builtin_memcpy(&b, &a, 8); return b; }
TR_FN float from_bits(unsigned int a) { float b; __builtin_memcpy(&b, &a, 4); return b; }
TR_FN double from_bits(unsigned long long a) { double b; __builtin_memcpy(&b, &a, 8); return b; }
#endif

/* condition ? a : b. A pack has one of its own, and a condition an element. */
template <class T> TR_FN T select(bool condition, T a, T b) { return condition ? a : b; }

/* What the algorithms below need to know of a float type. */
template <class T> struct real;
template <> struct real<float> {
    typedef float scalar;
    typedef unsigned int bits;
    static constexpr int mantissa = 23, bias = 127;
    static constexpr float round = 12582912.0f;           /* 1.5 * 2^23: adding it rounds to an integer */
    static constexpr float denormal_scale = 33554432.0f;  /* 2^25 */
    static constexpr float denormal_shift = 25.0f;
    static constexpr float tiny = 1.17549435e-38f;        /* smallest normal number */
    static constexpr float exp_low = -105.0f, exp_high = 89.0f;
    static constexpr float tanh_high = 10.0f;             /* its tanh is 1 */
    static constexpr float log2e = 1.44269502f;
    /* ln 2 rounded to few enough bits that n * ln2_high is exact, and the rest */
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, ln2 = 0.693147182f;
    /* Whether an error of 1e-7 is small enough, whatever the result; then e^-88 may be 0, and its inverse infinite. */
    static constexpr bool is_coarse = true;
    static constexpr float coarse_low = -88.0f;
};
template <> struct real<double> {
    typedef double scalar;
    typedef unsigned long long bits;
    static constexpr int mantissa = 52, bias = 1023;
    static constexpr double round = 6755399441055744.0;
    static constexpr double denormal_scale = 18014398509481984.0;  /* 2^54 */
    static constexpr double denormal_shift = 54.0;
    static constexpr double tiny = 2.2250738585072014e-308;
    static constexpr double exp_low = -746.0, exp_high = 710.0;
    static constexpr double tanh_high = 20.0;
    static constexpr double log2e = 1.4426950408889634;
    static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
    static constexpr double ln2 = 6.93147180559945309417e-01;
    static constexpr bool is_coarse = false;
    static constexpr double coarse_low = exp_low;
};

/* c0 + c1 x + c2 x^2 + ..., xx = x^2. As many operations as Horner's scheme, half its latency: the pairs
 * c0 + c1 x, c2 + c3 x, ... do not wait for each other. */
template <class T, class S> TR_FN T poly(T, T, S c0) { return c0; }
template <class T, class S> TR_FN T poly(T x, T, S c0, S c1) { return mad(x, c1, c0); }
template <class T, class S, class... C> TR_FN T poly(T x, T xx, S c0, S c1, S c2, C... c) {
    return mad(xx, poly(x, xx, c2, c...), mad(x, c1, c0));
}

/* |a|, -|a|, and the magnitude of a with the sign of s, without a library */
template <class T> TR_FN typename real<T>::bits sign_bit() { return ~(~(typename real<T>::bits)0 >> 1); }
template <class T> TR_FN T magnitude(T a) { return from_bits(to_bits(a) & ~sign_bit<T>()); }
template <class T> TR_FN T minus_magnitude(T a) { return from_bits(to_bits(a) | sign_bit<T>()); }
template <class T> TR_FN T with_sign(T a, T s) { /* a is not negative */
    return from_bits(to_bits(a) | (to_bits(s) & sign_bit<T>()));
}

template <class T> TR_FN typename real<T>::scalar infinite() {
    typedef typename real<T>::bits B;
    return from_bits((B)((B)(2 * real<T>::bias + 1) << real<T>::mantissa));
}

/* ---- exponential family --------------------------------------------------------------------- */

/* With r = s h: (e^r - 1 - r) / (s h^2) for |r| <= ln2/2, s = 1 or 2; by powers of two coefficients are scaled
 * exactly. Minimax in the relative error of e^r - 1, by iteratively reweighted least squares (Lawson) in 40 digits at
 * 120 Chebyshev points; each coefficient was rounded, lowest first, and the rest fitted again. Degree 4: 1.4e-8;
 * degree 9: 2.4e-17. */
template <class T> TR_FN T exp_poly(T h, T hh, float s) {
    const float ss = s * s, sss = ss * s;
    return poly(h, hh, s * 0.5f, ss * 0.16666548f, sss * 0.0416668244f, ss * ss * 0.00836611167f,
                ss * sss * 0.00139009708f);
}
template <class T> TR_FN T exp_poly(T h, T hh, double s) {
    const double ss = s * s, sss = ss * s, ssss = ss * ss;
    return poly(h, hh, s * 0.5, ss * 0.16666666666666602, sss * 0.04166666666662, ssss * 0.0083333333333883066,
                ss * sss * 0.0013888888920497379, sss * sss * 0.00019841269709597849,
                ssss * sss * 2.480151636579911e-05, ssss * ssss * 2.7557424778445952e-06,
                ssss * ss * sss * 2.7622218922598804e-07, ssss * sss * sss * 2.5046015246522771e-08);
}

/* With r = -h: (e^r - 1 - r) / -h^2, to 1e-7 of e^r; fitted in the same way. */
template <class T> TR_FN T coarse_exp_poly(T h, T hh) {
    return poly(h, hh, -0.4999923f, 0.16667116f, -0.041890256f, 0.008312469f);
}

/* s a = n ln2 + s h with |s h| <= ln2/2. Adding a large number rounds n, and leaves n + offset in the low bits of
 * `bits`: no conversion to integers, which 64-bit lanes lack before AVX-512. `is_coarse`: one rounding of ln2, which is
 * off by n * 2e-9 in float32. */
template <class T, class B> struct Reduced { T h; B bits; };

template <bool is_coarse, class T> TR_FN auto reduced(T a, int offset, typename real<T>::scalar s) {
    typedef real<T> R;
    const typename R::scalar magic = R::round + (typename R::scalar)offset;
    const T t = mad(a, s * R::log2e, magic);
    const T n = t - magic;
    T h;
    if constexpr (is_coarse)
        h = mad(n, -R::ln2 / s, a);
    else
        h = mad(n, -R::ln2_low / s, mad(n, -R::ln2_high / s, a));
    return Reduced<T, decltype(to_bits(t))>{h, to_bits(t)};
}

/* e^sa = 2^n (1 + s p) */
template <class T, class B> struct ExpParts { T p; B bits; };

template <bool is_coarse, class T> TR_FN auto exp_parts(T a, int offset, typename real<T>::scalar s) {
    const auto r = reduced<is_coarse>(a, offset, s);
    const T hh = r.h * r.h;
    return ExpParts<T, decltype(r.bits)>{mad(hh, exp_poly(r.h, hh, s), r.h), r.bits};
}

/* 2^(b - bias): b, which may have anything above the exponent's bits, becomes the exponent. */
template <class T, class B> TR_FN T power_of_two(B b) { return from_bits(b << real<T>::mantissa); }

/* e^a for exp_low <= a <= exp_high or NaN. Scaled in two steps: a denormal result is rounded once, and
 * 2^128 * 0.9 stays finite. */
template <class T> TR_FN T exp_in_range(T a) {
    const auto e = exp_parts<false>(a, 2 * real<T>::bias, 1);
    const auto half = e.bits >> 1;
    const T scale = power_of_two<T>(half);
    return mad(scale, e.p, scale) * power_of_two<T>(e.bits - half);
}

/* The larger and the smaller of two; a NaN in b stays. */
template <class T> TR_FN T at_least(typename real<T>::scalar low, T b) { return low > b ? low : b; }
template <class T> TR_FN T at_most(typename real<T>::scalar high, T b) { return high < b ? high : b; }

template <class T> TR_FN T exp_of(T a) {
    return exp_in_range(at_most(real<T>::exp_high, at_least(real<T>::exp_low, a)));
}
/* e^-|a|; where coarse, below the smallest normal number 0, whose exponent is -bias */
template <class T> TR_FN T exp_minus_magnitude(T a) {
    typedef real<T> R;
    const T b = at_least(R::coarse_low, minus_magnitude(a));
    if constexpr (R::is_coarse) {
        const auto e = exp_parts<true>(b, R::bias, 1);
        const T scale = power_of_two<T>(e.bits);
        return mad(scale, e.p, scale);
    } else {
        return exp_in_range(b);
    }
}

/* 1 / (1 + e^-a), e^-a = 2^n (1 - p): infinite or 0 at the ends of the range */
template <class T> TR_FN T coarse_sigmoid(T a) {
    typedef real<T> R;
    const auto r = reduced<true>(at_most(-R::coarse_low, at_least(R::coarse_low - 1, a)), R::bias, -1);
    const T hh = r.h * r.h;
    const T p = mad(hh, coarse_exp_poly(r.h, hh), r.h);
    return (T)1 / mad(power_of_two<T>(r.bits), (T)1 - p, (T)1);
}

/* (e^2a - 1) / 2 for 0 <= a <= tanh_high: 2^n p + (2^n - 1) / 2, relatively accurate near zero. */
template <class T> TR_FN T half_expm1_of_twice(T a) {
    const auto e = exp_parts<real<T>::is_coarse>(a, real<T>::bias, 2);
    const T scale = power_of_two<T>(e.bits);
    return mad(scale, e.p, mad(scale, (T)0.5, (T)-0.5));
}

/* ---- logarithms ----------------------------------------------------------------------------- */

/* (2 atanh(s) - 2 s) / s^3 as a polynomial in z = s^2, 0 <= s <= 1/5. Fitted like exp_poly, in the
 * relative error of 2 atanh(s). Degree 2: 2.9e-9; degree 6: 1.5e-17. */
template <class T> TR_FN T log_poly(T z, float) { return poly(z, z * z, 0.666669488f, 0.399576575f, 0.303644359f); }
template <class T> TR_FN T log_poly(T z, double) {
    return poly(z, z * z, 0.66666666666672836, 0.39999999996096025, 0.28571429406719617, 0.22222137587323179,
                0.18186392975996429, 0.1524945760793732, 0.15373834684437906);
}

/* k ln2 + log(1 + f), -1/4 <= f < 1/2, f exact. With s = f / (2 + f):
 * log(1 + f) = 2 atanh(s) = f - f^2/2 + s (f^2/2 + R(s^2)). */
template <class T> TR_FN T log_parts(T k, T f) {
    typedef real<T> R;
    const T s = f / ((T)2 + f);
    const T z = s * s;
    const T half_square = (T)0.5 * f * f;
    const T rest = mad(s, mad(z, log_poly(z, (typename R::scalar)0), half_square), k * R::ln2_low);
    return mad(k, R::ln2_high, f - (half_square - rest));
}

/* a = 2^k m, 3/4 <= m < 3/2. */
template <class T> TR_FN T log_of(T a) {
    typedef real<T> R;
    typedef typename R::scalar S;
    typedef typename R::bits B;
    constexpr B one = (B)R::bias << R::mantissa;
    constexpr B three_quarters = one - ((B)1 << (R::mantissa - 1));
    constexpr S two_mantissa = (S)((B)1 << R::mantissa);
    const auto denormal = a < (T)R::tiny;
    const auto t = to_bits(select(denormal, a * R::denormal_scale, a)) + (one - three_quarters);
    const T m = from_bits((t & (((B)1 << R::mantissa) - 1)) + three_quarters);
    const T k = from_bits((t >> R::mantissa) | to_bits(two_mantissa)) - (two_mantissa + (S)R::bias)
                - select(denormal, (T)R::denormal_shift, (T)0);
    const S infinity = infinite<T>();
    const T y = select(a < (T)infinity, log_parts(k, m - (T)1), a);  /* +inf, NaN */
    return select(a > (T)0, y, select(a == (T)0, (T)-infinity, (T)(infinity - infinity)));
}

/* log(1 + e) for 0 <= e <= 1; f is exact on both sides of 1/2. */
template <class T> TR_FN T log1p_of(T e) {
    const auto low = e < (T)0.5;
    return log_parts(select(low, (T)0, (T)1), select(low, e, (T)0.5 * (e - (T)1)));
}

#if TR_DEVICE
TR_FN float sqrt_of(float a) { return sqrtf(a); }
TR_FN double sqrt_of(double a) { return sqrt(a); }
TR_FN float pow_of(float a, float b) { return powf(a, b); }
TR_FN double pow_of(double a, double b) { return pow(a, b); }
#else
TR_FN float sqrt_of(float a) { return __builtin_sqrtf(a); }
TR_FN double sqrt_of(double a) { return __builtin_sqrt(a); }
TR_FN float pow_of(float a, float b) { return __builtin_powf(a, b); }
TR_FN double pow_of(double a, double b) { return __builtin_pow(a, b); }
#endif

/* ---- the ops: tr::<isa>::op::<name>::f(...) ------------------------------------------------- */

namespace op {

#define TR_UNARY(name, body) struct name { template <class T> TR_FN T f(T a) body };
#define TR_BINARY(name, a, b, body) struct name { template <class T> TR_FN T f(T a, T b) body };
#define TR_TERNARY(name, a, b, c, body) struct name { template <class T> TR_FN T f(T a, T b, T c) body };

TR_UNARY(neg, { return -a; })
TR_UNARY(abs, { return magnitude(a); })
TR_UNARY(sign, { return select(a > (T)0, (T)1, select(a < (T)0, (T)-1, select(a == (T)0, (T)0, a))); })
TR_UNARY(square, { return a * a; })
TR_UNARY(sqrt, { return sqrt_of(a); })
TR_UNARY(exp, { return exp_of(a); })
TR_UNARY(log, { return log_of(a); })
/* e^-|a| cannot overflow; both signs share one division */
TR_UNARY(sigmoid, {
    if constexpr (real<T>::is_coarse) return coarse_sigmoid(a);
    const T e = exp_minus_magnitude(a);
    return select(a < (T)0, e, (T)1) / ((T)1 + e);
})
/* tanh|a| = m / (m + 1), m = (e^2|a| - 1) / 2: relatively accurate near zero, and towards 1 errors of m vanish */
TR_UNARY(tanh, {
    const T m = half_expm1_of_twice(at_most(real<T>::tanh_high, magnitude(a)));
    return with_sign(m / (m + (T)1), a);
})
TR_UNARY(softplus, { return select(a > (T)0, a, (T)0) + log1p_of(exp_minus_magnitude(a)); })
TR_UNARY(relu, { return select(a <= (T)0, (T)0, a); }) /* NaN stays NaN */

TR_BINARY(add, a, b, { return a + b; })
TR_BINARY(sub, a, b, { return a - b; })
TR_BINARY(mul, a, b, { return a * b; })
TR_BINARY(div, a, b, { return a / b; })
TR_BINARY(pow, a, b, { return pow_of(a, b); })
/* a NaN on either side wins */
TR_BINARY(maximum, a, b, { return select((a > b) | (a != a), a, b); })
TR_BINARY(minimum, a, b, { return select((a < b) | (a != a), a, b); })
TR_BINARY(greater, a, b, { return select(a > b, (T)1, (T)0); })
/* the share of the gradient that maximum(a, b) passes to a */
TR_BINARY(wins, a, b, {
    return select(a > b, (T)1, select(a == b, (T)0.5, select(a < b, (T)0, a + b)));
})
TR_BINARY(d_sigmoid, g, y, { return g * (y * ((T)1 - y)); })
TR_BINARY(d_tanh, g, y, { return g * mad(-y, y, (T)1); })
TR_BINARY(d_relu, g, y, { return select(y > (T)0, g, (T)0); })

TR_TERNARY(where, c, a, b, { return select(c != (T)0, a, b); })
TR_TERNARY(fma, a, b, c, { return mad(a, b, c); })
TR_TERNARY(mix, w, a, b, { return mad(w, a, ((T)1 - w) * b); })
TR_TERNARY(lerp, a, b, w, { return mad(w, b - a, a); })

#undef TR_UNARY
#undef TR_BINARY
#undef TR_TERNARY

}  // namespace op
}  // namespace TR_ISA
}  // namespace tr
#endif /* __cplusplus */
#endif /* TR_POINTWISE_H */
