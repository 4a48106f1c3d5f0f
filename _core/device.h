/* What the generated time loop of a GPU is made of (tinyrnn/backend/cuda/looptext.py writes the rest, behind pointwise.h):
 * the wait of blocks for each other, and the product of a few rows with a block's columns of a weight. CUDA C++ for
 * NVRTC; tests compile the same text for the host, with TR_HOST_SHIM defined.
 *
 * A product sums in one order for one tiling: over k inside a warp's share, then over the warps. */
#ifndef TR_DEVICE_H
#define TR_DEVICE_H

#define TR_MEMBER __device__ __forceinline__

#ifdef TR_HOST_SHIM
#define TR_DYNAMIC_SHARED(name) unsigned char *name = tr_shim_dynamic_shared()
#else
#define TR_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

namespace tr {
namespace TR_ISA {

/* ---- between blocks ---------------------------------------------------------------------------------------------- */

TR_FN unsigned int load_acquire(const unsigned int *p) {
#ifdef TR_HOST_SHIM
    return *(volatile const unsigned int *)p;
#else
    unsigned int v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
#endif
}

TR_FN void add_release(unsigned int *p) {
#ifdef TR_HOST_SHIM
    atomicAdd(p, 1u);
#else
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" : : "l"(p) : "memory");
#endif
}

TR_FN void pause() {
#ifdef TR_HOST_SHIM
    tr_shim_pause();
#endif
}

/* All `blocks` blocks that share a counter wait for each other. What any thread of them wrote before is there for all
 * after. `turn` counts the waits: a counter only grows, and nobody has to reset it. */
TR_FN void wait_for_all(unsigned int *counter, unsigned int blocks, unsigned int &turn) {
    ++turn;
    __syncthreads();
    if (threadIdx.x == 0) {
        add_release(counter);
        while ((int)(load_acquire(counter) - turn * blocks) < 0) pause(); /* right also when it wraps */
    }
    __syncthreads();
}

/* The same for the blocks of one cluster, which are neighbours and all there (sm_90): `blocks` of them. */
template <int blocks> TR_FN void wait_in_cluster() {
#ifdef TR_HOST_SHIM
    tr_shim_cluster_wait(blocks);
#else
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" : : : "memory");
#endif
}

/* Into the same place of the shared memory of every block of the cluster. */
template <int blocks, class T> TR_FN void to_all(T *p, T value) {
#pragma unroll
    for (int rank = 0; rank < blocks; rank++) {
        T *there;
#ifdef TR_HOST_SHIM
        there = (T *)tr_shim_cluster_map(p, rank, blocks);
#else
        asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(p), "r"(rank));
#endif
        *(volatile T *)there = value;
    }
}

/* Have the second-level cache fetch what will be read a step later. */
TR_FN void prefetch(const void *p) {
#ifndef TR_HOST_SHIM
    asm volatile("prefetch.global.L2 [%0];" : : "l"(p));
#endif
}

/* What another block wrote is read from the second-level cache, which all blocks share. */
template <class T> TR_FN T shared_load(const T *p) {
    return __ldcg(p);
}

/* ---- storage of a product's operands ------------------------------------------------------------------------------- */

typedef unsigned short bf16; /* the upper half of a float */
typedef unsigned int tf32;   /* the upper 19 bits of a float */

template <class S> struct Stored {
    template <class T> TR_FN S from(T a) { return (S)a; }
};
template <> struct Stored<bf16> { /* to nearest, ties to even; NaN stays */
    TR_FN bf16 from(bf16 a) { return a; }
    TR_FN bf16 from(float a) {
        const unsigned int b = __float_as_uint(a);
        return a != a ? (bf16)0x7fc0 : (bf16)((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
    }
};
template <> struct Stored<tf32> { /* to nearest, ties to even; NaN stays */
    TR_FN tf32 from(tf32 a) { return a; }
    TR_FN tf32 from(float a) {
        const unsigned int b = __float_as_uint(a);
        return a != a ? b : (b + 0x0fffu + ((b >> 13) & 1u)) & ~0x1fffu;
    }
};

TR_FN constexpr int least(int a, int b) { return a < b ? a : b; }
TR_FN constexpr int most(int a, int b) { return a > b ? a : b; }
TR_FN constexpr int blocks_of(int n, int size) { return (n + size - 1) / size; }

/* ---- the product ----------------------------------------------------------------------------------------------------
 *
 * out (R, C) = left (R, K) @ weight (K, C), for the C columns that are this block's. left lies in global memory, as
 * numbers or as stored, rows `ld` apart, of which `rows` are there. weight lies as (C, KP), KP >= K, its rows padded;
 * resident in shared memory, or in global memory and read along with the left side, KC columns at a time. work: shared
 * memory for the parts of out and for a chunk of the operands (LoopLayout.layout). All threads of the block take part;
 * out is complete when the call returns. */

template <int R_, int C_, int K_, int KC_, int THREADS, bool RESIDENT> struct Shape {
    static constexpr int R = R_, C = C_, K = K_, KC = KC_, threads = THREADS, warps = THREADS / 32;
    static constexpr bool resident = RESIDENT;
};

/* Elements behind a row, so that rows of a power of two do not meet in one bank. */
template <class S> TR_FN constexpr int pad() { return 16 / (int)sizeof(S); }

/* How warps share a product: each has a tile of out at a time, 16 rows by `columns`; where there are fewer tiles than
 * warps, several take one, a part of k each, of `granule` columns or a multiple. */
template <class P, int columns, int granule> struct Shares {
    static constexpr int row_tiles = blocks_of(P::R, 16), tiles = row_tiles * blocks_of(P::C, columns);
    static constexpr int parts = most(1, least(P::warps / tiles, blocks_of(P::K, 32)));
    int part, row, column, k0, k1; /* of a job; k of a chunk of n columns */

    TR_FN Shares of(int job, int n) {
        const int tile = job % tiles, part = job / tiles, step = blocks_of(blocks_of(n, parts), granule) * granule;
        const int k0 = least(n, part * step);
        return {part, tile % row_tiles * 16, tile / row_tiles * columns, k0, least(n, k0 + step)};
    }
};

/* By multiply-adds. A lane has 4 x CL elements of out; 4 x 8 lanes lie side by side. */
template <class T> struct Plain {
    static constexpr int RL = 4, CL = sizeof(T) == 8 ? 2 : 4, granule = 4;
    typedef T S;
    template <class P> using Jobs = Shares<P, 8 * CL, granule>;

    /* parts of out (R, C) += left (R, n) @ weight (n, C) */
    template <class P>
    TR_FN void add(T *parts, const T *left, const T *weight, int weight_ld, int n) {
        constexpr int left_ld = P::KC + pad<T>();
        const int lane = threadIdx.x % 32;
        for (int job = threadIdx.x / 32; job < Jobs<P>::tiles * Jobs<P>::parts; job += P::warps) {
            const Jobs<P> own = Jobs<P>::of(job, n);
            const int r0 = own.row + lane / 8 * RL, c0 = own.column + lane % 8;
            T sum[RL][CL];
#pragma unroll
            for (int i = 0; i < RL; i++)
#pragma unroll
                for (int j = 0; j < CL; j++) sum[i][j] = (T)0;
            for (int k = own.k0; k < own.k1; k++) {
                T a[RL], b[CL];
#pragma unroll
                for (int i = 0; i < RL; i++) a[i] = r0 + i < P::R ? left[(r0 + i) * left_ld + k] : (T)0;
#pragma unroll
                for (int j = 0; j < CL; j++) b[j] = c0 + 8 * j < P::C ? weight[(c0 + 8 * j) * weight_ld + k] : (T)0;
#pragma unroll
                for (int i = 0; i < RL; i++)
#pragma unroll
                    for (int j = 0; j < CL; j++) sum[i][j] = mad(a[i], b[j], sum[i][j]);
            }
            T *to = parts + own.part * P::R * P::C;
#pragma unroll
            for (int i = 0; i < RL; i++)
#pragma unroll
                for (int j = 0; j < CL; j++)
                    if (r0 + i < P::R && c0 + 8 * j < P::C) to[(r0 + i) * P::C + c0 + 8 * j] += sum[i][j];
        }
    }
};

/* By the tensor cores, floats rounded to S; sums are floats. A warp has up to four tiles of 16 x 8. The fragments are
 * those of PTX, mma.m16n8k16 and m16n8k8: lane / 4 is a row of left and a column of weight, lane % 4 a place in k. */
template <class S_> struct Matrix {
    typedef S_ S;
    static constexpr int granule = 32 / (int)sizeof(S), wide = 4; /* k of one step: 32 bytes of a row */
    template <class P> using Jobs = Shares<P, 8 * least(wide, blocks_of(P::C, 8)), granule>;

    TR_FN void multiply(float *d, const unsigned int *a, const unsigned int *b) {
#ifdef TR_HOST_SHIM
        if (sizeof(S) == 2)
            tr_shim_mma_bf16(d, a, b, d);
        else
            tr_shim_mma_tf32(d, a, b, d);
#else
        if (sizeof(S) == 2)
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                         "{%0,%1,%2,%3};"
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
        else
            asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                         "{%0,%1,%2,%3};"
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
    }

    /* parts of out (R, C) += left (R, n) @ weight (n, C); R and n are multiples of 16 and granule */
    template <class P>
    TR_FN void add(float *parts, const S *left, const S *weight, int weight_ld, int n) {
        constexpr int columns = least(wide, blocks_of(P::C, 8)), left_ld = P::KC + pad<S>(), half = 16 / (int)sizeof(S);
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        for (int job = threadIdx.x / 32; job < Jobs<P>::tiles * Jobs<P>::parts; job += P::warps) {
            const Jobs<P> own = Jobs<P>::of(job, n);
            float sum[columns][4];
#pragma unroll
            for (int j = 0; j < columns; j++) sum[j][0] = sum[j][1] = sum[j][2] = sum[j][3] = 0.0f;
            for (int k = own.k0; k < own.k1; k += granule) {
                unsigned int a[4], b[2];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    a[i] = ((const unsigned int *)(left + (own.row + g + i % 2 * 8) * left_ld + k + i / 2 * half))[t];
#pragma unroll
                for (int j = 0; j < columns; j++) {
                    const int c = least(own.column + 8 * j + g, P::C - 1); /* a column beyond is computed for nobody */
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        b[i] = ((const unsigned int *)(weight + c * weight_ld + k + i * half))[t];
                    multiply(sum[j], a, b);
                }
            }
            float *to = parts + own.part * P::R * P::C;
#pragma unroll
            for (int j = 0; j < columns; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int r = own.row + g + i / 2 * 8, c = own.column + 8 * j + 2 * t + i % 2;
                    if (c < P::C) to[r * P::C + c] += sum[j][i];
                }
        }
    }
};

/* Pieces of 16 bytes from rows `ld` bytes apart, by all threads: eight loads of each are under way before anything is
 * stored, for each takes most of a microsecond. from and ld are multiples of 16. put(row, piece, what was there); zeros
 * where there are fewer rows or pieces. */
template <int ROWS, int QUADS, int THREADS, class Put>
TR_FN void bring(const void *from, long long ld, int rows, int quads, Put put) {
    constexpr int count = ROWS * QUADS, at_once = 8;
    for (int first = threadIdx.x; first < count; first += at_once * THREADS) {
        uint4 v[at_once];
#pragma unroll
        for (int j = 0; j < at_once; j++) {
            const int i = first + j * THREADS, r = i / QUADS;
            v[j] = make_uint4(0, 0, 0, 0);
            if (i < count && r < rows && i % QUADS < quads)
                v[j] = __ldcg((const uint4 *)((const char *)from + r * ld) + i % QUADS);
        }
#pragma unroll
        for (int j = 0; j < at_once; j++) {
            const int i = first + j * THREADS;
            if (i < count) put(i / QUADS, i % QUADS, v[j]);
        }
    }
}

/* What lies in 16 bytes of T, as S, into shared memory. */
template <class T, class S> struct Into {
    S *to;
    int ld;
    TR_MEMBER void operator()(int row, int quad, uint4 v) const {
        constexpr int n = 16 / (int)sizeof(T);
        union { uint4 v; T t[n]; } u;
        u.v = v;
#pragma unroll
        for (int k = 0; k < n; k++) to[row * ld + quad * n + k] = Stored<S>::from(u.t[k]);
    }
};
template <class S> struct Into<S, S> {
    S *to;
    int ld;
    TR_MEMBER void operator()(int row, int quad, uint4 v) const { *((uint4 *)(to + row * ld) + quad) = v; }
};

/* The parts of out that several warps have, together. */
template <class P, class T> TR_FN void join(T *out, const T *part, int parts) {
    constexpr int size = P::R * P::C;
    for (int i = threadIdx.x; i < size; i += P::threads) {
        T sum = part[i];
        for (int p = 1; p < parts; p++) sum += part[p * size + i];
        out[i] = sum;
    }
}

/* `product` with all of left in shared memory, its rows KC + pad apart, zeros behind K. */
template <class M, class P, class T>
TR_FN void product_here(T *out, unsigned char *work, const typename M::S *left, const typename M::S *weight,
                        int weight_ld) {
    constexpr int parts = M::template Jobs<P>::parts, size = P::R * P::C;
    T *part = (T *)work;
    for (int i = threadIdx.x; i < parts * size; i += P::threads) part[i] = (T)0;
    __syncthreads();
    M::template add<P>(part, left, weight, weight_ld, P::KC);
    __syncthreads();
    join<P>(out, part, parts);
}

template <class M, class P, class T, class L>
TR_FN void product(T *out, unsigned char *work, const L *left, long long ld, int rows, const typename M::S *weight,
                   int weight_ld) {
    typedef typename M::S S;
    constexpr int parts = M::template Jobs<P>::parts, size = P::R * P::C, own_ld = P::KC + pad<S>();
    T *part = (T *)work;
    S *rows_of_left = (S *)(part + parts * size);
    S *rows_of_weight = rows_of_left + P::R * own_ld;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = threadIdx.x; i < parts * size; i += P::threads) part[i] = (T)0;
    for (int k0 = 0; k0 < P::K; k0 += P::KC) {
        const int n = least(P::KC, blocks_of(P::K - k0, M::granule) * M::granule);
        __syncthreads(); /* nobody reads the columns before any more */
        constexpr int whole = least(P::KC, P::K), quads = whole * (int)sizeof(L) / 16; /* columns of most chunks */
        const L *from = left + k0;
        const bool fits = whole * (int)sizeof(L) % 16 == 0 && P::K - k0 >= whole && (unsigned long long)from % 16 == 0 &&
                          ld * sizeof(L) % 16 == 0;
        if (fits) bring<P::R, quads, P::threads>(from, ld * sizeof(L), rows, quads, Into<L, S>{rows_of_left, own_ld});
        for (int r = warp; r < P::R; r += P::warps)
            for (int k = (fits ? whole : 0) + lane; k < n; k += 32)
                rows_of_left[r * own_ld + k] =
                    Stored<S>::from(r < rows && k0 + k < P::K ? shared_load(from + r * ld + k) : (L)0);
        if (!P::resident) /* its rows are padded to whole multiples of 16 bytes */
            bring<P::C, P::KC * (int)sizeof(S) / 16, P::threads>(weight + k0, (long long)weight_ld * sizeof(S), P::C,
                                                                 n * (int)sizeof(S) / 16,
                                                                 Into<S, S>{rows_of_weight, own_ld});
        __syncthreads();
        M::template add<P>(part, rows_of_left, P::resident ? weight + k0 : rows_of_weight,
                           P::resident ? weight_ld : own_ld, n);
    }
    __syncthreads();
    join<P>(out, part, parts);
}

}  // namespace TR_ISA
}  // namespace tr
#endif /* TR_DEVICE_H */
