// The vectors of an instruction set (TR_ISA), for loops in which it matters what becomes of each operation.
#ifndef TR_VECTORS_H
#define TR_VECTORS_H

#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tr {
namespace TR_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T> struct Vector {
    typedef T type __attribute__((vector_size(vector_bytes)));
};
template <class T> using vector = typename Vector<T>::type;

template <class T> inline vector<T> load(const T *p) {
    vector<T> v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class T> inline void store(T *p, vector<T> v) { std::memcpy(p, &v, sizeof v); }

// a * b + c: rounded once where the instruction set can (contraction is off, so it is asked for by name).
#if defined(__AVX512F__)
inline vector<float> mad(vector<float> a, vector<float> b, vector<float> c) { return _mm512_fmadd_ps(a, b, c); }
inline vector<double> mad(vector<double> a, vector<double> b, vector<double> c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__FMA__)
inline vector<float> mad(vector<float> a, vector<float> b, vector<float> c) { return _mm256_fmadd_ps(a, b, c); }
inline vector<double> mad(vector<double> a, vector<double> b, vector<double> c) { return _mm256_fmadd_pd(a, b, c); }
#elif defined(__aarch64__)
inline vector<float> mad(vector<float> a, vector<float> b, vector<float> c) { return vfmaq_f32(c, a, b); }
inline vector<double> mad(vector<double> a, vector<double> b, vector<double> c) { return vfmaq_f64(c, a, b); }
#else
inline vector<float> mad(vector<float> a, vector<float> b, vector<float> c) { return a * b + c; }
inline vector<double> mad(vector<double> a, vector<double> b, vector<double> c) { return a * b + c; }
#endif

// The larger and the smaller of two; b where one is NaN. GCC makes two instructions and a mask of `low > b ? low : b`.
// (Masked by ones, as its header's other functions use a variable that it warns about.)
#if defined(__AVX512F__)
inline vector<float> at_least(vector<float> low, vector<float> b) { return _mm512_maskz_max_ps(__mmask16(-1), low, b); }
inline vector<double> at_least(vector<double> low, vector<double> b) { return _mm512_maskz_max_pd(__mmask8(-1), low, b); }
inline vector<float> at_most(vector<float> high, vector<float> b) { return _mm512_maskz_min_ps(__mmask16(-1), high, b); }
inline vector<double> at_most(vector<double> high, vector<double> b) { return _mm512_maskz_min_pd(__mmask8(-1), high, b); }
#else
inline vector<float> at_least(vector<float> low, vector<float> b) { return low > b ? low : b; }
inline vector<double> at_least(vector<double> low, vector<double> b) { return low > b ? low : b; }
inline vector<float> at_most(vector<float> high, vector<float> b) { return high < b ? high : b; }
inline vector<double> at_most(vector<double> high, vector<double> b) { return high < b ? high : b; }
#endif

}  // namespace TR_ISA
}  // namespace tr
#endif
