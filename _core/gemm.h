// Matrix products, C (M,N) [+]= A (M,K) B (K,N), for float and double, compiled once an instruction set (TR_ISA).
//
//   packed_size, pack_b   B becomes column panels, once a sequence
//   product               A's rows as they lie, packed B: the recurrent product, small M, no workspace
//   workspace_size, gemm  any strides (so transposes), both sides packed block by block: the large products
//
// The order of every sum is fixed. K is cut at multiples of `k_block`; within a block one accumulator an element runs
// over k upwards from zero by `mad`, and blocks are added to C upwards: C = ((C0 + block0) + block1) + ... (C0 = none
// unless adding). Every tile shape and both entry points keep to this, and vector lanes never mix. So an element's
// bits depend on its row of A, its column of B and its C0 alone: not on M or N, not on the neighbours, not on how
// threads share out rows and columns, nor on `product` or `gemm`. Blocks also keep rounding errors of long sums small.
#pragma once

#include <cstddef>
#include <cstring>
#include <utility>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace tr {
namespace TR_ISA {
namespace product_detail {

using index = std::ptrdiff_t;

// A tile of C is tile_rows x (tile_vectors vectors). It lives in registers together with one row of a panel of B and
// one broadcast element of A: 28+2+1 of 32 registers, 12+2+1 of 16, 24+3+1 of 32.
#if defined(__AVX512F__)
constexpr int vector_bytes = 64, tile_rows = 14, tile_vectors = 2;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32, tile_rows = 6, tile_vectors = 2;
#elif defined(__aarch64__)
constexpr int vector_bytes = 16, tile_rows = 8, tile_vectors = 3;
#else
constexpr int vector_bytes = 16, tile_rows = 6, tile_vectors = 2;
#endif

template <class T>
struct Vector {
    typedef T type __attribute__((vector_size(vector_bytes)));
};
template <class T>
using vector = typename Vector<T>::type;
template <class T>
constexpr int panel_width = tile_vectors * vector_bytes / int(sizeof(T));

// A panel's block, k_block rows of 64 bytes (AVX2), is half the first-level cache; the rows of A take a fifth.
template <class T>
constexpr index k_block = 1024 / sizeof(T);

template <class T>
inline vector<T> load(const T *p) {
    vector<T> v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class T>
inline void store(T *p, vector<T> v) {
    std::memcpy(p, &v, sizeof v);
}

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
template <class V>
inline V mad(V a, V b, V c) {
    return a * b + c;
}
#endif

// sum[R][V] += one column of A, R elements `step` bytes apart from row to row, times one row of P panels of B.
// Rows are reached from every third one by scaled addressing: 14 pointers would not fit the integer registers.
template <class T, int R, int P>
inline __attribute__((always_inline)) void rank_one(vector<T> (&sum)[R][P * tile_vectors],
                                                    const char *const (&third)[(R + 2) / 3], index step, index k,
                                                    const T *b, index stride) {
    constexpr int V = P * tile_vectors, W = panel_width<T> / tile_vectors;
    const auto left_of = [&](int r) {
        return *reinterpret_cast<const T *>(third[r / 3] + r % 3 * step + k * index(sizeof(T))) - vector<T>{};
    };
    const auto right_of = [&](int v) { return load(b + v / tile_vectors * stride + v % tile_vectors * W); };
    if constexpr (V <= R) {  // hold the fewer in registers, stream the others
        vector<T> right[V];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) right[v] = right_of(v);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const vector<T> left = left_of(r);
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) sum[r][v] = mad(left, right[v], sum[r][v]);
        }
    } else {
        vector<T> left[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) left[r] = left_of(r);
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            const vector<T> right = right_of(v);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) sum[r][v] = mad(left[r], right, sum[r][v]);
        }
    }
}

#ifndef BAR
#define BAR 1
#endif
#ifndef UN
#define UN 4
#endif
#ifndef PF
#define PF 1
#endif
#ifndef DIST
#define DIST 8
#endif
// C[R rows, P panels] [+]= A[R rows, K] B[K, P panels], K <= k_block, whole panels. `stride`: from panel to panel of B.
template <class T, int R, int P>
inline __attribute__((always_inline)) void tile(T *c, index ldc, const T *a, index lda, const T *b, index stride,
                                                index K, bool add) {
    constexpr int NR = panel_width<T>, W = NR / tile_vectors, V = P * tile_vectors;
    vector<T> sum[R][V] = {};
    const char *third[(R + 2) / 3];
#pragma GCC unroll 16
    for (int i = 0; i < (R + 2) / 3; ++i) third[i] = reinterpret_cast<const char *>(a + 3 * i * lda);
    index step = lda * index(sizeof(T));
    index k = 0;
    for (; k + UN <= K; k += UN) {
#pragma GCC unroll 16
        for (int i = 0; i < (R + 2) / 3; ++i) if (BAR) asm("" : "+r"(third[i]));
#pragma GCC unroll 4
        for (int u = 0; u < UN; ++u) {
#if PF
            __builtin_prefetch(b + (u + DIST) * NR);
            if (vector_bytes == 64) __builtin_prefetch(b + (u + DIST) * NR+NR/2);
#endif
            rank_one<T, R, P>(sum, third, step, u, b + u * NR, stride);
        }
#pragma GCC unroll 16
        for (int i = 0; i < (R + 2) / 3; ++i) third[i] += UN * sizeof(T);
        b += UN * NR;
    }
#pragma GCC unroll 1
    for (; k < K; ++k) {
        rank_one<T, R, P>(sum, third, step, 0, b, stride);
#pragma GCC unroll 16
        for (int i = 0; i < (R + 2) / 3; ++i) third[i] += sizeof(T);
        b += NR;
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            T *p = c + r * ldc + v * W;
            store(p, add ? load(p) + sum[r][v] : sum[r][v]);
        }
}

// Panels that R rows take at once: the fused multiply-add has a latency of 4 and two start a cycle, so fewer than
// 8 sums at a time would wait for one another.
constexpr int panels_at_once(int rows) {
    int panels = 1;
    while (rows * tile_vectors * panels < 8 && rows * tile_vectors * panels * 2 <= tile_rows * tile_vectors) panels *= 2;
    return panels;
}

// `tile` over several whole panels.
template <class T, int R, int P = panels_at_once(R)>
void strip(T *c, index ldc, const T *a, index lda, const T *b, index stride, index K, index panels, bool add) {
    for (; panels >= P; panels -= P, c += P * panel_width<T>, b += P * stride)
        tile<T, R, P>(c, ldc, a, lda, b, stride, K, add);
    if constexpr (P > 1)
        if (panels) strip<T, R, P / 2>(c, ldc, a, lda, b, stride, K, panels, add);
}

template <class T>
using Strip = void (*)(T *, index, const T *, index, const T *, index, index, index, bool);
template <class T, int... R>
inline Strip<T> strip_of(int rows, std::integer_sequence<int, R...>) {
    static constexpr Strip<T> table[] = {strip<T, R + 1>...};
    return table[rows - 1];
}

// C[M, panels] [+]= A[M, K] B[K, panels], K <= k_block; `width` counts the columns of C, the last panel may be partial.
// The rows are cut into equal tiles, as few as hold them.
template <class T>
inline void block(T *c, index ldc, const T *a, index lda, const T *b, index stride, index M, index K, index width,
                  bool add) {
    constexpr index NR = panel_width<T>;
    const index tiles = (M + tile_rows - 1) / tile_rows, rows = M / tiles, taller = M % tiles;
    const index whole = width / NR, rest = width % NR;
    for (index i = 0; i < tiles; ++i) {
        const index R = rows + (i < taller);
        const Strip<T> run = strip_of<T>(int(R), std::make_integer_sequence<int, tile_rows>());
        if (whole) run(c, ldc, a, lda, b, stride, K, whole, add);
        if (rest) {  // through a whole tile aside, so that no store leaves C
            T aside[tile_rows * NR];
            if (add)
                for (index r = 0; r < R; ++r) std::memcpy(aside + r * NR, c + r * ldc + whole * NR, rest * sizeof(T));
            run(aside, NR, a, lda, b + whole * stride, stride, K, 1, add);
            for (index r = 0; r < R; ++r) std::memcpy(c + r * ldc + whole * NR, aside + r * NR, rest * sizeof(T));
        }
        c += R * ldc;
        a += R * lda;
    }
}

template <class T>
inline void zero(T *c, index ldc, index M, index N) {
    for (index i = 0; i < M; ++i) std::memset(c + i * ldc, 0, N * sizeof(T));
}

// out (m, n) rows `ldo` apart = in, strides (rs, cs); in squares, so that either side's lines are used whole.
template <class T>
inline void copy(T *__restrict out, index ldo, const T *__restrict in, index rs, index cs, index m, index n) {
    if (cs == 1) {
        for (index i = 0; i < m; ++i) std::memcpy(out + i * ldo, in + i * rs, n * sizeof(T));
        return;
    }
    constexpr index S = 16;
    for (index i0 = 0; i0 < m; i0 += S)
        for (index j0 = 0; j0 < n; j0 += S)
            for (index i = i0; i < (i0 + S < m ? i0 + S : m); ++i)
                for (index j = j0; j < (j0 + S < n ? j0 + S : n); ++j) out[i * ldo + j] = in[i * rs + j * cs];
}

}  // namespace product_detail

// Elements of a packed (K, N) matrix.
template <class T>
inline std::ptrdiff_t packed_size(std::ptrdiff_t K, std::ptrdiff_t N) {
    constexpr std::ptrdiff_t NR = product_detail::panel_width<T>;
    return (N + NR - 1) / NR * NR * K;
}

// packed = B (K, N) with strides (rs, cs) in elements: panels of panel_width columns, each K rows, zeros beyond N.
template <class T>
inline void pack_b(T *packed, const T *b, std::ptrdiff_t rs, std::ptrdiff_t cs, std::ptrdiff_t K, std::ptrdiff_t N) {
    using namespace product_detail;
    constexpr index NR = panel_width<T>;
    for (index j = 0; j < N; j += NR, packed += K * NR) {
        const index width = N - j < NR ? N - j : NR;
        if (width < NR) std::memset(packed, 0, K * NR * sizeof(T));
        copy(packed, NR, b + j * cs, rs, cs, K, width);
    }
}

// C (M, N), rows ldc apart, = (add: +=) A (M, K), rows lda apart, times packed B. C may not overlap A or B.
template <class T>
inline void product(T *c, std::ptrdiff_t ldc, const T *a, std::ptrdiff_t lda, const T *packed, std::ptrdiff_t M,
                    std::ptrdiff_t K, std::ptrdiff_t N, bool add) {
    using namespace product_detail;
    constexpr index NR = panel_width<T>;
    if (M <= 0 || N <= 0) return;
    if (K <= 0) return add ? void() : zero(c, ldc, M, N);
    // Panel by panel: B streams through once, a panel's block stays in the first-level cache for all rows.
    const index tiles = (M + tile_rows - 1) / tile_rows, group = NR * panels_at_once(int(M / tiles));
    for (index j = 0; j < N; j += group)
        for (index k = 0; k < K; k += k_block<T>)
            block(c + j, ldc, a + k, lda, packed + j * K + k * NR, K * NR, M, K - k < k_block<T> ? K - k : k_block<T>,
                  N - j < group ? N - j : group, add || k);
}

}  // namespace TR_ISA
}  // namespace tr
