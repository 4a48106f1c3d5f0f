// What the tape needs from C: the recording mode of each thread, whether its sweep frees the graph, and a fingerprint
// of an array's bytes.
#ifndef TR_RECORD_H
#define TR_RECORD_H

#include <cstddef>
#include <cstdint>
#include <cstring>

static thread_local int tr_mode = 1;
static thread_local int tr_frees = 0;

// Four independent multiply-xorshift lanes over 8-byte words: several GB/s, and every bit of the input counts. It
// guards against accidents, not against an adversary.
static inline uint64_t tr_fingerprint(const void *bytes, ptrdiff_t n) noexcept {
    const uint64_t odd = 0x9E3779B97F4A7C15u;
    uint64_t lane[4] = {odd, odd << 1, odd << 2, (uint64_t)n};
    const unsigned char *at = static_cast<const unsigned char *>(bytes);
    for (; n > 0; n -= 32, at += 32) {
        uint64_t word[4] = {0, 0, 0, 0};
        memcpy(word, at, n < 32 ? n : 32);
        for (int k = 0; k < 4; ++k) {
            lane[k] = (lane[k] ^ word[k]) * odd;
            lane[k] ^= lane[k] >> 29;
        }
    }
    uint64_t hash = 0;
    for (int k = 0; k < 4; ++k) hash = (hash ^ lane[k]) * odd;
    return hash ^ (hash >> 32);
}

#endif
