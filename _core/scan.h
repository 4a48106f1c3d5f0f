// The time loop: a program of a few instructions, run over all steps of one shard of the batch. No Python, no lock, no
// allocation inside.
#ifndef TR_SCAN_H
#define TR_SCAN_H

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "gemm.h"
#include "kernels.h"
#include "program.h"

namespace tr {
namespace TR_ISA {

inline ptrdiff_t first_level_cache() {
#ifdef _SC_LEVEL1_DCACHE_SIZE
    const long bytes = sysconf(_SC_LEVEL1_DCACHE_SIZE);
    if (bytes > 0) return bytes;
#endif
    return 32768;
}

// A group of instructions between two products runs over this many rows at a time, so that its tiles stay near from one
// instruction to the next. Twice what the first-level cache holds: the second level costs less than more, shorter calls.
template <class T> ptrdiff_t block_rows(const Loop<T> &loop) {
    ptrdiff_t row = 1;
    for (ptrdiff_t k = 0; k < loop.n_buffers; ++k)
        if (loop.buffers[k].place == TILE) row += loop.buffers[k].ld * ptrdiff_t(sizeof(T));
    static const ptrdiff_t cache = first_level_cache() * 2;
    return row >= cache ? 1 : cache / row < 64 ? cache / row : 64;
}

// place(k, n) for each buffer k of a shard's own, where it lies in them; returns how many elements they take. Those of a
// page and more begin at pages (program.h); the others lie close together, as what begins at pages competes for a few
// places of the cache.
template <class T, class Place>
ptrdiff_t own_buffers(const Loop<T> &loop, ptrdiff_t rows, ptrdiff_t block, const Place &place) {
    ptrdiff_t end = 0;
    for (const bool large : {true, false})
        for (ptrdiff_t k = 0; k < loop.n_buffers; ++k) {
            const Buffer<T> &buffer = loop.buffers[k];
            if (buffer.place != SCRATCH && buffer.place != TILE) continue;
            const ptrdiff_t n = (buffer.place == TILE ? block : rows) * buffer.ld;
            if ((n * sizeof(T) >= page_bytes) != large) continue;
            place(k, end);
            end += in_units<T>(n, large ? page_bytes : 64);
        }
    return end;
}

// Elements of workspace that a shard of `rows` rows needs.
template <class T> ptrdiff_t scratch_size(const Loop<T> &loop, ptrdiff_t rows) {
    ptrdiff_t n = 0;
    for (const Instruction *i = loop.program; i < loop.program + loop.instructions; ++i)
        if (i->kind == PRODUCT) n = std::max(n, product_workspace<T>(rows, i->inner, loop.buffers[i->a].ld));
    return in_units<T>(n + own_buffers(loop, rows, block_rows(loop), [](ptrdiff_t, ptrdiff_t) {}), page_bytes);
}

template <class T> struct Operand {
    T *at;
    ptrdiff_t ld;
    T *row(ptrdiff_t r) const { return at + r * ld; }
};

// One instruction over rows r0..r1 of a step. `single`: r0 is the step's only row, and needs no strides.
template <bool single, class T, class Table>
inline void step_rows(const Loop<T> &loop, const Table &table, const Instruction &i, T *const *at, ptrdiff_t r0,
                      ptrdiff_t r1) {
    const auto operand = [&](int32_t buffer, int32_t column) {
        const Buffer<T> &b = loop.buffers[buffer];
        return Operand<T>{at[buffer] + column - (!single && b.place == TILE ? r0 * b.ld : 0), single ? 0 : b.ld};
    };
    const Operand<T> dst = operand(i.dst, i.dst_at), a = operand(i.a, i.a_at);
    const ptrdiff_t width = i.width;
    switch (i.kind) {
    case MAP: {
        const Operand<T> b = operand(i.b, i.b_at), c = operand(i.c, i.c_at);
        if (i.pair) {
            const Operand<T> d = operand(i.d, i.d_at);
            const T *const in[] = {a.row(r0), b.row(r0), c.row(r0), d.row(r0)};
            const ptrdiff_t lds[] = {a.ld, b.ld, c.ld, d.ld};
            table.pairs[i.pair - 1](dst.row(r0), dst.ld, in, lds, r1 - r0, width);
            break;
        }
        // Rows without gaps are one stretch. (Operands beyond the arity repeat the first one.)
        if (!i.spread && (single || (dst.ld == width && a.ld == width && b.ld == width && c.ld == width))) {
            table.map[i.code](dst.row(r0), a.row(r0), b.row(r0), c.row(r0), (r1 - r0) * width);
            break;
        }
        const T *const in[] = {a.row(r0), b.row(r0), c.row(r0)};
        const ptrdiff_t lds[] = {a.ld, b.ld, c.ld};
        // A column without gaps is a row that lies down, and what is one for all rows is spread along it.
        if (width == 1 && dst.ld == 1 && a.ld <= 1 && b.ld <= 1 && c.ld <= 1) {
            int spread = 0;
            for (int k = 0; k < tr_pointwise_ops[i.code].arity; ++k) spread |= (lds[k] == 0) << k;
            table.map_rows[i.code](dst.row(r0), 0, in, lds, spread, 1, r1 - r0);
            break;
        }
        table.map_rows[i.code](dst.row(r0), dst.ld, in, lds, i.spread, r1 - r0, width);
        break;
    }
    case COPY:
        for (ptrdiff_t r = r0; r < r1; ++r) memcpy(dst.row(r), a.row(r), width * sizeof(T));
        break;
    case SUM:
    case MAXIMUM: {
        const auto reduce = i.kind == MAXIMUM ? table.amax : i.code ? table.sum_squares : table.sum;
        const ptrdiff_t outer = width / i.inner;
        if (single || (dst.ld == width && a.ld == width * i.n)) {
            reduce(dst.row(r0), a.row(r0), (r1 - r0) * outer, i.n, i.inner, i.inner);
            break;
        }
        for (ptrdiff_t r = r0; r < r1; ++r) reduce(dst.row(r), a.row(r), outer, i.n, i.inner, i.inner);
        break;
    }
    case GATHER:
        for (ptrdiff_t r = r0; r < r1; ++r) {
            const int32_t *index = loop.index + i.index;
            T *to = dst.row(r);
            const T *from = a.row(r);
            for (ptrdiff_t j = 0; j < width; ++j) to[j] = from[index[j]];
        }
        break;
    case SCATTER_ADD:
        for (ptrdiff_t r = r0; r < r1; ++r) {
            const int32_t *index = loop.index + i.index;
            T *to = dst.row(r);
            const T *from = a.row(r);
            memset(to, 0, i.inner * sizeof(T));
            for (ptrdiff_t j = 0; j < width; ++j) to[index[j]] += from[j];
        }
        break;
    }
}

// All steps for the rows first..last of the batch.
template <class T, class Table>
void run_loop(const Loop<T> &loop, const Table &table, ptrdiff_t first, ptrdiff_t last, T **at, T *scratch) {
    const ptrdiff_t block = block_rows(loop);
    for (ptrdiff_t k = 0; k < loop.n_buffers; ++k)
        if (loop.buffers[k].place == VECTOR) at[k] = loop.buffers[k].base;
    const auto place = [=](ptrdiff_t k, ptrdiff_t n) { at[k] = scratch + n; };
    T *const aside = scratch + own_buffers(loop, last - first, block, place);
    Fetch<T> fetch;
    Ahead ahead;
    for (ptrdiff_t k = 0; k < loop.steps; ++k) {
        const ptrdiff_t s = step_number(loop, k);
        const ptrdiff_t rows = (loop.count[s] < last ? loop.count[s] : last) - first;
        if (rows <= 0) continue;
        for (ptrdiff_t m = 0; m < loop.n_moving; ++m) {
            const int32_t b = loop.moving[m];
            const Buffer<T> &buffer = loop.buffers[b];
            if (buffer.place == SEQUENCE)
                at[b] = buffer.base + (loop.offset[s] + first) * buffer.ld;
            else if (buffer.place == PARTIAL)
                at[b] = buffer.base + (s / sum_steps * loop.count[0] + first) * buffer.ld;
            else if (buffer.place == BEFORE || buffer.place == AFTER)
                at[b] = ((k + (buffer.place == AFTER)) % 2 ? buffer.other : buffer.base) + first * buffer.ld;
        }
        if (rows != fetch.planned()) fetch.plan(loop, rows);
        int p = 0;  // the product
        const Instruction *i = loop.program, *end = i + loop.instructions;
        while (i < end) {
            if (i->kind == PRODUCT) {
                fetch.of_product(ahead, loop, p++, k, first);
                product<T>(at[i->dst] + i->dst_at, loop.buffers[i->dst].ld, at[i->a] + i->a_at, loop.buffers[i->a].ld,
                           loop.weights[i->code], rows, i->inner, i->width, i->add & ONTO,
                           i->add & BIAS ? at[i->b] + i->b_at : nullptr, aside, ahead);
                ++i;
                continue;
            }
            const Instruction *stop = i;
            while (stop < end && stop->kind != PRODUCT) ++stop;
            if (rows == 1)
                for (const Instruction *j = i; j < stop; ++j) step_rows<true>(loop, table, *j, at, 0, 1);
            else
                for (ptrdiff_t r = 0; r < rows; r += block)
                    for (const Instruction *j = i; j < stop; ++j)
                        step_rows<false>(loop, table, *j, at, r, r + block < rows ? r + block : rows);
            i = stop;
        }
    }
}

}  // namespace TR_ISA
}  // namespace tr
#endif
