// Matrix products, C (M,N) [+]= A (M,K) B (K,N), for float and double, compiled once an instruction set (TR_ISA).
//
//   packed_size, pack_b   B becomes column panels, once a sequence
//   product               A's rows as they lie, packed B: the recurrent product, small M
//   workspace_size, gemm  any strides (so transposes), a side packed block by block where it can not be read as it lies:
//                         the large products
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

#include "fetch.h"
#include "program.h"
#include "vectors.h"

namespace tr {
namespace TR_ISA {
namespace product_detail {

using index = std::ptrdiff_t;

// A tile of C is tile_rows x (tile_vectors vectors). It lives in registers together with one row of a panel of B and
// one broadcast element of A: 28+2+1 of 32 registers, 12+2+1 of 16.
#if defined(__AVX512F__)
constexpr int tile_rows = 14, tile_vectors = 2;
#elif defined(__aarch64__)
constexpr int tile_rows = 8, tile_vectors = 2;
#else
constexpr int tile_rows = 6, tile_vectors = 2;
#endif

template <class T>
constexpr int panel_width = tile_vectors * vector_bytes / int(sizeof(T));

// A panel's block of k_block rows (with AVX-512 128 KiB, in double 64) stays in the second-level cache while all rows of
// A pass; from there it streams, fetched `ahead` rows before use. The first rows of A find it further away: it is
// brought to the second level `far_ahead` rows before (measured on Zen 5: weights of several MiB 4-6 % faster). Longer
// blocks are faster (256 to 1024 gain 3-5 %), as each tile pays once a block for its start and its stores; shorter ones
// would lose fewer bits.
template <class T>
constexpr index k_block = sum_bytes / sizeof(T);
constexpr index ahead = 16, far_ahead = 128;

// gemm: so many rows of A stay in the second-level cache, so many columns of B in the third.
constexpr index row_block = 96 / tile_rows * tile_rows, column_block = 2048;

// A tile of rows passes several panels before the next one does, as many as leave room in the second-level cache: one
// alone is 2-4 % slower, and up to 10 % where C goes to memory; more than 8 of them gain nothing.
template <class T>
constexpr index panels_together(index K) {
    const index panel = K * panel_width<T> * index(sizeof(T)), room = index(1) << 19;
    return 8 * panel <= room ? 8 : room / panel;
}

// Rows of B in one turn of the loop of a tile of so many panels. A tile begins and ends as fast as instructions can
// start, so fewer of them are time: pointers move once a turn, and what is not needed for every row is left out. (With
// several panels, or with SSE2, two rows take more registers than there are.)
constexpr index turn(int panels) { return panels == 1 && vector_bytes > 16 ? 2 : 1; }

constexpr index least(index a, index b) { return a < b ? a : b; }
constexpr size_t line_bytes = 64;

// sum[R][V] += one column of A, whose element r is left_of(r), times one row of P panels of B.
template <class T, int R, int P, class Column>
inline __attribute__((always_inline)) void rank_one(vector<T> (&sum)[R][P * tile_vectors], const Column &left_of,
                                                    const T *b, index stride) {
    constexpr int V = P * tile_vectors, W = panel_width<T> / tile_vectors;
    const auto right_of = [&](int v) { return load(b + v / tile_vectors * stride + v % tile_vectors * W); };
    if constexpr (V <= R) {  // hold the fewer in registers, stream the others
        vector<T> right[V];
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) right[v] = right_of(v);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const vector<T> left = left_of(r) - vector<T>{};
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) sum[r][v] = mad(left, right[v], sum[r][v]);
        }
    } else {
        vector<T> left[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) left[r] = left_of(r) - vector<T>{};
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            const vector<T> right = right_of(v);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) sum[r][v] = mad(left[r], right, sum[r][v]);
        }
    }
}

// How the left side of a product lies: elements from row to row, and from column to column. A tile reads it as it lies
// if one of these is 1; but rows a multiple of a page apart would drive each other out of the sets of the first-level
// cache that they share (measured: a sixth of the speed), and so would columns far apart (a quarter and more). So such a
// side is copied, as are those without a 1; columns stay columns, but close together.
struct Left {
    index rs, cs;
    template <class T>
    bool is_copied(index rows) const {
        if (rs == 1) return cs * index(sizeof(T)) >= 1024;
        return cs != 1 || (rows > 4 && rs * index(sizeof(T)) % 4096 == 0);
    }
};

// R rows of A, as a tile goes along them from column to column. They are reached from every third one by scaled
// addressing: 14 pointers would not fit the integer registers.
template <class T, int R>
struct AlongRows {
    const char *third[(R + 2) / 3];
    index step;  // bytes from row to row
    AlongRows(const T *a, Left left) : step(left.rs * index(sizeof(T))) {
#pragma GCC unroll 16
        for (int i = 0; i < (R + 2) / 3; ++i) third[i] = reinterpret_cast<const char *>(a + 3 * i * left.rs);
    }
    T at(int row, index bytes) const { return *reinterpret_cast<const T *>(third[row / 3] + row % 3 * step + bytes); }
    void fetch(index) const {}
    void move(index bytes) {
#pragma GCC unroll 16
        for (int i = 0; i < (R + 2) / 3; ++i) {
            third[i] += bytes;
            asm("" : "+r"(third[i]));  // or the compiler keeps a pointer a row, half of them in memory
        }
    }
};

// The same of rows that lie side by side: a column takes one or two lines.
template <class T, int R>
struct AlongColumns {
    const char *column;
    explicit AlongColumns(const T *a) : column(reinterpret_cast<const char *>(a)) {}
    T at(int row, index bytes) const { return *reinterpret_cast<const T *>(column + bytes + row * sizeof(T)); }
    void fetch(index bytes) const {
        __builtin_prefetch(column + bytes);
        __builtin_prefetch(column + bytes + (R - 1) * sizeof(T));
    }
    void move(index bytes) {
        column += bytes;
        asm("" : "+r"(column));
    }
};

// What a product is added to: what C has, if `add`, and then a row `bias` that all rows meet, if there is one.
template <class T>
struct Onto {
    bool add;
    const T *bias;
    Onto at(index columns) const { return {add, bias ? bias + columns : nullptr}; }
};

// sum += A[R rows, K] B[K, P panels], whole panels, `rows` rows of B a turn; what is left of K is for another call.
// From column to column of A it is `on` bytes; from panel to panel of B `stride` elements, from row to row `along`.
// `far`: B is to be brought to the second-level cache. With each turn it fetches a line for later, `pace` bytes apart.
template <int rows, bool far, int P, class T, int R, class Side>
inline __attribute__((always_inline)) void turns(vector<T> (&sum)[R][P * tile_vectors], Side &left, index on,
                                                 const T *&b, index stride, index along, index &K, const char *&later,
                                                 index pace) {
    constexpr int V = P * tile_vectors, W = panel_width<T> / tile_vectors;
    const T *soon = b + ahead * along;
    for (; K >= rows; K -= rows, b += rows * along) {
#pragma GCC unroll 16
        for (int k = 0; k < rows; ++k) {
#pragma GCC unroll 16
            for (int v = 0; v < V; v += 64 / vector_bytes) {  // a line each
                const T *line = soon + v / tile_vectors * stride + v % tile_vectors * W + k * along;
                __builtin_prefetch(line);
                if constexpr (far) __builtin_prefetch(line + (far_ahead - ahead) * along, 0, 2);
            }
            left.fetch((k + 2 * ahead) * on);
            rank_one<T, R, P>(sum, [&](int r) { return left.at(r, k * on); }, b + k * along, stride);
        }
        __builtin_prefetch(later, 0, 2);
        later += pace;
        asm("" : "+r"(later));
        soon += rows * along;
        asm("" : "+r"(soon));  // or the compiler keeps a pointer a line
        left.move(rows * on);
    }
}

// C[R rows, P panels] [+]= A[R rows, K] B[K, P panels] [+ bias], K <= k_block, whole panels; the rest as `turns` has it.
template <class T, int R, int P>
inline __attribute__((always_inline)) void tile(T *c, index ldc, const T *a, Left left, const T *b, index stride,
                                                index K, Onto<T> onto, index along, bool far, const char *later,
                                                index pace) {
    constexpr int NR = panel_width<T>, W = NR / tile_vectors, V = P * tile_vectors;
    vector<T> sum[R][V] = {};
    if (onto.add)  // what is added to comes from afar, and has the time of the whole loop to arrive
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < V; v += 64 / vector_bytes) __builtin_prefetch(c + r * ldc + v * W, 1);
    const index on = left.cs * index(sizeof(T));
    if (left.rs == 1) {
        AlongColumns<T, R> side(a);
        turns<1, true, P>(sum, side, on, b, stride, along, K, later, pace);
    } else {
        AlongRows<T, R> side(a, left);
        if (along == NR && left.cs == 1) {
            if (far)
                turns<turn(P), true, P>(sum, side, sizeof(T), b, stride, NR, K, later, pace);
            else
                turns<turn(P), false, P>(sum, side, sizeof(T), b, stride, NR, K, later, pace);
        }
        turns<1, true, P>(sum, side, on, b, stride, along, K, later, pace);
    }
    // All loads before all stores: a load waits for a store to another line at the same place of its page.
    if (onto.add)
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < V; ++v) sum[r][v] = load(c + r * ldc + v * W) + sum[r][v];
    if (onto.bias)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) {
            const vector<T> bias = load(onto.bias + v * W);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) sum[r][v] += bias;
        }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) store(c + r * ldc + v * W, sum[r][v]);
}

// Panels that so many rows take at once: a fused multiply-add takes 4 cycles and two start in each, so fewer than 8
// sums under way would wait for one another.
constexpr int panels_at_once(int rows) {
    int panels = 1;
    while (rows * tile_vectors * panels < 8 && rows * panels * 2 <= tile_rows) panels *= 2;
    return panels;
}

// `tile` over several whole panels: P at a time, then P/2, ..
template <class T, int R, int P = panels_at_once(R)>
void strip(T *c, index ldc, const T *a, Left left, const T *b, index stride, index K, index panels, Onto<T> onto,
           index along, bool far, Ahead &ahead) {
    for (; panels >= P; panels -= P, c += P * panel_width<T>, b += P * stride, onto = onto.at(P * panel_width<T>)) {
        const index pace = ahead.pace;
        tile<T, R, P>(c, ldc, a, left, b, stride, K, onto, along, far, ahead.take(K / turn(P)), pace);
    }
    if constexpr (P > 1)
        if (panels) strip<T, R, P / 2>(c, ldc, a, left, b, stride, K, panels, onto, along, far, ahead);
}

template <class T>
using Strip = void (*)(T *, index, const T *, Left, const T *, index, index, index, Onto<T>, index, bool, Ahead &);
template <class T, int... R>
inline Strip<T> strip_of(int rows, std::integer_sequence<int, R...>) {
    static constexpr Strip<T> table[] = {strip<T, R + 1>...};
    return table[rows - 1];
}

// M rows cut into as few tiles as hold them, of equal height: `taller` of them have one row more than `each`.
struct Rows {
    index tiles, each, taller;
    explicit Rows(index M)  // one tile, as a step of few rows has, is not worth a division
        : tiles((M + tile_rows - 1) / tile_rows), each(tiles == 1 ? M : M / tiles), taller(M - tiles * each) {}
};

// C[M, panels] [+]= A[M, K] B[K, panels] [+ bias], K <= k_block; `width` counts the columns of C, the last panel may be
// partial.
template <class T>
inline void block(T *c, index ldc, const T *a, Left left, const T *b, index stride, Rows M, index K, index width,
                  Onto<T> onto, index along, Ahead &ahead) {
    constexpr index NR = panel_width<T>;
    const index whole = width / NR, rest = width % NR;
    for (index i = 0; i < M.tiles; ++i) {
        const index R = M.each + (i < M.taller);
        const Strip<T> run = strip_of<T>(int(R), std::make_integer_sequence<int, tile_rows>());
        const bool far = i == 0 || K > k_block<T> / 2;  // the others find it there, if it is not much
        if (whole) run(c, ldc, a, left, b, stride, K, whole, onto, along, far, ahead);
        if (rest) {  // through a whole tile aside, so that no store leaves C
            T aside[tile_rows * NR], bias[NR] = {};
            if (onto.bias) std::memcpy(bias, onto.bias + whole * NR, rest * sizeof(T));
            if (onto.add)
                for (index r = 0; r < R; ++r) std::memcpy(aside + r * NR, c + r * ldc + whole * NR, rest * sizeof(T));
            run(aside, NR, a, left, b + whole * stride, stride, K, 1, {onto.add, onto.bias ? bias : nullptr}, along,
                far, ahead);
            for (index r = 0; r < R; ++r) std::memcpy(c + r * ldc + whole * NR, aside + r * NR, rest * sizeof(T));
        }
        c += R * ldc;
        a += R * left.rs;
    }
}

// C [+]= 0 [+ bias]: a product over no columns of A.
template <class T>
inline void empty_product(T *c, index ldc, index M, index N, Onto<T> onto) {
    for (index i = 0; i < M; ++i)
        for (index j = 0; j < N; ++j) {
            T &x = c[i * ldc + j];
            x = (onto.add ? x : 0) + (onto.bias ? onto.bias[j] : 0);
        }
}

// out (4, 4) = in (4, 4) transposed.
template <class T>
inline void transpose4(T *out, index ldo, const T *in, index ldi) {
    typedef T quad __attribute__((vector_size(4 * sizeof(T))));
    quad a, b, c, d;
    std::memcpy(&a, in, sizeof a);
    std::memcpy(&b, in + ldi, sizeof a);
    std::memcpy(&c, in + 2 * ldi, sizeof a);
    std::memcpy(&d, in + 3 * ldi, sizeof a);
    // Two rounds of interleaving.
    const quad ac = __builtin_shufflevector(a, c, 0, 4, 1, 5), ca = __builtin_shufflevector(a, c, 2, 6, 3, 7),
               bd = __builtin_shufflevector(b, d, 0, 4, 1, 5), db = __builtin_shufflevector(b, d, 2, 6, 3, 7);
    a = __builtin_shufflevector(ac, bd, 0, 4, 1, 5);
    b = __builtin_shufflevector(ac, bd, 2, 6, 3, 7);
    c = __builtin_shufflevector(ca, db, 0, 4, 1, 5);
    d = __builtin_shufflevector(ca, db, 2, 6, 3, 7);
    std::memcpy(out, &a, sizeof a);
    std::memcpy(out + ldo, &b, sizeof a);
    std::memcpy(out + 2 * ldo, &c, sizeof a);
    std::memcpy(out + 3 * ldo, &d, sizeof a);
}

// out (m, n), rows ldo apart, = in, strides (rs, cs).
template <class T>
inline void copy(T *out, index ldo, const T *in, index rs, index cs, index m, index n) {
    if (cs == 1) {
        for (index i = 0; i < m; ++i) std::memcpy(out + i * ldo, in + i * rs, n * sizeof(T));
        return;
    }
    constexpr index S = 16;  // columns at a time, so that the lines read are used whole while they are near
    for (index j0 = 0; j0 < n; j0 += S) {
        const index j1 = least(n, j0 + S);
        index i = 0;
        if (rs == 1)
            for (; i + 4 <= m; i += 4) {
                index j = j0;
                for (; j + 4 <= j1; j += 4) transpose4(out + i * ldo + j, ldo, in + i + j * cs, cs);
                for (; j < j1; ++j)
                    for (index q = i; q < i + 4; ++q) out[q * ldo + j] = in[q + j * cs];
            }
        for (; i < m; ++i)
            for (index j = j0; j < j1; ++j) out[i * ldo + j] = in[i * rs + j * cs];
    }
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
    constexpr index NR = panel_width<T>, W = NR / tile_vectors;
    if (K <= 0) return;
    index j = 0;
    if (cs == 1)  // several panels at a time, so that longer pieces of a row are read
        for (index panels; (panels = least((N - j) / NR, 8)) > 0; j += panels * NR)
            for (index k = 0; k < K; ++k)
                for (index p = 0; p < panels; ++p)
                    for (index v = 0; v < NR; v += W)
                        store(packed + (j + p * NR) * K + k * NR + v, load(b + k * rs + j + p * NR + v));
    for (; j < N; j += NR) {
        T *const panel = packed + j * K;
        const index width = least(N - j, NR);
        if (width < NR) std::memset(panel, 0, K * NR * sizeof(T));
        copy(panel, NR, b + j * cs, rs, cs, K, width);
    }
}

// Elements of workspace that `product` needs.
template <class T>
inline std::ptrdiff_t product_workspace(std::ptrdiff_t M, std::ptrdiff_t K, std::ptrdiff_t lda) {
    constexpr std::ptrdiff_t line = 64 / std::ptrdiff_t(sizeof(T));  // between rows, so that none lie pages apart
    return product_detail::Left{lda, 1}.is_copied<T>(M) ? M * (K + line) : 0;
}

// C (M, N), rows ldc apart, = (add: +=) A (M, K), rows lda apart, times packed B; then += bias (N), unless it is null.
// C may not overlap A or B. `workspace`: product_workspace(M, K, lda) elements. `ahead` is fetched on the way.
template <class T>
inline void product(T *c, std::ptrdiff_t ldc, const T *a, std::ptrdiff_t lda, const T *packed, std::ptrdiff_t M,
                    std::ptrdiff_t K, std::ptrdiff_t N, bool add, const T *bias, T *workspace, Ahead &ahead) {
    using namespace product_detail;
    constexpr index NR = panel_width<T>;
    if (M <= 0 || N <= 0) return;
    if (K <= 0) return empty_product(c, ldc, M, N, Onto<T>{add, bias});
    if (const index size = product_workspace<T>(M, K, lda)) {
        copy(workspace, size / M, a, lda, 1, M, K);
        a = workspace;
        lda = size / M;
    }
    // A few panels at a time, so that B, the larger side, streams through once. One tile of rows takes all in one call.
    const Rows rows(M);
    const index group = rows.tiles == 1 && K <= k_block<T> ? N : NR * panels_together<T>(least(K, k_block<T>));
    if (!ahead.is_empty()) {
        const int panels = panels_at_once(int(rows.each));
        ahead.start((N + NR - 1) / NR * rows.tiles * K / (panels * turn(panels)) + 1);
    }
    for (index j = 0; j < N; j += group)
        for (index k = 0; k < K; k += k_block<T>)
            block(c + j, ldc, a + k, {lda, 1}, packed + j * K + k * NR, K * NR, rows, least(K - k, k_block<T>),
                  least(N - j, group), Onto<T>{add || k, K - k > k_block<T> ? nullptr : bias}.at(j), NR, ahead);
    ahead.finish();
}

// Elements of workspace that `gemm` needs.
template <class T>
inline std::ptrdiff_t workspace_size(std::ptrdiff_t M, std::ptrdiff_t N, std::ptrdiff_t K) {
    using namespace product_detail;
    K = least(K, k_block<T>);
    return packed_size<T>(K, least(N, column_block)) + in_units<T>(least(M, row_block), line_bytes) * K;
}

// C (M, N), rows ldc apart, = (add: +=) A (M, K) B (K, N), A and B with strides (row, column) in elements, for each of
// `n_sides` pairs of A and C: what of B has to be packed is packed once for all. `workspace`: workspace_size(largest M,
// N, K) elements, best at a multiple of 64 bytes. C may not overlap A or B.
template <class T, class Side>
inline void gemm(const Side *sides, std::ptrdiff_t n_sides, std::ptrdiff_t ldc, const T *b, std::ptrdiff_t b_rs,
                 std::ptrdiff_t b_cs, std::ptrdiff_t N, std::ptrdiff_t K, bool add, T *workspace) {
    using namespace product_detail;
    constexpr index NR = panel_width<T>;
    if (N <= 0) return;
    Ahead nothing;
    if (K <= 0) {
        for (const Side *s = sides; s != sides + n_sides; ++s) empty_product(s->c, ldc, s->M, N, Onto<T>{add, nullptr});
        return;
    }
    for (index j0 = 0; j0 < N; j0 += column_block)
        for (index k0 = 0; k0 < K; k0 += k_block<T>) {
            const index n = least(N - j0, column_block), k = least(K - k0, k_block<T>);
            const T *right = b + k0 * b_rs + j0 * b_cs;
            // Whole panels whose rows lie close together are read as they lie.
            const bool packs = b_cs != 1 || n % NR || b_rs < n || b_rs * index(sizeof(T)) > 1024;
            if (packs) {
                pack_b(workspace, right, b_rs, b_cs, k, n);
                right = workspace;
            }
            const index panel = packs ? k * NR : NR;
            for (const Side *s = sides; s != sides + n_sides; ++s) {
                const index blocks = (s->M + row_block - 1) / row_block;
                const index rows_each = blocks ? (s->M + blocks - 1) / blocks : 0;  // no small last one
                for (index i0 = 0; i0 < s->M; i0 += rows_each) {
                    const index m = least(s->M - i0, rows_each);
                    const T *left = s->a + i0 * s->rs + k0 * s->cs;
                    Left lies{s->rs, s->cs};
                    if (lies.is_copied<T>(m)) {
                        T *const aside = workspace + packed_size<T>(k, n);
                        if (lies.rs == 1) {
                            lies.cs = in_units<T>(m, line_bytes);
                            copy(aside, lies.cs, left, s->cs, 1, k, m);
                        } else {
                            lies = {k, 1};
                            copy(aside, k, left, s->rs, s->cs, m, k);
                        }
                        left = aside;
                    }
                    const Rows rows(m);
                    const index group = NR * panels_together<T>(k);
                    for (index j = 0; j < n; j += group)
                        block(s->c + i0 * ldc + j0 + j, ldc, left, lies, right + j / NR * panel, panel, rows, k,
                              least(n - j, group), Onto<T>{add || k0, nullptr}, packs ? NR : b_rs, nothing);
                }
            }
        }
}

}  // namespace TR_ISA
}  // namespace tr
