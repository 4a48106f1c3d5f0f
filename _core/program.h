// The program of a time loop, as the plan (tinyrnn/plan) writes it and scan.h runs it.
//
// A value of the step is a matrix: a row for each example that still runs, `width` columns. It lives in a buffer at a
// column offset, so that values which a product reads or writes together lie side by side. Step s of 0..steps-1 has
// count[s] rows; counts never grow, and rows are sorted so that those running are the first ones. A sequence holds its
// steps' rows one after another: step s begins at row offset[s].
#ifndef TR_PROGRAM_H
#define TR_PROGRAM_H

#include <cstddef>
#include <cstdint>

namespace tr {

// What a buffer's base points to, and so how a step finds its rows in it.
enum Place : int32_t {
    SCRATCH,   // rows of this step, of this shard; nothing survives the step
    TILE,      // rows of the block at hand: scratch of one group of instructions that are no products
    VECTOR,    // one row for all: a parameter or constant, already as wide as the values it meets
    SEQUENCE,  // (N, ld): a value of every step
    BEFORE,    // a state before the step: (batch, ld), one of a pair of buffers
    AFTER,     // the same state after the step: the other of the pair
    PARTIAL,   // sums over `sum_steps` steps each, for every row apart: (blocks of steps, count[0], ld)
};

// Sequences, and what is the loop's own, begin at pages. A processor takes a load for one of what was just stored 4096
// bytes away: a map whose result lies a few lines further in its page than an operand waits at every step, and takes up
// to six times as long (Zen 4; Intel calls it 4K aliasing). Side by side in their pages they do not meet.
constexpr size_t page_bytes = 4096;
constexpr size_t whole(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }
constexpr size_t whole_pages(size_t bytes) { return whole(bytes, page_bytes); }

// n elements, in whole units of so many bytes.
template <class T> constexpr ptrdiff_t in_units(ptrdiff_t n, size_t unit) {
    return ptrdiff_t(whole(n * sizeof(T), unit) / sizeof(T));
}

// So many terms of a sum over steps are added in the loop's own precision; whoever reads the partial sums adds them up.
constexpr ptrdiff_t sum_steps = 16;

// So many bytes of a row a product multiplies and adds up before it stores or adds to what is there. Plans know it: one
// of several such blocks would round otherwise where it adds itself to a value than where it is added.
constexpr ptrdiff_t sum_bytes = 4096;

enum Kind : int32_t { MAP, PRODUCT, COPY, SUM, MAXIMUM, GATHER, SCATTER_ADD };
enum Add : int32_t { ONTO = 1, BIAS = 2 };

// dst = op(a, b, c, d), each at a buffer and a column.
//   MAP          the elementwise op `code` over `width` columns; bit k of `spread`: its operand k is one column, for all
//                pair > 0: the ops number pair - 1 of pairs.h instead, of a, b, c, d as far as they have operands
//   PRODUCT      dst (width columns) = a (inner columns) @ weight `code`; `add`: ONTO adds it to dst, BIAS then the row b
//   COPY         dst = a
//   SUM, MAXIMUM dst = reduction over the middle axis of a row seen as (outer, n, inner); width = outer * inner
//                SUM of the squares if `code`, where inner is 1
//   GATHER       dst[j] = a[index[j]], j < width;  SCATTER_ADD  dst[0..inner) = 0, then dst[index[j]] += a[j]
struct Instruction {
    int32_t kind, code, width, inner, n, add, index, spread;
    int32_t dst, dst_at, a, a_at, b, b_at, c, c_at, d, d_at, pair;
};

template <class T> struct Buffer {
    T *base;        // SCRATCH and TILE: unused, taken from the shard's workspace
    T *other;       // BEFORE and AFTER: the pair's second buffer
    ptrdiff_t ld;   // columns from row to row; 0 for a VECTOR
    int64_t place;
};

template <class T> struct Loop {
    const Instruction *program;
    ptrdiff_t instructions;
    const Buffer<T> *buffers;
    ptrdiff_t n_buffers;
    const int32_t *moving;     // the buffers that are elsewhere at every step: sequences, pairs, partial sums
    ptrdiff_t n_moving;
    const T *const *weights;   // packed
    const int32_t *index;      // the columns of GATHER and SCATTER_ADD
    const int64_t *count, *offset;
    ptrdiff_t steps;
    int backwards;             // steps run from the last to the first
};

// The number in the sequence of the step that runs as the k-th.
template <class T> ptrdiff_t step_number(const Loop<T> &loop, ptrdiff_t k) {
    return loop.backwards ? loop.steps - 1 - k : k;
}

}  // namespace tr
#endif
