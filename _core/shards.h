// What is shared among threads: the time loop's take a shard of the batch's rows for the whole sequence, a large
// product's take a share of its rows or columns, passes over memory go by pieces. They meet once, at the end. Rows,
// columns and pieces do not depend on one another, so the result does not depend on the cut.
#ifndef TR_SHARDS_H
#define TR_SHARDS_H

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "crew.h"
#include "program.h"

namespace tr {

// Memory of the calling thread, kept from call to call: fresh pages cost more than small products. Whole pages.
inline void *arena(size_t bytes) {
    struct Arena {
        void *memory = nullptr;
        size_t size = 0;
        ~Arena() { std::free(memory); }
    };
    static thread_local Arena own;
    if (bytes > own.size) {
        std::free(own.memory);
        own.size = whole_pages(bytes + bytes / 4);
        own.memory = std::aligned_alloc(page_bytes, own.size);
        if (!own.memory) {
            own.size = 0;
            throw std::bad_alloc();
        }
    }
    return own.memory;
}

// piece(context, k) for k in 0 .. n - 1, by `threads` threads that take one after the other: for passes over memory,
// whose pieces do not depend on one another.
inline void share(ptrdiff_t n, ptrdiff_t threads, void (*piece)(const void *context, ptrdiff_t k),
                  const void *context) {
    std::atomic<ptrdiff_t> next{0};
    in_parallel(std::min(n, threads), [&](ptrdiff_t) {
        for (ptrdiff_t k; (k = next.fetch_add(1)) < n;) piece(context, k);
    });
}

template <class T> using RunLoop = void (*)(const void *loop, ptrdiff_t first, ptrdiff_t last, T **at, T *scratch);

// cuts[k]..cuts[k+1] are the rows of shard k. `at` and `scratch` hold a part for each shard.
template <class T>
void run_shards(RunLoop<T> run, const Loop<T> *loop, const ptrdiff_t *cuts, ptrdiff_t shards, T **at, T *scratch,
                ptrdiff_t scratch_each) {
    in_parallel(shards, [=](ptrdiff_t k) {
        run(loop, cuts[k], cuts[k + 1], at + k * loop->n_buffers, scratch + k * scratch_each);
    });
}

// Sides that share a product's packing, at most.
constexpr ptrdiff_t MOST_SIDES = 8;

template <class T, class Side>
using Gemm = void (*)(const Side *sides, ptrdiff_t n_sides, ptrdiff_t ldc, const T *b, ptrdiff_t b_rs, ptrdiff_t b_cs,
                      ptrdiff_t N, ptrdiff_t K, bool add, T *workspace);

// C = A B, or C += A B if `add`, of each side, as `gemm` (gemm.h) computes it, by up to `threads` threads where that is
// large enough to pay.
template <class T, class Side>
void shared_gemm(Gemm<T, Side> gemm, ptrdiff_t (*workspace_size)(ptrdiff_t, ptrdiff_t, ptrdiff_t), const Side *sides,
                 ptrdiff_t n_sides, const T *b, ptrdiff_t b_rs, ptrdiff_t b_cs, ptrdiff_t N, ptrdiff_t K, bool add,
                 ptrdiff_t threads) {
    constexpr double worth = 4e6;  // multiply-adds a thread: some 50 us, against 10 to start it
    ptrdiff_t M = 0, rows = 0;
    for (ptrdiff_t i = 0; i < n_sides; ++i) M = std::max(M, sides[i].M), rows += sides[i].M;
    const bool by_rows = n_sides == 1 && M > N;
    const ptrdiff_t length = by_rows ? M : N, grain = by_rows ? 48 : 32;  // whole tiles
    threads = std::min<ptrdiff_t>({threads, ptrdiff_t(double(rows) * N * K / worth), (length + grain - 1) / grain});
    if (threads <= 1) {
        gemm(sides, n_sides, N, b, b_rs, b_cs, N, K, add,
             static_cast<T *>(arena(workspace_size(M, N, K) * sizeof(T))));
        return;
    }
    const ptrdiff_t each = ((length + threads - 1) / threads + grain - 1) / grain * grain;
    const ptrdiff_t space = (workspace_size(by_rows ? each : M, by_rows ? N : each, K) + 15) / 16 * 16;
    T *workspace = static_cast<T *>(arena(threads * space * sizeof(T)));
    in_parallel(threads, [=](ptrdiff_t k) {
        const ptrdiff_t first = k * each, n = std::min(each, length - first);
        if (n <= 0) return;
        if (by_rows) {
            const Side part = {sides->c + first * N, sides->a + first * sides->rs, n, sides->rs, sides->cs};
            gemm(&part, 1, N, b, b_rs, b_cs, N, K, add, workspace + k * space);
        } else {
            Side parts[MOST_SIDES];
            for (ptrdiff_t i = 0; i < n_sides; ++i) {
                parts[i] = sides[i];
                parts[i].c += first;
            }
            gemm(parts, n_sides, N, b + first * b_cs, b_rs, b_cs, n, K, add, workspace + k * space);
        }
    });
}

}  // namespace tr
#endif
