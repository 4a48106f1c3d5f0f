// What a time loop fetches ahead: the sequences that its steps read and write, which come from memory.
//
// In the order in which steps use them they are one stream of lines, and the products fetch it: each a part as large as
// its part of a step's work, a line every few turns of its tiles' loops, between loads of which a product has few. What a
// group of instructions touches shall be there when the product before it ends, and what a product reads when the one
// before it does; the stream runs ahead of that by the least that is enough, mostly into the next step. Of what one group
// touches it has as much as the second-level cache can hold beside the weights; the rest comes when it is asked for.
//
// Measured on Zen 5: fetched in one go between tiles a line costs two cycles, fetched so it costs nothing. A loop takes as
// long where its sequences are in no cache as where all are near: at H = 128 that is 6 to 13 % less for forward passes,
// 3 to 8 % for training steps.
#ifndef TR_FETCH_H
#define TR_FETCH_H

#include <algorithm>

#include "program.h"

namespace tr {
namespace TR_ISA {

// The part of the stream that falls to one product.
class Ahead {
    struct Piece {
        const char *at;
        ptrdiff_t bytes;
    };
    static constexpr int most = 48;
    Piece pieces[most];
    int n = 0, next = 0;
    ptrdiff_t left = 0;  // bytes of all pieces
    const char *at = nowhere(), *end = nowhere() + 1;

    // What is fetched where there is nothing to fetch.
    const char *nowhere() const { return reinterpret_cast<const char *>(&n); }

    void turn() {
        if (next < n) {
            at = pieces[next].at;
            end = at + pieces[next++].bytes;
        } else {
            at = nowhere();
            end = at + 1;
            pace = 0;
        }
    }

  public:
    ptrdiff_t pace = 0;  // bytes from turn to turn

    Ahead() = default;
    Ahead(const Ahead &) = delete;

    void add(const char *from, ptrdiff_t bytes) {
        if (n < most) pieces[n++] = {from, bytes}, left += bytes;
    }

    bool is_empty() const { return !left; }

    // So many turns will share what there is, a line each at most.
    void start(ptrdiff_t turns) {
        pace = std::min<ptrdiff_t>((left + turns - 1) / turns, 64);
        turn();
    }

    // From where on the next so many turns fetch. The last ones of a piece may get some lines beyond it.
    const char *take(ptrdiff_t turns) {
        const char *const here = at;
        at += turns * pace;
        if (at >= end) turn();
        return here;
    }

    // Fetches what is left of it, and is empty.
    void finish() {
        if (is_empty()) return;
        for (; pace; turn())
            for (; at < end; at += 64) {
                asm volatile("");  // GCC takes what does nothing but prefetch for pure, and leaves it out
                __builtin_prefetch(at, 0, 2);
            }
        n = next = 0;
        left = 0;
    }
};

// What each product of a program fetches.
template <class T> class Fetch {
    static constexpr ptrdiff_t line = 64, room = 1 << 18, least = 1 << 12;  // bytes
    static constexpr int most_uses = 32, most_products = 16;
    struct Use {            // of a sequence, the first one in a step
        const char *base;
        ptrdiff_t ld;       // bytes
        int behind;         // the product before it, or -1
        ptrdiff_t fetched;  // bytes of a step's rows that the stream has
    };
    struct Part {
        const char *base;   // of the sequence's first row, or as many bytes beyond it
        ptrdiff_t ld, bytes;
        int later;          // steps
    };
    Use uses[most_uses];
    Part parts[2 * (most_uses + most_products)];
    int n_uses = 0, n_parts = 0, products = 0, first_part[most_products + 1] = {};
    ptrdiff_t rows = 0;

    static const char *rows_at(const Loop<T> &loop, const Buffer<T> &buffer, ptrdiff_t k) {
        return reinterpret_cast<const char *>(buffer.base + loop.offset[step_number(loop, k)] * buffer.ld);
    }

    // Whether a step finds here what the step before found, or left, elsewhere.
    static bool is_near(const Loop<T> &loop, const Buffer<T> &buffer) {
        if (loop.steps < 2) return false;
        return std::any_of(loop.buffers, loop.buffers + loop.n_buffers, [&](const Buffer<T> &other) {
            return &other != &buffer && other.place == SEQUENCE && rows_at(loop, other, 0) == rows_at(loop, buffer, 1);
        });
    }

    void touch(const Loop<T> &loop, const Buffer<T> &buffer) {
        const char *const base = reinterpret_cast<const char *>(buffer.base);
        if (buffer.place != SEQUENCE || !buffer.ld || n_uses == most_uses || is_near(loop, buffer)) return;
        if (std::any_of(uses, uses + n_uses, [=](const Use &use) { return use.base == base; })) return;
        uses[n_uses++] = {base, buffer.ld * ptrdiff_t(sizeof(T)), products - 1, 0};
    }

    // `work`: of a step, when each product ends. Those beyond the most that there may be fetch nothing.
    void find_uses(const Loop<T> &loop, double *work) {
        double done = 0;
        for (const Instruction *i = loop.program; i < loop.program + loop.instructions; ++i) {
            for (const int32_t number : {i->dst, i->a, i->b, i->c, i->pair ? i->d : i->a}) touch(loop, loop.buffers[number]);
            if (i->kind != PRODUCT) continue;
            if (products == most_products) return;
            work[products++] = done += double(i->inner) * i->width;
        }
    }

    // Bytes that are touched behind product p and that the stream has.
    ptrdiff_t choose(int p) {
        ptrdiff_t row = 0, all = 0;
        for (const Use *use = uses; use < uses + n_uses; ++use) row += use->behind == p ? use->ld : 0;
        for (Use *use = uses; use < uses + n_uses; ++use)
            if (use->behind == p) all += use->fetched = std::min(rows, room / row) * use->ld;
        return all;
    }

    // The stream's part from..to, counted from the first use of the step at hand.
    void add_parts(ptrdiff_t from, ptrdiff_t to) {
        ptrdiff_t at = 0;
        for (int later = 0; later < 2; ++later)
            for (const Use *use = uses; use < uses + n_uses; at += use++->fetched) {
                const ptrdiff_t begin = std::max(from, at), end = std::min(to, at + use->fetched);
                if (begin < end) parts[n_parts++] = {use->base + (begin - at), use->ld, end - begin, later};
            }
    }

  public:
    // In steps of so many rows, until the next call.
    void plan(const Loop<T> &loop, ptrdiff_t of_rows) {
        rows = of_rows;
        n_uses = n_parts = products = 0;
        if (rows < 2) return;
        double work[most_products];
        find_uses(loop, work);
        ptrdiff_t due[most_products + 1], total = 0;
        for (int p = -1; p < products; ++p) due[p + 1] = total += choose(p);
        if (total < least || !products || !(work[products - 1] > 0)) products = 0;
        // How far the stream is when product p of a step ends, and by how much it has to run ahead.
        ptrdiff_t reached[most_products + 1] = {}, lead = due[0];
        for (int p = 0; p < products; ++p) {
            reached[p + 1] = in_units<char>(ptrdiff_t(double(total) * work[p] / work[products - 1]), line);
            lead = std::max(lead, due[p + 1] - reached[p + 1]);
        }
        for (int p = 0; p < products; ++p) {
            add_parts(reached[p] + lead, reached[p + 1] + lead);
            first_part[p + 1] = n_parts;
        }
    }

    ptrdiff_t planned() const { return rows; }

    // Into an empty `ahead` what product p of step k fetches, of the rows from `first`.
    void of_product(Ahead &ahead, const Loop<T> &loop, int p, ptrdiff_t k, ptrdiff_t first) const {
        if (p >= products) return;
        for (const Part *part = parts + first_part[p]; part < parts + first_part[p + 1]; ++part) {
            if (k + part->later >= loop.steps) break;
            const ptrdiff_t row = loop.offset[step_number(loop, k + part->later)] + first;
            ahead.add(part->base + row * part->ld, part->bytes);
        }
    }
};

}  // namespace TR_ISA
}  // namespace tr
#endif
