"""Arrays: a NumPy array inside, CuPy's manners outside."""

import numbers

import numpy as np
from cupy import cuda
from cupy._core._routines_linalg import rounded
from cupy.cuda import runtime

GUARD = 256  # bytes on both sides of an array that nothing may write to
UNWRITTEN = 0xFF  # what fresh memory is filled with: NaN in floating point, -1 in integers
ALIGNMENT = 512
DTYPES = "?bhilqBHILQefdFD"


class Memory:
    """An allocation of `nbytes` bytes at `ptr`, between guards."""

    def __init__(self, nbytes):
        runtime.need_device()
        cuda.forbid_capture()
        self.raw = np.full(nbytes + 2 * GUARD + ALIGNMENT, UNWRITTEN, np.uint8)
        address = self.raw.ctypes.data
        self.offset = GUARD + -(address + GUARD) % ALIGNMENT
        self.end = self.offset + nbytes
        self.ptr = address + self.offset

    def intact(self):
        """Whether nothing wrote next to it."""
        guards = self.raw[self.offset - GUARD : self.offset], self.raw[self.end : self.end + GUARD]
        return all(guard.tobytes() == b"\xff" * GUARD for guard in guards)


class Imported:
    """Memory that came by DLPack."""

    def __init__(self, array):
        self.array = array

    def intact(self):
        return True


class Pointer:
    def __init__(self, ptr):
        self.ptr = ptr


class Flags:
    def __init__(self, flags):
        self.c_contiguous = flags.c_contiguous
        self.f_contiguous = flags.f_contiguous


def absent(name):
    def method(self, *args, **kwargs):
        raise TypeError(f"cupy.ndarray.{name} is not in the part of CuPy that tinyrnn uses")

    return method


class ndarray:  # noqa: N801
    """Made by the functions of this module only. `_a` is the NumPy array, `_memory` what it lies in."""

    __slots__ = ("__weakref__", "_a", "_memory")
    __array_ufunc__ = None
    __hash__ = None
    __bool__, __iter__, __len__ = absent("__bool__"), absent("__iter__"), absent("__len__")
    __eq__, __ne__ = absent("__eq__"), absent("__ne__")
    __float__, __int__, __index__ = absent("__float__"), absent("__int__"), absent("__index__")

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    strides = property(lambda self: self._a.strides)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    flags = property(lambda self: Flags(self._a.flags))
    data = property(lambda self: Pointer(self._a.ctypes.data if self.size else 0))
    T = property(lambda self: self.transpose())

    def __init__(self):
        raise TypeError("make arrays with cupy.empty")

    def __array__(self, dtype=None, copy=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, func, types, args, kwargs):
        raise TypeError(f"numpy.{func.__name__} of a cupy.ndarray: tinyrnn may not use it")

    def __repr__(self):
        return f"<stand-in {self._a!r}>"

    def get(self):
        cuda.forbid_capture()
        return np.array(self._a, order="C")

    def item(self):
        cuda.forbid_capture()
        return self._a.item()

    def transpose(self, *axes):
        return view(self, self._a.transpose(*axes))

    def reshape(self, *shape):
        return view_or_copy(self, self._a.reshape(*shape))

    def ravel(self):
        return view_or_copy(self, self._a.reshape(-1))

    def copy(self):
        return on_device(np.array(self._a, order="C"))

    def astype(self, dtype, copy=True):
        if not copy and self.dtype == np.dtype(dtype):
            return self
        with np.errstate(all="ignore"):
            return on_device(self._a.astype(dtype))

    def fill(self, value):
        self[...] = value

    def __getitem__(self, index):
        index, advanced = on_host(index)
        return on_device(self._a[index]) if advanced else view(self, self._a[index])

    def __setitem__(self, index, value):
        index, advanced = on_host(index)
        target, memories = self._a[index], [self._memory]  # an index out of bounds raises now
        if isinstance(value, ndarray):
            np.broadcast_to(np.empty(value.shape), target.shape)  # so does a shape
            if not advanced and np.shares_memory(target, value._a) and not same_place(target, value._a):
                raise RuntimeError("a copy between arrays that overlap is not defined on a device")
            source = value._a
            memories.append(value._memory)
        elif isinstance(value, numbers.Number | np.generic) or getattr(value, "shape", None) == ():
            source = np.asarray(value)
        else:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if advanced:
            cuda.forbid_capture()

        def work(_, array=self._a):
            with np.errstate(all="ignore"):
                array[index] = source

        cuda.submit(work, memories)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        return self._a.__dlpack__(max_version=max_version)

    def __dlpack_device__(self):
        return 2, 0  # kDLCUDA


def wrap(array, memory):
    made = object.__new__(ndarray)
    made._a, made._memory = array, memory
    return made


def view(array, a):
    return wrap(a, array._memory)


def view_or_copy(array, a):
    return view(array, a) if np.may_share_memory(a, array._a) else on_device(a)


def new(shape, dtype, strides=None):
    dtype = np.dtype(dtype)
    if dtype.char not in DTYPES or not dtype.isnative:
        raise ValueError(f"Unsupported dtype {dtype}")
    shape = (shape,) if isinstance(shape, numbers.Integral) else tuple(shape)
    memory = Memory(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    return wrap(np.ndarray(shape, dtype, memory.raw, memory.offset, strides), memory)


def on_device(a):
    """A copy of a NumPy array that is contiguous in some order of its axes; of another, a copy in C order."""
    a = np.asarray(a)
    packed = a.size == 0 or np.transpose(a, np.argsort([-s for s in a.strides], kind="stable")).flags.c_contiguous
    made = new(a.shape, a.dtype, a.strides if packed and a.size else None)
    made._a[...] = a
    return made


def on_host(index):
    """An index without cupy arrays and with an ellipsis, so that it never makes a scalar; and whether it copies."""
    parts = [
        part._a if isinstance(part, ndarray) else part for part in (index if isinstance(index, tuple) else (index,))
    ]
    advanced = any(isinstance(part, np.ndarray | list) for part in parts)
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)
    return tuple(parts), advanced


def same_place(a, b):
    return a.ctypes.data == b.ctypes.data and a.shape == b.shape and a.strides == b.strides


def only_arrays(*arrays):
    for array in arrays:
        if not isinstance(array, ndarray):
            raise TypeError(f"Unsupported type {type(array)}")


def empty(shape, dtype=float):
    return new(shape, dtype)


def zeros(shape, dtype=float):
    return full(shape, 0, dtype)


def ones(shape, dtype=float):
    return full(shape, 1, dtype)


def full(shape, fill_value, dtype=None):
    made = new(shape, np.asarray(fill_value).dtype if dtype is None else dtype)
    made[...] = fill_value
    return made


def asarray(a, dtype=None):
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    cuda.forbid_capture()
    a = np.asarray(a, dtype)
    return on_device(a if a.flags.f_contiguous else np.asarray(a, order="C"))


def ascontiguousarray(a, dtype=None):
    a = asarray(a, dtype)
    if a.ndim == 0:
        return a.reshape(1)
    return a if a.flags.c_contiguous else a.copy()


def concatenate(tup, axis=0):
    arrays = list(tup)
    if not all(isinstance(array, ndarray) for array in arrays):
        raise TypeError("Only cupy arrays can be concatenated")
    return on_device(np.concatenate([array._a for array in arrays], axis))


def broadcast_to(array, shape):
    only_arrays(array)
    return view(array, np.broadcast_to(array._a, shape))


def matmul(a, b, /, out=None):
    only_arrays(a, b, *([] if out is None else [out]))
    cuda.forbid_capture()  # cuBLAS can not be captured through CuPy
    with np.errstate(all="ignore"):
        result = np.matmul(rounded(a._a), rounded(b._a))
    if out is None:
        return on_device(result)
    if out.shape != result.shape or out.dtype != result.dtype:
        raise ValueError(f"matmul gives {result.shape} {result.dtype}, out is {out.shape} {out.dtype}")
    out._a[...] = result
    return out


class OnHost:
    """An array that says it is on the CPU, for NumPy."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, *, max_version=None, **options):
        return self.array.__dlpack__(max_version=max_version)

    def __dlpack_device__(self):
        return 1, 0


def from_dlpack(array):
    """A view of a device's array of another library."""
    if not hasattr(array, "__dlpack_device__"):
        raise TypeError(f"Unsupported type {type(array)}")
    if array.__dlpack_device__()[0] != 2:
        raise TypeError("CPU arrays cannot be directly imported to CuPy")
    a = np.from_dlpack(OnHost(array))
    return wrap(a, Imported(a))
