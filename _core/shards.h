// Threads for the time loop: each takes a shard of the batch's rows for the whole sequence, and they meet at the end.
// Rows do not depend on one another, so the result does not depend on the cut.
#ifndef TR_SHARDS_H
#define TR_SHARDS_H

#include <system_error>
#include <thread>
#include <vector>

#include "program.h"

namespace tr {

template <class T> using RunLoop = void (*)(const void *loop, ptrdiff_t first, ptrdiff_t last, T **at, T *scratch);

// cuts[k]..cuts[k+1] are the rows of shard k. `at` and `scratch` hold a part for each shard.
template <class T>
void run_shards(RunLoop<T> run, const Loop<T> *loop, const ptrdiff_t *cuts, ptrdiff_t shards, T **at, T *scratch,
                ptrdiff_t scratch_each) {
    std::vector<std::thread> threads;
    const auto one = [=](ptrdiff_t k) {
        run(loop, cuts[k], cuts[k + 1], at + k * loop->n_buffers, scratch + k * scratch_each);
    };
    for (ptrdiff_t k = 1; k < shards; ++k) {
        try {
            threads.emplace_back(one, k);
        } catch (const std::system_error &) {  // no more threads to be had: do it here
            one(k);
        }
    }
    one(0);
    for (std::thread &thread : threads) thread.join();
}

}  // namespace tr
#endif
