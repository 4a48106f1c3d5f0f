# distutils: language = c++
"""Kernels over arrays: the compiled elementwise, reduction, row and optimiser loops, products, and the time loop.

This module owns the kernel tables, one an instruction set, and decides at import which of them runs: the best that the
processor has, or the one named by the environment variable TINYRNN_ISA. Arrays are NumPy's; what a
kernel needs of them (dtype, contiguity) is checked here, so that the loops need not.
"""

import os

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport pow as c_pow, sqrt as c_sqrt
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset
from libcpp cimport bool as cbool
from libcpp.vector cimport vector

import numpy as np

cnp.import_array()

cdef extern from "kernels.h":
    int TR_N_PAIRS
    ctypedef struct PairOfOps "tr_Pair":
        const char *first
        const char *second
        int place, spread
    const PairOfOps tr_pairs[]
    int TR_N_POINTWISE
    ctypedef struct PointwiseOp "tr_PointwiseOp":
        const char *name
        int arity
    const PointwiseOp tr_pointwise_ops[]
    ctypedef struct SideF32 "tr_Side_f32":
        float *c
        const float *a
        Py_ssize_t M, rs, cs
    ctypedef struct KernelsF32 "tr_Kernels_f32":
        void (*map[1])(float *, const float *, const float *, const float *, Py_ssize_t) noexcept nogil
        void (*sum)(float *, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                    Py_ssize_t) noexcept nogil
        void (*amax)(float *, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                     Py_ssize_t) noexcept nogil
        void (*take_rows)(float *, const float *, const int64_t *, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*add_rows)(float *, const int64_t *, const float *, Py_ssize_t, Py_ssize_t) noexcept nogil
        double (*sumsq)(const float *, Py_ssize_t) noexcept nogil
        void (*sgd)(float *, const float *, float *, Py_ssize_t, double, double, double, int) noexcept nogil
        void (*rmsprop)(float *, const float *, float *, float *, Py_ssize_t, double, double, double, double,
                        double) noexcept nogil
        void (*adam)(float *, const float *, float *, float *, Py_ssize_t, double, double, double, double, double,
                     double, double) noexcept nogil
        Py_ssize_t (*workspace_size)(Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*gemm)(const SideF32 *, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                     Py_ssize_t, cbool, float *) noexcept nogil
        Py_ssize_t (*packed_size)(Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*pack)(float *, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        Py_ssize_t (*scratch_size)(const void *, Py_ssize_t) noexcept nogil
        void (*run_loop)(const void *, Py_ssize_t, Py_ssize_t, float **, float *) noexcept nogil
    ctypedef struct SideF64 "tr_Side_f64":
        double *c
        const double *a
        Py_ssize_t M, rs, cs
    ctypedef struct KernelsF64 "tr_Kernels_f64":
        void (*map[1])(double *, const double *, const double *, const double *, Py_ssize_t) noexcept nogil
        void (*sum)(double *, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                    Py_ssize_t) noexcept nogil
        void (*amax)(double *, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                     Py_ssize_t) noexcept nogil
        void (*take_rows)(double *, const double *, const int64_t *, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*add_rows)(double *, const int64_t *, const double *, Py_ssize_t, Py_ssize_t) noexcept nogil
        double (*sumsq)(const double *, Py_ssize_t) noexcept nogil
        void (*sgd)(double *, const double *, double *, Py_ssize_t, double, double, double, int) noexcept nogil
        void (*rmsprop)(double *, const double *, double *, double *, Py_ssize_t, double, double, double, double,
                        double) noexcept nogil
        void (*adam)(double *, const double *, double *, double *, Py_ssize_t, double, double, double, double, double,
                     double, double) noexcept nogil
        Py_ssize_t (*workspace_size)(Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*gemm)(const SideF64 *, Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
                     Py_ssize_t, cbool, double *) noexcept nogil
        Py_ssize_t (*packed_size)(Py_ssize_t, Py_ssize_t) noexcept nogil
        void (*pack)(double *, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
        Py_ssize_t (*scratch_size)(const void *, Py_ssize_t) noexcept nogil
        void (*run_loop)(const void *, Py_ssize_t, Py_ssize_t, double **, double *) noexcept nogil
    ctypedef struct Kernels "tr_Kernels":
        const char *isa
        KernelsF32 f32
        KernelsF64 f64

cdef extern from "program.h":
    ctypedef struct Instruction "tr::Instruction":
        int kind
    enum:
        SCRATCH "tr::SCRATCH"
        TILE "tr::TILE"
        VECTOR "tr::VECTOR"
        SEQUENCE "tr::SEQUENCE"
        BEFORE "tr::BEFORE"
        AFTER "tr::AFTER"
        PARTIAL "tr::PARTIAL"
    Py_ssize_t sum_steps "tr::sum_steps"
    Py_ssize_t sum_bytes "tr::sum_bytes"
    ctypedef struct BufferF32 "tr::Buffer<float>":
        float *base
        float *other
        Py_ssize_t ld
        int64_t place
    ctypedef struct LoopF32 "tr::Loop<float>":
        const Instruction *program
        Py_ssize_t instructions
        const BufferF32 *buffers
        Py_ssize_t n_buffers
        const int32_t *moving
        Py_ssize_t n_moving
        const float *const *weights
        const int32_t *index
        const int64_t *count
        const int64_t *offset
        Py_ssize_t steps
        int backwards
    ctypedef struct BufferF64 "tr::Buffer<double>":
        double *base
        double *other
        Py_ssize_t ld
        int64_t place
    ctypedef struct LoopF64 "tr::Loop<double>":
        const Instruction *program
        Py_ssize_t instructions
        const BufferF64 *buffers
        Py_ssize_t n_buffers
        const int32_t *moving
        Py_ssize_t n_moving
        const double *const *weights
        const int32_t *index
        const int64_t *count
        const int64_t *offset
        Py_ssize_t steps
        int backwards
    size_t whole_pages "tr::whole_pages"(size_t) nogil

cdef extern from "pool.h":
    cppclass Pool "tr::Pool":
        void *take(size_t &)
        void give(void *, size_t)
    Pool &pool "tr::pool"()

cdef extern from *:
    """
    // PyTraceMalloc_Track and _Untrack by their C names: some versions of Python.h declare them for C++ without
    // extern "C".
    #ifdef __APPLE__
    #define TR_C_NAME(name) __asm__("_" name)
    #else
    #define TR_C_NAME(name) __asm__(name)
    #endif
    int tr_track(unsigned int domain, uintptr_t ptr, size_t size) TR_C_NAME("PyTraceMalloc_Track");
    int tr_untrack(unsigned int domain, uintptr_t ptr) TR_C_NAME("PyTraceMalloc_Untrack");
    """
    int tr_track(unsigned int, size_t, size_t)
    int tr_untrack(unsigned int, size_t)

cdef enum:
    LARGE = 1 << 18         # bytes from which an array's memory comes from the pool
    TRACE_DOMAIN = 389047   # NumPy's domain for tracemalloc: our arrays count with its own

cdef extern from "shards.h":
    enum:
        MOST_SIDES "tr::MOST_SIDES"
    void *arena "tr::arena"(size_t) except + nogil
    void share "tr::share"(Py_ssize_t, Py_ssize_t, void (*)(const void *, Py_ssize_t) noexcept nogil,
                           const void *) noexcept nogil
    ctypedef void (*GemmF32)(const SideF32 *, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t,
                             Py_ssize_t, Py_ssize_t, cbool, float *) noexcept nogil
    ctypedef void (*GemmF64)(const SideF64 *, Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t,
                             Py_ssize_t, Py_ssize_t, cbool, double *) noexcept nogil
    ctypedef Py_ssize_t (*WorkspaceSize)(Py_ssize_t, Py_ssize_t, Py_ssize_t) noexcept nogil
    void shared_gemm_f32 "tr::shared_gemm<float, tr_Side_f32>"(
        GemmF32, WorkspaceSize, const SideF32 *, Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
        Py_ssize_t, cbool, Py_ssize_t) except + nogil
    void shared_gemm_f64 "tr::shared_gemm<double, tr_Side_f64>"(
        GemmF64, WorkspaceSize, const SideF64 *, Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, Py_ssize_t,
        Py_ssize_t, cbool, Py_ssize_t) except + nogil
    ctypedef void (*RunF32)(const void *, Py_ssize_t, Py_ssize_t, float **, float *) noexcept nogil
    ctypedef void (*RunF64)(const void *, Py_ssize_t, Py_ssize_t, double **, double *) noexcept nogil
    void run_shards_f32 "tr::run_shards<float>"(RunF32, const LoopF32 *, const Py_ssize_t *, Py_ssize_t, float **,
                                                float *, Py_ssize_t) noexcept nogil
    void run_shards_f64 "tr::run_shards<double>"(RunF64, const LoopF64 *, const Py_ssize_t *, Py_ssize_t, double **,
                                                 double *, Py_ssize_t) noexcept nogil

ctypedef fused real:
    float
    double

cdef extern from *:
    """
    #include "kernels.h"
    #if defined(__x86_64__) && defined(TR_HAVE_AVX2)
    static const tr_Kernels *tr_find(int level) {
        __builtin_cpu_init();
        if (level == 2)
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
                && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
                ? tr_kernels_avx512() : nullptr;
        if (level == 1)
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? tr_kernels_avx2() : nullptr;
        return tr_kernels_baseline();
    }
    #else
    static const tr_Kernels *tr_find(int level) { return level == 0 ? tr_kernels_baseline() : nullptr; }
    #endif
    """
    const Kernels *tr_find(int level)

POINTWISE = {tr_pointwise_ops[i].name.decode(): (i, tr_pointwise_ops[i].arity) for i in range(TR_N_POINTWISE)}
"""The elementwise ops that pointwise.h lists: name -> (code, arity)."""


def isas():
    """Names of the instruction sets that were built and that this processor runs, slowest first."""
    return [tr_find(level).isa.decode() for level in range(3) if tr_find(level) != NULL]


cdef const Kernels *_table(name) except NULL:
    for level in range(3):
        if tr_find(level) != NULL and tr_find(level).isa.decode() == name:
            return tr_find(level)
    raise ValueError(f"TINYRNN_ISA must be one of {', '.join(isas())} on this machine, got {name!r}")


cdef const Kernels *kernels = _table(os.environ.get("TINYRNN_ISA") or list(reversed(isas()))[0])
isa = kernels.isa.decode()
"""The instruction set in use."""


def active_table():
    """The kernel table in use, for the other compiled module."""
    return PyCapsule_New(<void *> kernels, "tinyrnn.kernels", NULL)


def passing():
    """`_pass_over`, for the other compiled module: it has these threads, too."""
    return PyCapsule_New(<void *> _pass_over, "tinyrnn.pass_over", NULL)


cdef enum:
    MAX_DIMS = 64           # NumPy's own limit


cdef class Block:
    """The memory of a large array, which goes back to the pool with the last array that views it."""

    cdef void *memory
    cdef size_t size

    def __cinit__(self, size_t size):
        self.size = size
        self.memory = pool().take(self.size)
        if self.memory == NULL:
            raise MemoryError(f"no memory for an array of {size} bytes")
        tr_track(TRACE_DOMAIN, <size_t> self.memory, self.size)

    def __dealloc__(self):
        if self.memory != NULL:
            tr_untrack(TRACE_DOMAIN, <size_t> self.memory)
            pool().give(self.memory, self.size)


def empty(tuple shape, dtype):
    """np.empty, with the memory of large arrays used again."""
    return _new(shape, dtype, False)


cdef cnp.ndarray _new(tuple shape, kind, bint cleared):
    """A new array; where it is small, of zeros if `cleared`."""
    cdef cnp.dtype dtype = kind if isinstance(kind, cnp.dtype) else np.dtype(kind)
    cdef cnp.npy_intp sizes[MAX_DIMS]
    cdef Py_ssize_t n = dtype.itemsize, d
    cdef int nd = len(shape)
    cdef Block block
    cdef cnp.ndarray array
    if nd > MAX_DIMS:
        return np.empty(shape, dtype)       # says what is wrong
    for d in range(nd):
        sizes[d] = shape[d]
        n *= sizes[d]
    if n < LARGE:
        if cleared:
            return cnp.PyArray_ZEROS(nd, sizes, dtype.type_num, 0)
        return cnp.PyArray_EMPTY(nd, sizes, dtype.type_num, 0)
    block = Block(n)
    array = cnp.PyArray_SimpleNewFromData(nd, sizes, dtype.type_num, block.memory)
    cnp.set_array_base(array, block)
    return array


ctypedef void (*Piece)(const void *work, Py_ssize_t k) noexcept nogil


cdef _pass_over(Py_ssize_t n_bytes, Py_ssize_t pieces, Piece piece, const void *work):
    """piece(work, k) for all k: a pass over so much memory, by a thread for each quarter of a megabyte."""
    cdef Py_ssize_t threads = 1
    if pieces == 1 and n_bytes < LARGE:     # sooner done than the lock is let go
        piece(work, 0)
        return
    if n_bytes >= 2 * LARGE:
        threads = min(n_bytes // LARGE, <Py_ssize_t> get_num_threads())
    with nogil:
        share(pieces, threads, piece, work)


cdef enum:
    STRETCH = 1 << 14       # elements that a thread passes over in one go

cdef struct Pass:
    Py_ssize_t n            # of bytes, elements or rows in all
    Py_ssize_t each         # of them that one piece takes
    bint single
    char *to
    const char *source
    const int64_t *index
    Py_ssize_t width        # of a row
    double *sums            # one a piece


cdef void _clear(const void *work, Py_ssize_t k) noexcept nogil:
    cdef const Pass *o = <const Pass *> work
    memset(o.to + k * o.each, 0, min(o.each, o.n - k * o.each))


def zeros(tuple shape, dtype):
    """np.zeros, with the memory of large arrays used again."""
    cdef cnp.ndarray array = _new(shape, dtype, True)
    cdef Pass o
    if cnp.PyArray_NBYTES(array) >= LARGE:
        o.n, o.each, o.to = cnp.PyArray_NBYTES(array), 4 * STRETCH, cnp.PyArray_BYTES(array)
        _pass_over(o.n, (o.n + o.each - 1) // o.each, _clear, &o)
    return array


def reshape(cnp.ndarray x, tuple shape):
    """x.reshape(shape), where no size is left open."""
    cdef cnp.npy_intp sizes[MAX_DIMS]
    cdef cnp.PyArray_Dims dims
    cdef int nd = len(shape), d
    if nd > MAX_DIMS:
        return x.reshape(shape)             # says what is wrong
    for d in range(nd):
        sizes[d] = shape[d]
    dims.ptr, dims.len = sizes, nd
    return cnp.PyArray_Newshape(x, &dims, cnp.NPY_CORDER)


def matrix(cnp.ndarray x, Py_ssize_t rows, Py_ssize_t columns):
    """An array as a matrix whose rows lie in one piece each, one behind the other; a copy only if need be."""
    cdef Py_ssize_t item = cnp.PyArray_ITEMSIZE(x)
    if cnp.PyArray_NDIM(x) == 2 and cnp.PyArray_STRIDE(x, 1) == item and cnp.PyArray_STRIDE(x, 0) >= columns * item:
        return x
    return reshape(np.ascontiguousarray(x), (rows, columns))


def repeated(cnp.ndarray x, tuple row):
    """An array repeated to a row's shape, in one piece."""
    if cnp.PyArray_IS_C_CONTIGUOUS(x) and (<object> x).shape == row:
        return x
    return np.ascontiguousarray(np.broadcast_to(x, (1, *row)))


cdef cnp.ndarray _contiguous(array, what):
    if not isinstance(array, np.ndarray) or array.dtype.type not in (np.float32, np.float64):
        raise TypeError(f"{what} must be a float32 or float64 array, got {getattr(array, 'dtype', type(array))}")
    return np.ascontiguousarray(array)


def pointwise(name, *arrays, isa=None):
    """Apply one elementwise kernel to contiguous arrays of one shape and dtype; `isa` names a table, for tests."""
    cdef const Kernels *table = kernels if isa is None else _table(isa)
    cdef cnp.ndarray a, b, c, out
    code, arity = POINTWISE[name]
    if len(arrays) != arity:
        raise TypeError(f"{name} takes {arity} arrays, got {len(arrays)}")
    if len({(x.shape, x.dtype) for x in arrays}) != 1:
        raise ValueError(f"{name} needs arrays of one shape and dtype")
    kept = [_contiguous(x, "an operand") for x in arrays]
    a = kept[0]
    b, c = kept[min(1, arity - 1)], kept[arity - 1]
    out = np.empty_like(a)
    cdef int k = code
    if a.dtype == np.float32:
        table.f32.map[k](<float *> cnp.PyArray_DATA(out), <float *> cnp.PyArray_DATA(a),
                         <float *> cnp.PyArray_DATA(b), <float *> cnp.PyArray_DATA(c), a.size)
    else:
        table.f64.map[k](<double *> cnp.PyArray_DATA(out), <double *> cnp.PyArray_DATA(a),
                         <double *> cnp.PyArray_DATA(b), <double *> cnp.PyArray_DATA(c), a.size)
    return out


cdef bint _has_whole_rows(cnp.ndarray array):
    """Whether this is a matrix of several columns of floats whose rows lie in one piece each."""
    if cnp.PyArray_NDIM(array) != 2 or array.shape[0] < 2 or array.shape[1] < 2:
        return False
    single = cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32
    fits = cnp.PyArray_STRIDE(array, 1) == cnp.PyArray_ITEMSIZE(array) and cnp.PyArray_ISBEHAVED_RO(array)
    return fits and (single or cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT64) and cnp.PyArray_STRIDE(array, 0) > 0


cdef struct Reduction:
    bint single, add
    char *to
    const char *source
    Py_ssize_t outer, n, inner, stride
    Py_ssize_t each         # of the inner columns that one piece takes


cdef void _reduce(const void *work, Py_ssize_t k) noexcept nogil:
    cdef const Reduction *o = <const Reduction *> work
    cdef Py_ssize_t first = k * o.each * (4 if o.single else 8), inner = min(o.each, o.inner - k * o.each)
    cdef char *to = o.to + first
    cdef const char *source = o.source + first
    if o.single and o.add:
        kernels.f32.sum(<float *> to, <const float *> source, o.outer, o.n, inner, o.stride)
    elif o.single:
        kernels.f32.amax(<float *> to, <const float *> source, o.outer, o.n, inner, o.stride)
    elif o.add:
        kernels.f64.sum(<double *> to, <const double *> source, o.outer, o.n, inner, o.stride)
    else:
        kernels.f64.amax(<double *> to, <const double *> source, o.outer, o.n, inner, o.stride)


def reduce(kind, array, int first, int last):
    """Sum ("sum") or maximum ("max") over the neighbouring axes first..last-1 of an array; they leave the shape."""
    cdef bint columns = _has_whole_rows(array) and first == 0 and last == 1  # as they lie: no copy of a slice
    cdef cnp.ndarray source = array if columns else _contiguous(array, "array")
    cdef Py_ssize_t outer = 1, n = 1, inner = 1, i, stride
    shape = (<object> source).shape
    for i in range(len(shape)):
        if i < first:
            outer *= shape[i]
        elif i < last:
            n *= shape[i]
        else:
            inner *= shape[i]
    stride = cnp.PyArray_STRIDE(source, 0) // source.itemsize if columns else inner
    cdef cnp.ndarray out = empty(shape[:first] + shape[last:], source.dtype)
    cdef bint add = kind == "sum"
    if not add and n == 0 and out.size:
        raise ValueError("the maximum of no elements is undefined")
    cdef Reduction work = Reduction(cnp.PyArray_TYPE(source) == cnp.NPY_FLOAT32, add, cnp.PyArray_BYTES(out),
                                    cnp.PyArray_BYTES(source), outer, n, inner, stride, inner)
    cdef Py_ssize_t size = cnp.PyArray_NBYTES(source), pieces = 1
    # A column's sum does not depend on its neighbours, but a single one would be seen as a row.
    if outer == 1 and inner >= 128 and size >= 2 * LARGE and inner % 64 != 1:
        pieces = min(size // LARGE, <Py_ssize_t> get_num_threads())
        work.each = (inner // pieces + 63) // 64 * 64
        pieces = (inner + work.each - 1) // work.each
    _pass_over(size, pieces, _reduce, &work)
    return out


cdef void _take(const void *work, Py_ssize_t k) noexcept nogil:
    cdef const Pass *o = <const Pass *> work
    cdef Py_ssize_t first = k * o.each, n = min(o.each, o.n - k * o.each)
    if o.single:
        kernels.f32.take_rows(<float *> o.to + first * o.width, <const float *> o.source, o.index + first, n, o.width)
    else:
        kernels.f64.take_rows(<double *> o.to + first * o.width, <const double *> o.source, o.index + first, n, o.width)


def take_rows(table, index):
    """table (N, ...) and int64 index of any shape, all in 0..N-1 -> the rows, index.shape + table.shape[1:]."""
    cdef cnp.ndarray rows = _contiguous(table, "table")
    cdef cnp.ndarray which = np.ascontiguousarray(index, np.int64)
    cdef cnp.ndarray out = empty(np.shape(index) + np.shape(rows)[1:], rows.dtype)
    cdef Pass o
    o.n = which.size
    o.width = out.size // o.n if o.n else 0
    o.each = 1 + STRETCH // max(o.width, 1)
    o.single, o.index = rows.dtype == np.float32, <const int64_t *> cnp.PyArray_DATA(which)
    o.to, o.source = cnp.PyArray_BYTES(out), cnp.PyArray_BYTES(rows)
    _pass_over(cnp.PyArray_NBYTES(out), (o.n + o.each - 1) // o.each, _take, &o)
    return out


def add_rows(cnp.ndarray table, index, source):
    """table[index[i]] += source[i] in place, in the order of i, so that the sums are the same every time."""
    cdef cnp.ndarray rows = _contiguous(source, "source")
    cdef cnp.ndarray which = np.ascontiguousarray(index, np.int64)
    cdef Py_ssize_t n = which.size, width = rows.size // n if n else 0
    cdef const int64_t *at = <const int64_t *> cnp.PyArray_DATA(which)
    if not table.flags.c_contiguous or table.dtype != rows.dtype:
        raise ValueError("table must be contiguous and of the source's dtype")
    if rows.dtype == np.float32:
        kernels.f32.add_rows(<float *> cnp.PyArray_DATA(table), at, <float *> cnp.PyArray_DATA(rows), n, width)
    else:
        kernels.f64.add_rows(<double *> cnp.PyArray_DATA(table), at, <double *> cnp.PyArray_DATA(rows), n, width)


cdef void _sumsq(const void *work, Py_ssize_t k) noexcept nogil:
    cdef const Pass *o = <const Pass *> work
    cdef Py_ssize_t first = k * o.each, n = min(o.each, o.n - k * o.each)
    if o.single:
        o.sums[k] = kernels.f32.sumsq(<const float *> o.source + first, n)
    else:
        o.sums[k] = kernels.f64.sumsq(<const double *> o.source + first, n)


def sumsq(array):
    """The sum of squares of an array, in float64: in stretches, whose sums are added in order."""
    cdef cnp.ndarray source = _contiguous(array, "array")
    cdef vector[double] sums
    cdef Pass o
    o.n, o.each, o.single, o.source = source.size, STRETCH, source.dtype == np.float32, cnp.PyArray_BYTES(source)
    sums.resize((o.n + o.each - 1) // o.each)
    o.sums = sums.data()
    _pass_over(cnp.PyArray_NBYTES(source), sums.size(), _sumsq, &o)
    cdef double total = 0
    for one in sums:
        total += one
    return total


def set_num_threads(n):
    """Use up to n threads from now on, in the whole process; None: as many as this process may run on."""
    global _threads
    if n is not None and (isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1):
        raise ValueError(f"n must be a positive int or None, got {n!r}")
    _threads = 0 if n is None else n


def get_num_threads():
    """The number of threads in use: the one set, else as many processors as this process may run on."""
    if _threads:
        return _threads
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


cdef int _threads = 0


def matmul(a, b, into=None):
    """The product of two 2-D arrays of one dtype, (M, K) and (K, N), of any strides.

    into: a contiguous array (M, N) to add the product to, instead of making a new one. Every element's sum over k has
    one order, whatever M and N and the number of threads are.
    """
    cdef cnp.ndarray x = a, y = b, out
    cdef Py_ssize_t m = cnp.PyArray_DIM(x, 0), n = cnp.PyArray_DIM(y, 1)
    if not (_is_whole(x) and _is_whole(y)):
        return matmul(a.copy(), b.copy(), into)
    if into is None:
        out = _empty_matrix(m, n, x)
    else:
        out = into
        if not cnp.PyArray_IS_C_CONTIGUOUS(out) or cnp.PyArray_DIM(out, 0) != m or cnp.PyArray_DIM(out, 1) != n:
            raise ValueError(f"into must be a contiguous ({m}, {n}) array")
    if cnp.PyArray_ITEMSIZE(x) == 4:
        _products[float]([x], [out], y, into is not None, 0)
    else:
        _products[double]([x], [out], y, into is not None, 0)
    return out


def products(list lefts, b):
    """`matmul(a, b)` of several arrays (M, K) at once, to the same bits: what of b has to be packed is packed once."""
    cdef cnp.ndarray x, y = b
    cdef list outs = []
    if len(lefts) > MOST_SIDES or not all([_is_whole(<cnp.ndarray?> x) for x in (*lefts, b)]):
        return [matmul(x, b) for x in lefts]
    for x in lefts:
        outs.append(_empty_matrix(cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(y, 1), x))
    if cnp.PyArray_ITEMSIZE(y) == 4:
        _products[float](lefts, outs, y, False, 0)
    else:
        _products[double](lefts, outs, y, False, 0)
    return outs


cdef bint _is_whole(cnp.ndarray x):
    """Whether the strides of a matrix are whole elements."""
    cdef Py_ssize_t item = cnp.PyArray_ITEMSIZE(x)
    return cnp.PyArray_STRIDE(x, 0) % item == 0 and cnp.PyArray_STRIDE(x, 1) % item == 0


cdef cnp.ndarray _empty_matrix(Py_ssize_t m, Py_ssize_t n, cnp.ndarray like):
    cdef cnp.npy_intp shape[2]
    if m * n * cnp.PyArray_ITEMSIZE(like) >= LARGE:
        return empty((m, n), like.dtype)
    shape[0], shape[1] = m, n
    return cnp.PyArray_EMPTY(2, shape, cnp.PyArray_TYPE(like), 0)


cdef _products(list lefts, list outs, cnp.ndarray y, bint add, real which):
    cdef SideF32 sides32[MOST_SIDES]
    cdef SideF64 sides64[MOST_SIDES]
    cdef const real *b = <const real *> cnp.PyArray_DATA(y)
    cdef Py_ssize_t k = cnp.PyArray_DIM(y, 0), n = cnp.PyArray_DIM(y, 1), item = sizeof(real), rows = 0, i
    cdef Py_ssize_t rs = cnp.PyArray_STRIDE(y, 0) // item, cs = cnp.PyArray_STRIDE(y, 1) // item
    cdef Py_ssize_t n_sides = len(lefts), threads
    cdef cnp.ndarray x, out
    for i in range(n_sides):
        x, out = lefts[i], outs[i]
        rows += cnp.PyArray_DIM(x, 0)
        if real is float:
            sides32[i] = SideF32(<float *> cnp.PyArray_DATA(out), <const float *> cnp.PyArray_DATA(x),
                                 cnp.PyArray_DIM(x, 0), cnp.PyArray_STRIDE(x, 0) // item,
                                 cnp.PyArray_STRIDE(x, 1) // item)
        else:
            sides64[i] = SideF64(<double *> cnp.PyArray_DATA(out), <const double *> cnp.PyArray_DATA(x),
                                 cnp.PyArray_DIM(x, 0), cnp.PyArray_STRIDE(x, 0) // item,
                                 cnp.PyArray_STRIDE(x, 1) // item)
    threads = 1 if rows * n * <double> k < 8e6 else get_num_threads()
    if rows * n * k < 100000:  # sooner done than the lock is let go
        if real is float:
            shared_gemm_f32(kernels.f32.gemm, kernels.f32.workspace_size, sides32, n_sides, b, rs, cs, n, k, add, 1)
        else:
            shared_gemm_f64(kernels.f64.gemm, kernels.f64.workspace_size, sides64, n_sides, b, rs, cs, n, k, add, 1)
        return
    with nogil:
        if real is float:
            shared_gemm_f32(kernels.f32.gemm, kernels.f32.workspace_size, sides32, n_sides, b, rs, cs, n, k, add,
                            threads)
        else:
            shared_gemm_f64(kernels.f64.gemm, kernels.f64.workspace_size, sides64, n_sides, b, rs, cs, n, k, add,
                            threads)


# -- optimisers: one call a step over all parameters of a dtype --------------------------------------------------------

cdef struct Stretch:
    char *p             # a part of a parameter, or a whole one
    const char *g       # its gradient
    Py_ssize_t at, n    # where its part of the flat state begins, in bytes, and its elements
    Py_ssize_t index    # the parameter's place in the list


cdef int _stretches(list parameters, list gradients, tuple states, list keep, vector[Stretch] *out) except -1:
    """Check everything that an update needs, so that it happens whole or not at all, and list what it runs over.

    A gradient of None leaves its parameter and state as they are. `keep` holds what the stretches point into.
    """
    cdef cnp.ndarray p, g
    cdef Py_ssize_t at = 0, begin, size, item
    if not parameters or len(parameters) != len(gradients):
        raise ValueError(f"an update needs a gradient or None for each parameter, got {len(gradients)} for "
                         f"{len(parameters)}")
    dtype = parameters[0].dtype
    if dtype.type not in (np.float32, np.float64):
        raise TypeError(f"parameters must be float32 or float64 arrays, got {dtype}")
    for index, (array, gradient) in enumerate(zip(parameters, gradients)):
        p = array
        if array.dtype != dtype or not cnp.PyArray_IS_C_CONTIGUOUS(p) or not cnp.PyArray_ISWRITEABLE(p):
            raise ValueError(f"parameter {index} must be a contiguous writable {dtype} array, got {array.dtype}")
        if gradient is not None:
            if gradient.shape != array.shape or gradient.dtype != dtype:
                raise ValueError(f"the gradient of parameter {index} must be {array.shape} {dtype}, got "
                                 f"{gradient.shape} {gradient.dtype}")
            g = np.ascontiguousarray(gradient)
            keep.append(g)
            size, item = cnp.PyArray_SIZE(p), cnp.PyArray_ITEMSIZE(p)
            for begin in range(0, size, STRETCH):
                out.push_back(Stretch(cnp.PyArray_BYTES(p) + begin * item, cnp.PyArray_BYTES(g) + begin * item,
                                      (at + begin) * item, min(<Py_ssize_t> STRETCH, size - begin), index))
        at += cnp.PyArray_SIZE(p)
    for state in states:
        if state is not None and (state.shape != (at,) or state.dtype != dtype or not state.flags.carray):
            raise ValueError(f"state must be a contiguous writable {dtype} array of {at} elements, got {state.shape} "
                             f"{state.dtype}")
    return 0


cdef struct Step:
    const Stretch *stretches
    bint single
    char *one           # the flat states
    char *two
    const int64_t *taken
    double lr, keep_one, keep_two, eps, decay, shrink
    bint nesterov


cdef _update(Piece piece, const vector[Stretch] &stretches, Step *step):
    """Run an update over its stretches."""
    step.stretches = stretches.data()
    _pass_over(4 * STRETCH * stretches.size(), stretches.size(), piece, step)


cdef void _sgd(const void *step, Py_ssize_t k) noexcept nogil:
    cdef const Step *o = <const Step *> step
    cdef Stretch s = o.stretches[k]
    if o.single:
        kernels.f32.sgd(<float *> s.p, <const float *> s.g, <float *> (o.one + s.at) if o.one else NULL, s.n,
                        o.lr, o.keep_one, o.decay, o.nesterov)
    else:
        kernels.f64.sgd(<double *> s.p, <const double *> s.g, <double *> (o.one + s.at) if o.one else NULL, s.n,
                        o.lr, o.keep_one, o.decay, o.nesterov)


cdef void _rmsprop(const void *step, Py_ssize_t k) noexcept nogil:
    cdef const Step *o = <const Step *> step
    cdef Stretch s = o.stretches[k]
    if o.single:
        kernels.f32.rmsprop(<float *> s.p, <const float *> s.g, <float *> (o.two + s.at),
                            <float *> (o.one + s.at) if o.one else NULL, s.n, o.lr, o.keep_two, o.eps, o.keep_one,
                            o.decay)
    else:
        kernels.f64.rmsprop(<double *> s.p, <const double *> s.g, <double *> (o.two + s.at),
                            <double *> (o.one + s.at) if o.one else NULL, s.n, o.lr, o.keep_two, o.eps, o.keep_one,
                            o.decay)


cdef void _adam(const void *step, Py_ssize_t k) noexcept nogil:
    cdef const Step *o = <const Step *> step
    cdef Stretch s = o.stretches[k]
    cdef double rate = o.lr / (1 - c_pow(o.keep_one, o.taken[s.index]))
    cdef double scale = 1 / c_sqrt(1 - c_pow(o.keep_two, o.taken[s.index]))
    if o.single:
        kernels.f32.adam(<float *> s.p, <const float *> s.g, <float *> (o.one + s.at), <float *> (o.two + s.at), s.n,
                         rate, o.keep_one, o.keep_two, scale, o.eps, o.decay, o.shrink)
    else:
        kernels.f64.adam(<double *> s.p, <const double *> s.g, <double *> (o.one + s.at), <double *> (o.two + s.at),
                         s.n, rate, o.keep_one, o.keep_two, scale, o.eps, o.decay, o.shrink)


cdef inline char *_state(array):
    if array is None:
        return NULL
    return cnp.PyArray_BYTES(<cnp.ndarray> array)


def sgd(list parameters, list gradients, momenta, double lr, double momentum, double weight_decay, bint nesterov):
    """One step of SGD in place. parameters: arrays of one dtype; gradients: an array or None for each.

    momenta: one flat array over all parameters, in order, or None for no momentum. See updates.h for the formulas.
    """
    cdef vector[Stretch] stretches
    cdef list keep = []
    _stretches(parameters, gradients, (momenta,), keep, &stretches)
    cdef Step step = Step(NULL, parameters[0].dtype == np.float32, _state(momenta), NULL, NULL, lr, momentum, 0, 0,
                          weight_decay, 1, nesterov)
    _update(_sgd, stretches, &step)


def rmsprop(list parameters, list gradients, squares, momenta, double lr, double alpha, double eps, double momentum,
            double weight_decay):
    """One step of RMSprop in place; arguments as in `sgd`, with the flat running mean of squares."""
    cdef vector[Stretch] stretches
    cdef list keep = []
    _stretches(parameters, gradients, (squares, momenta), keep, &stretches)
    cdef Step step = Step(NULL, parameters[0].dtype == np.float32, _state(momenta), _state(squares), NULL, lr, momentum,
                          alpha, eps, weight_decay, 1, False)
    _update(_rmsprop, stretches, &step)


def adam(list parameters, list gradients, means, squares, steps, double lr, double beta1, double beta2, double eps,
         double weight_decay, bint decoupled):
    """One step of Adam, or with decoupled weight decay AdamW, in place; arguments as in `sgd`.

    means, squares: the flat moments. steps: int64, how many steps each parameter has taken; those that take one now
    are counted here.
    """
    cdef vector[Stretch] stretches
    cdef list keep = []
    if steps.shape != (len(parameters),) or steps.dtype != np.int64 or not steps.flags.carray:
        raise ValueError(f"steps must be int64, one for each of {len(parameters)} parameters, got {steps.shape} "
                         f"{steps.dtype}")
    _stretches(parameters, gradients, (means, squares), keep, &stretches)
    cdef int64_t *taken = <int64_t *> cnp.PyArray_DATA(<cnp.ndarray> steps)
    for k, gradient in enumerate(gradients):
        taken[<Py_ssize_t> k] += gradient is not None
    cdef Step step = Step(NULL, parameters[0].dtype == np.float32, _state(means), _state(squares), taken, lr, beta1,
                          beta2, eps, 0 if decoupled else weight_decay, 1 - lr * weight_decay if decoupled else 1,
                          False)
    _update(_adam, stretches, &step)


# -- the time loop -----------------------------------------------------------------------------------------------------

PLACES = {"scratch": SCRATCH, "tile": TILE, "vector": VECTOR, "sequence": SEQUENCE, "before": BEFORE, "after": AFTER,
          "partial": PARTIAL}
SUM_STEPS = sum_steps
SUM_BYTES = sum_bytes
KINDS = {"map": 0, "product": 1, "copy": 2, "sum": 3, "max": 4, "gather": 5, "scatter_add": 6}
ONTO, BIAS = 1, 2
INSTRUCTION_FIELDS = ("kind", "code", "width", "inner", "n", "add", "index", "spread", "dst", "dst_at", "a", "a_at",
                      "b", "b_at", "c", "c_at", "d", "d_at", "pair")
# (first op, second op, which of its operands the first makes, what is spread) -> number
PAIRS = {(tr_pairs[i].first.decode(), tr_pairs[i].second.decode(), tr_pairs[i].place, tr_pairs[i].spread): i
         for i in range(TR_N_PAIRS)}


cdef bint _is_of(cnp.ndarray array, int kind):
    return cnp.PyArray_TYPE(array) == kind and cnp.PyArray_IS_C_CONTIGUOUS(array)


cdef class Loop:
    """A program (program.h), checked.

    code     (instructions, 19) int32, the fields of INSTRUCTION_FIELDS; index (n,) int32
    places   (buffers, 2) int64: each buffer's place (program.h) and columns
    """

    cdef cnp.ndarray code, index, places
    cdef vector[int32_t] moving     # the buffers that are elsewhere at every step
    cdef Block held                 # weights packed by the last run that had a serial, and that
    cdef int64_t serial

    def __init__(self, cnp.ndarray code, cnp.ndarray index, cnp.ndarray places):
        cdef const int64_t *place = <const int64_t *> cnp.PyArray_DATA(places)
        if not (_is_of(code, cnp.NPY_INT32) and _is_of(index, cnp.NPY_INT32) and _is_of(places, cnp.NPY_INT64)):
            raise TypeError("code and index must be int32, places int64, all in one piece")
        self.code, self.index, self.places = code, index, places
        self.serial = -1
        self.moving.clear()
        for k in range(places.shape[0]):
            if place[2 * k] not in (SCRATCH, TILE, VECTOR):
                self.moving.push_back(k)

    def run(self, list arrays, list others, list weights, cnp.ndarray count, cnp.ndarray offset, bint backwards,
            list cuts, int64_t serial=-1):
        """Run the program over all its steps.

        arrays, others  each buffer's base, None for scratch, and its other, None for most
        weights  2-D arrays (K, N) of any strides: packed here, once for the whole sequence
        count, offset  (steps,) int64: rows of a step, and where they begin in a sequence
        cuts     rows at which the batch is cut into shards, 0 first and the batch last; a thread runs each
        serial   another number for other values of the weights, which are held packed for the next run; -1: unknown
        """
        if not (_is_of(count, cnp.NPY_INT64) and _is_of(offset, cnp.NPY_INT64)):
            raise TypeError("count and offset must be int64, in one piece")
        if not len(arrays) == len(others) == self.places.shape[0]:
            raise ValueError("arrays and others must be one for each of places")
        for array in arrays:
            if array is not None:
                if cnp.PyArray_TYPE(<cnp.ndarray?> array) == cnp.NPY_FLOAT32:
                    _run_loop[float](self, arrays, others, weights, count, offset, backwards, cuts, serial, 0)
                else:
                    _run_loop[double](self, arrays, others, weights, count, offset, backwards, cuts, serial, 0)
                break


cdef enum:
    HELD = 1 << 24          # elements of packed weights that are held between runs, at most

cdef struct Panels:
    bint single
    void *to
    const void *source
    Py_ssize_t row, column, k, n    # strides in elements, and the shape


cdef void _pack(const void *panels, Py_ssize_t k) noexcept nogil:
    cdef Panels p = (<const Panels *> panels)[k]
    if p.single:
        kernels.f32.pack(<float *> p.to, <const float *> p.source, p.row, p.column, p.k, p.n)
    else:
        kernels.f64.pack(<double *> p.to, <const double *> p.source, p.row, p.column, p.k, p.n)


cdef _run_loop(Loop loop, list arrays, list others, list weights, cnp.ndarray count, cnp.ndarray offset,
               bint backwards, list cuts, int64_t serial, real which):
    cdef Block held = loop.held if serial >= 0 and serial == loop.serial else None
    cdef bint is_packed = held is not None
    cdef Py_ssize_t n = len(arrays), shards = len(cuts) - 1, k, total = 0, rows = 0, each
    cdef const int64_t *place = <const int64_t *> cnp.PyArray_DATA(loop.places)
    cdef cnp.ndarray array
    cdef vector[Py_ssize_t] bounds
    cdef vector[real *] at
    cdef vector[const real *] packed
    cdef vector[BufferF32] table32
    cdef vector[BufferF64] table64
    cdef LoopF32 loop32
    cdef LoopF64 loop64
    cdef real *base
    cdef real *other
    cdef real *space
    cdef real *scratch
    cdef Py_ssize_t ld, item = sizeof(real), panel, size
    cdef vector[Panels] panels
    bounds.reserve(shards + 1)
    if real is float:
        table32.reserve(n)
    else:
        table64.reserve(n)
    packed.reserve(len(weights))
    for k in range(shards + 1):
        bounds.push_back(cuts[k])
        if k:
            rows = max(rows, bounds[k] - bounds[k - 1])
    at.resize(n * shards)
    # 1. where everything lies
    for k in range(n):
        base = other = NULL
        ld = place[2 * k + 1]
        if arrays[k] is not None:
            array = <cnp.ndarray?> arrays[k]
            base = <real *> cnp.PyArray_DATA(array)
            ld = cnp.PyArray_STRIDE(array, 0) // item if place[2 * k] != VECTOR else 0
        if others[k] is not None:
            other = <real *> cnp.PyArray_DATA(<cnp.ndarray?> others[k])
        if real is float:
            table32.push_back(BufferF32(base, other, ld, place[2 * k]))
        else:
            table64.push_back(BufferF64(base, other, ld, place[2 * k]))
    # 2. the weights, packed
    for array in weights:
        if real is float:
            total += (kernels.f32.packed_size(array.shape[0], array.shape[1]) + 15) & ~15
        else:
            total += (kernels.f64.packed_size(array.shape[0], array.shape[1]) + 15) & ~15
    if real is float:
        loop32 = LoopF32(<const Instruction *> cnp.PyArray_DATA(loop.code), loop.code.shape[0], table32.data(), n,
                         loop.moving.data(), loop.moving.size(), NULL,
                         <const int32_t *> cnp.PyArray_DATA(loop.index), <const int64_t *> cnp.PyArray_DATA(count),
                         <const int64_t *> cnp.PyArray_DATA(offset), count.shape[0], backwards)
        each = kernels.f32.scratch_size(&loop32, rows)
    else:
        loop64 = LoopF64(<const Instruction *> cnp.PyArray_DATA(loop.code), loop.code.shape[0], table64.data(), n,
                         loop.moving.data(), loop.moving.size(), NULL,
                         <const int32_t *> cnp.PyArray_DATA(loop.index), <const int64_t *> cnp.PyArray_DATA(count),
                         <const int64_t *> cnp.PyArray_DATA(offset), count.shape[0], backwards)
        each = kernels.f64.scratch_size(&loop64, rows)
    total = whole_pages(total * sizeof(real)) // sizeof(real)
    if not is_packed and serial >= 0 and 0 < total <= HELD:
        held = Block(total * sizeof(real))
    if held is None:
        space = <real *> arena((total + shards * each) * sizeof(real))
        scratch = space + total
    else:
        space = <real *> held.memory
        scratch = <real *> arena(max(shards * each, 1) * sizeof(real))
    for array in weights:
        packed.push_back(space)
        if real is float:
            panel = kernels.f32.packed_size(1, 1)
            size = kernels.f32.packed_size(array.shape[0], array.shape[1])
        else:
            panel = kernels.f64.packed_size(1, 1)
            size = kernels.f64.packed_size(array.shape[0], array.shape[1])
        for k in range(0, 0 if is_packed else array.shape[1], 8 * panel):
            panels.push_back(Panels(sizeof(real) == 4, space + k * array.shape[0],
                                    cnp.PyArray_BYTES(array) + k * cnp.PyArray_STRIDE(array, 1),
                                    cnp.PyArray_STRIDE(array, 0) // item, cnp.PyArray_STRIDE(array, 1) // item,
                                    array.shape[0], min(8 * panel, array.shape[1] - k)))
        space += (size + 15) & ~15
    # 3. the loop
    if real is float:
        loop32.weights = packed.data()
        with nogil:
            share(panels.size(), shards, _pack, panels.data())
            run_shards_f32(kernels.f32.run_loop, &loop32, bounds.data(), shards, at.data(), scratch, each)
    else:
        loop64.weights = packed.data()
        with nogil:
            share(panels.size(), shards, _pack, panels.data())
            run_shards_f64(kernels.f64.run_loop, &loop64, bounds.data(), shards, at.data(), scratch, each)
    if held is not None:
        loop.held, loop.serial = held, serial
