// Memory of large arrays, used again: the pages that a system hands out fresh must be cleared and mapped first, which
// costs as much as a tenth of a training step. Guarded by Python's lock, as the arrays are.
#ifndef TR_POOL_H
#define TR_POOL_H

#include <cstdlib>
#include <map>

#include "program.h"

namespace tr {

class Pool {
    static constexpr size_t limit = size_t(1) << 29;  // bytes that may wait for use
    std::multimap<size_t, void *> free_;
    size_t waiting_ = 0;

  public:
    // Memory of at least `size` bytes, whole pages; `size` becomes what it really has. Null if there is none.
    void *take(size_t &size) {
        const auto found = free_.lower_bound(size);
        if (found != free_.end() && found->first <= size + size / 4) {
            void *memory = found->second;
            size = found->first;
            waiting_ -= size;
            free_.erase(found);
            return memory;
        }
        size = whole_pages(size);
        return std::aligned_alloc(page_bytes, size);
    }
    void give(void *memory, size_t size) {
        if (size > limit) return std::free(memory);
        while (waiting_ + size > limit) {  // the largest go first
            const auto largest = std::prev(free_.end());
            waiting_ -= largest->first;
            std::free(largest->second);
            free_.erase(largest);
        }
        free_.emplace(size, memory);
        waiting_ += size;
    }
};

inline Pool &pool() {
    static Pool *const only = new Pool;  // never destroyed: arrays may outlive the module
    return *only;
}

}  // namespace tr
#endif
