/* The CUDA execution model on the host: CUDA C++ text, compiled by a C++17 compiler with
 *
 *     c++ -std=c++17 -O1 -ffp-contract=off -D__CUDACC__ -DTR_HOST_SHIM -include cuda_host.h -shared -fPIC
 *
 * runs on the CPU. Every thread of a block is a fiber with a stack of its own, and one OS thread runs them in turns: a
 * fiber goes on until it waits at a barrier, in a warp's exchange or in tr_shim_pause(). So the blocks of a normal
 * launch run one after the other, those of a cooperative launch all at once, and a run has the same bits every time.
 * With TR_SHIM_RANDOM=seed in the environment the fiber to run is drawn at random, also at atomics and fences: what
 * lacks a barrier shows as a wrong result.
 *
 * What would hang a GPU, or be undefined there, ends the launch with a message: barriers that some threads never reach,
 * a spin that nothing ends, lanes of a warp that disagree, writes past the dynamic shared memory. Shared memory starts
 * as NaN, and so is what a lane gets from a lane that took no part.
 *
 * No check: races that no order of the fibers shows, weak memory order (all is sequentially consistent here),
 * registers, alignment of vector loads.
 */
#ifndef TR_CUDA_HOST_H
#define TR_CUDA_HOST_H

#include "fibers.h"

#include <math.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))

#define TR_SHIM_VECTORS(T, name, size2, size4)                                                     \
    struct __align__(size2) name##2 { T x, y; };                                                   \
    struct __align__(size4) name##4 { T x, y, z, w; };                                             \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                              \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
TR_SHIM_VECTORS(float, float, 8, 16)
TR_SHIM_VECTORS(int, int, 8, 16)
TR_SHIM_VECTORS(unsigned, uint, 8, 16)
TR_SHIM_VECTORS(double, double, 16, 16)
#undef TR_SHIM_VECTORS

namespace tr_shim {

/* ---- shuffles ---------------------------------------------------------------------------------------------------- */

template <class T> struct Slot { T in, out; unsigned source; };

/* Every lane gets `value` of the lane `source`. */
template <class T> static T shuffle(const char *name, unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles are for 4 or 8 bytes");
    Slot<T> slot = {value, value, source};
    exchange(name, mask, &slot, [](Thread *const *lanes) {
        for (int l = 0; l < WARP; l++) {
            if (!lanes[l]) continue;
            Slot<T> *mine = (Slot<T> *)lanes[l]->slot;
            const Thread *from = mine->source < WARP ? lanes[mine->source] : nullptr;
            if (from) mine->out = ((Slot<T> *)from->slot)->in;
            else memset(&mine->out, NAN_BYTE, sizeof(T));
        }
    });
    return slot.out;
}

/* The first and the last lane of the part of a warp, `width` lanes wide, that this lane is in. */
static unsigned first_of(int width) { return self->lane & ~(unsigned)(width - 1); }
static unsigned last_of(int width) { return first_of(width) + (unsigned)(width - 1); }

/* ---- the tensor cores: fragments as PTX documents them, sums in double and rounded once -------------------------- */

struct Product { float *d; const unsigned *a, *b; const float *c; };

static float bf16_value(unsigned bits) {
    bits <<= 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
static float tf32_value(unsigned bits) {
    bits &= 0xffffe000u;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* d = a b + c for a of 16 x K, b of K x 8. A 32-bit register holds K / 8 values of one row (of a) or column (of b):
 * registers 1 and 3 of a are 8 rows below 0 and 2, registers 2 and 3 of a and 1 of b are half of K further on. */
template <int K> static void multiply(Thread *const *lanes) {
    const int held = K / 8;
    const auto value = [](unsigned bits, int i) { return K == 8 ? tf32_value(bits) : bf16_value(bits >> 16 * i); };
    double a[16][K], b[K][8];
    for (int l = 0; l < WARP; l++) {
        const Product *p = (const Product *)lanes[l]->slot;
        for (int i = 0; i < held; i++) {
            const int group = l / 4, k = l % 4 * held + i;
            for (int r = 0; r < 4; r++) a[group + r % 2 * 8][k + r / 2 * (K / 2)] = value(p->a[r], i);
            for (int r = 0; r < 2; r++) b[k + r * (K / 2)][group] = value(p->b[r], i);
        }
    }
    for (int l = 0; l < WARP; l++) {
        const Product *p = (const Product *)lanes[l]->slot;
        float d[4];
        for (int i = 0; i < 4; i++) {
            double sum = p->c[i];
            for (int k = 0; k < K; k++) sum += a[l / 4 + i / 2 * 8][k] * b[k][l % 4 * 2 + i % 2];
            d[i] = (float)sum;
        }
        memcpy(p->d, d, sizeof d);
    }
}

template <int K> static void mma(const char *name, float *d, const unsigned *a, const unsigned *b, const float *c) {
    if (self->warp->live != 0xffffffffu) fail("mma.sync in a warp that is not whole");
    Product product = {d, a, b, c};
    exchange(name, 0xffffffffu, &product, multiply<K>);
}

/* ---- kernels as Python sees them --------------------------------------------------------------------------------- */

/* The types of the parameters, as NumPy abbreviates them: "*f4 i4"; a pointer to anything is "*?". */
template <class T> struct type_code { static void put(char *s) { strcat(s, "?"); } };
#define TR_SHIM_CODE(T, code) template <> struct type_code<T> { static void put(char *s) { strcat(s, code); } };
TR_SHIM_CODE(bool, "b1") TR_SHIM_CODE(char, "?") TR_SHIM_CODE(unsigned char, "?") TR_SHIM_CODE(signed char, "i1")
TR_SHIM_CODE(short, "i2") TR_SHIM_CODE(unsigned short, "u2") TR_SHIM_CODE(int, "i4") TR_SHIM_CODE(unsigned, "u4")
TR_SHIM_CODE(long, "i8") TR_SHIM_CODE(unsigned long, "u8") TR_SHIM_CODE(long long, "i8")
TR_SHIM_CODE(unsigned long long, "u8") TR_SHIM_CODE(float, "f4") TR_SHIM_CODE(double, "f8")
TR_SHIM_CODE(float2, "f4") TR_SHIM_CODE(float4, "f4") TR_SHIM_CODE(double2, "f8") TR_SHIM_CODE(int2, "i4")
TR_SHIM_CODE(int4, "i4") TR_SHIM_CODE(uint2, "u4") TR_SHIM_CODE(uint4, "u4")
#undef TR_SHIM_CODE
template <class T> struct type_code<const T> : type_code<T> {};
template <class T> struct type_code<volatile T> : type_code<T> {};
template <class T> struct type_code<const volatile T> : type_code<T> {};
template <class T> struct type_code<T *> { static void put(char *s) { strcat(s, "*"); type_code<T>::put(s); } };

template <class T> struct without_const { typedef T type; };
template <class T> struct without_const<const T> { typedef T type; };

template <unsigned... I> struct Places {};
template <unsigned N, unsigned... I> struct places_below : places_below<N - 1, N - 1, I...> {};
template <unsigned... I> struct places_below<0, I...> { typedef Places<I...> type; };

namespace {  // two libraries may have kernels of one name
template <auto kernel> struct Kernel;
template <class... A, void (*kernel)(A...)> struct Kernel<kernel> {
    template <unsigned... I> static void call_with(void **args, Places<I...>) {
        kernel(*(typename without_const<A>::type *)args[I]...);
    }
    static void call(void **args) { call_with(args, typename places_below<sizeof...(A)>::type()); }
    static const char *parameters() {
        static char text[16 * sizeof...(A) + 1];
        text[0] = 0;
        (void)((type_code<A>::put(text), strcat(text, " ")), ...);
        return text;
    }
};
}  // namespace

/* What a text's loader needs of the kernel `name`; the rest are its launch bounds, or 0. */
#define TR_SHIM_KERNEL(name, ...)                                                                            \
    extern "C" const char *tr_shim_parameters_##name() { return tr_shim::Kernel<name>::parameters(); }       \
    extern "C" unsigned tr_shim_bound_##name() { const unsigned bounds[] = {__VA_ARGS__}; return bounds[0]; } \
    extern "C" int tr_shim_launch_##name(void **args, const unsigned *s, unsigned shared, int cooperative,   \
                                         char *message, int room) {                                          \
        return tr_shim::launch({#name, tr_shim::Kernel<name>::call, args, {s[0], s[1], s[2]},                \
                                {s[3], s[4], s[5]}, shared, message, room}, cooperative);                    \
    }

}  // namespace tr_shim

/* ---- what device text calls -------------------------------------------------------------------------------------- */

#define threadIdx (tr_shim::self->index)
#define blockIdx (tr_shim::self->block->index)
#define blockDim (tr_shim::launched.block)
#define gridDim (tr_shim::launched.grid)
#define warpSize 32

static inline unsigned char *tr_shim_dynamic_shared() { return tr_shim::self->block->shared; }
static inline void tr_shim_pause() { tr_shim::pause(); }
static inline void __nanosleep(unsigned) { tr_shim::pause(); }

static inline void __syncthreads() { tr_shim::barrier("__syncthreads", 0); }
static inline int __syncthreads_count(int predicate) { return tr_shim::barrier("__syncthreads_count", predicate); }
static inline int __syncthreads_or(int predicate) { return tr_shim::barrier("__syncthreads_or", predicate) != 0; }
static inline int __syncthreads_and(int predicate) { return tr_shim::barrier("__syncthreads_and", !predicate) == 0; }

static inline void tr_shim_cluster_wait(unsigned blocks) { tr_shim::cluster_barrier(blocks); }
static inline void *tr_shim_cluster_map(void *p, unsigned rank, unsigned blocks) {
    return tr_shim::cluster_map(p, rank, blocks);
}

static inline void __threadfence() { tr_shim::maybe_leave(); }
static inline void __threadfence_block() { tr_shim::maybe_leave(); }

static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    tr_shim::exchange("__syncwarp", mask, nullptr, [](tr_shim::Thread *const *) {});
}
template <class T> static T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return tr_shim::shuffle("__shfl_sync", mask, value, tr_shim::first_of(width) + ((unsigned)source & (width - 1)));
}
/* A lane whose source lies outside its part of the warp gets its own value. */
template <class T> static T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned me = tr_shim::self->lane, first = tr_shim::first_of(width);
    return tr_shim::shuffle("__shfl_up_sync", mask, value, me - first < delta ? me : me - delta);
}
template <class T> static T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    const unsigned me = tr_shim::self->lane, last = tr_shim::last_of(width);
    return tr_shim::shuffle("__shfl_down_sync", mask, value, last - me < delta ? me : me + delta);
}
template <class T> static T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    const unsigned me = tr_shim::self->lane, source = me ^ (unsigned)lanes;
    return tr_shim::shuffle("__shfl_xor_sync", mask, value, source > tr_shim::last_of(width) ? me : source);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    tr_shim::Slot<unsigned> slot = {predicate != 0, 0, 0};
    tr_shim::exchange("__ballot_sync", mask, &slot, [](tr_shim::Thread *const *lanes) {
        unsigned votes = 0;
        for (int l = 0; l < 32; l++) if (lanes[l]) votes |= ((tr_shim::Slot<unsigned> *)lanes[l]->slot)->in << l;
        for (int l = 0; l < 32; l++) if (lanes[l]) ((tr_shim::Slot<unsigned> *)lanes[l]->slot)->out = votes;
    });
    return slot.out;
}
static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

/* An atomic that changes its value is progress: whoever spins may go on. */
#define TR_SHIM_ATOMIC(T, name, ...)                                                               \
    static inline T name(T *p, T value) {                                                          \
        tr_shim::maybe_leave();                                                                    \
        const T old = *(volatile T *)p, stored = __VA_ARGS__;                                      \
        *(volatile T *)p = stored;                                                                 \
        if (old != stored) tr_shim::pauses = 0;                                                    \
        return old;                                                                                \
    }
#define TR_SHIM_INTEGER_ATOMICS(T)                                                                 \
    TR_SHIM_ATOMIC(T, atomicAdd, old + value)                                                      \
    TR_SHIM_ATOMIC(T, atomicExch, value)                                                           \
    TR_SHIM_ATOMIC(T, atomicMax, old > value ? old : value)                                        \
    TR_SHIM_ATOMIC(T, atomicMin, old < value ? old : value)                                        \
    TR_SHIM_ATOMIC(T, atomicOr, old | value)                                                       \
    TR_SHIM_ATOMIC(T, atomicAnd, old & value)                                                      \
    static inline T atomicCAS(T *p, T expected, T value) {                                         \
        tr_shim::maybe_leave();                                                                    \
        const T old = *(volatile T *)p;                                                            \
        if (old == expected) *(volatile T *)p = value, tr_shim::pauses = 0;                        \
        return old;                                                                                \
    }
TR_SHIM_INTEGER_ATOMICS(int)
TR_SHIM_INTEGER_ATOMICS(unsigned)
TR_SHIM_INTEGER_ATOMICS(unsigned long long)
TR_SHIM_ATOMIC(float, atomicAdd, old + value)
TR_SHIM_ATOMIC(double, atomicAdd, old + value)
TR_SHIM_ATOMIC(float, atomicExch, value)
#undef TR_SHIM_INTEGER_ATOMICS
#undef TR_SHIM_ATOMIC

template <class T> static T __ldg(const T *p) { return *p; }
template <class T> static T __ldcg(const T *p) {
    asm volatile("" ::: "memory");  /* another thread may have written it: read it now */
    return *p;
}
template <class T> static T __ldcs(const T *p) { return *p; }
template <class T> static void __stcg(T *p, T value) { *(volatile T *)p = value; }
template <class T> static void __stcs(T *p, T value) { *p = value; }

template <class To, class From> static To tr_shim_bits(From a) {
    static_assert(sizeof(To) == sizeof(From), "the same number of bits");
    To b;
    memcpy(&b, &a, sizeof b);
    return b;
}
static inline unsigned __float_as_uint(float a) { return tr_shim_bits<unsigned>(a); }
static inline int __float_as_int(float a) { return tr_shim_bits<int>(a); }
static inline float __uint_as_float(unsigned a) { return tr_shim_bits<float>(a); }
static inline float __int_as_float(int a) { return tr_shim_bits<float>(a); }
static inline long long __double_as_longlong(double a) { return tr_shim_bits<long long>(a); }
static inline double __longlong_as_double(long long a) { return tr_shim_bits<double>(a); }

static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline float rsqrtf(float a) { return 1 / sqrtf(a); }
static inline int __popc(unsigned a) { return __builtin_popcount(a); }
static inline int __clz(int a) { return a ? __builtin_clz((unsigned)a) : 32; }
static inline int __ffs(int a) { return __builtin_ffs(a); }
template <class T> static T min(T a, T b) { return b < a ? b : a; }
template <class T> static T max(T a, T b) { return a < b ? b : a; }

/* mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 and mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 */
static inline void tr_shim_mma_bf16(float d[4], const unsigned a[4], const unsigned b[2], const float c[4]) {
    tr_shim::mma<16>("mma.sync (bf16)", d, a, b, c);
}
static inline void tr_shim_mma_tf32(float d[4], const unsigned a[4], const unsigned b[2], const float c[4]) {
    tr_shim::mma<8>("mma.sync (tf32)", d, a, b, c);
}

#endif /* TR_CUDA_HOST_H */
