# distutils: language = c++
"""Tensor and Tape: values, the record of how they were made, and the walk back over that record.

A `Tensor` is an array beside the record of the op that made it: the `Op`, its input tensors and its static
attributes. There is no other graph: a `Tape` is the list of the tensors that lead to some outputs, in the order in
which they were made, and the reverse sweep walks that list backwards, asking each op's vjp rule for the gradients of
its inputs. vjp rules are written with ops, so the sweep can itself be recorded: that is all there is to second
derivatives, and to recording the reverse of a step before any value exists.

An array may be an `Abstract`: a shape and a dtype without values. Ops on abstract arrays follow their shape rules and
record themselves as always; this is how a cell's step becomes a program. An array that is neither that nor NumPy's
lives on another device, of which this module knows only the functions that `bind_device` brought.

This module knows nothing of particular ops but the elementwise call, which it makes directly in C so that an eager
op costs a few hundred nanoseconds. `tinyrnn.ops` makes the records and hands those behind the operators to `bind`.
"""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint64_t
from libcpp.vector cimport vector

import threading

import numpy as np

from tinyrnn._core import kernels as _kernels

cnp.import_array()

cdef extern from "kernels.h":
    ctypedef void (*map_f32)(float *, const float *, const float *, const float *, Py_ssize_t) noexcept nogil
    ctypedef void (*map_f64)(double *, const double *, const double *, const double *, Py_ssize_t) noexcept nogil
    ctypedef void (*map_rows_f32)(float *, Py_ssize_t, const float **, const Py_ssize_t *, int, Py_ssize_t,
                                  Py_ssize_t) noexcept nogil
    ctypedef void (*map_rows_f64)(double *, Py_ssize_t, const double **, const Py_ssize_t *, int, Py_ssize_t,
                                  Py_ssize_t) noexcept nogil
    ctypedef struct KernelsF32 "tr_Kernels_f32":
        map_f32 map[1]
        map_rows_f32 map_rows[1]
    ctypedef struct KernelsF64 "tr_Kernels_f64":
        map_f64 map[1]
        map_rows_f64 map_rows[1]
    ctypedef struct Kernels "tr_Kernels":
        KernelsF32 f32
        KernelsF64 f64

cdef extern from "record.h":
    # One of the three modes below, one a thread.
    int tr_mode
    int tr_frees            # whether the sweep under way frees the graph, and no other differentiates its gradients
    uint64_t tr_fingerprint(const void *bytes, Py_ssize_t n) noexcept nogil

cdef extern from "numpy/arrayobject.h":
    int NPY_MAXDIMS

cdef const Kernels *kernels = <const Kernels *> PyCapsule_GetPointer(_kernels.active_table(), "tinyrnn.kernels")

ctypedef void (*Piece)(const void *work, Py_ssize_t k) noexcept nogil
ctypedef object (*PassOver)(Py_ssize_t n_bytes, Py_ssize_t pieces, Piece piece, const void *work)
cdef PassOver pass_over = <PassOver> PyCapsule_GetPointer(_kernels.passing(), "tinyrnn.pass_over")

OFF, ON, EVERYTHING = 0, 1, 2
"""Recording modes: nothing; ops of which an input requires a gradient; every op (used to record a step)."""

cdef enum:
    TILE = 512              # elements a gathered operand holds at a time
    MAX_DIMS = 64           # NumPy's own limit
    NOGIL_ELEMENTS = 20000  # below this, releasing the lock costs more than it frees
    STRETCH = 1 << 14       # elements that a thread passes over in one go

cdef int64_t _clock = 0     # the order in which tensors were made; only read and written with the GIL held
_operators = {}             # set once by bind()
_accumulating = threading.Lock()      # held by the one thread that adds to leaves' gradients


def mode():
    """The calling thread's recording mode."""
    return tr_mode


def set_mode(int value):
    """Set the calling thread's recording mode and return the one before."""
    global tr_mode
    before = tr_mode
    tr_mode = value
    return before


cdef class Mode:
    """Sets the calling thread's recording mode, a subclass's `mode`, for a with block; may be nested."""

    cdef list _before

    def __cinit__(self):
        self._before = []

    def __enter__(self):
        global tr_mode
        self._before.append(tr_mode)
        tr_mode = self.mode

    def __exit__(self, kind, error, traceback):
        global tr_mode
        tr_mode = self._before.pop()


_watching = threading.local()


def watch(callback):
    """Call back with every tensor that the calling thread records in the mode EVERYTHING; None: no more.

    Returns the callback before. What it raises comes out of the op that was being recorded.
    """
    before = getattr(_watching, "callback", None)
    _watching.callback = callback
    return before


def bind(dict operators):
    """Give the tape the ops behind `+`, `@`, `[]`, .sum() and the like; called once, by `tinyrnn.ops`."""
    _operators.update(operators)


cdef object _device = None      # what works on arrays that are not NumPy's; set once by bind_device()


def bind_device(functions):
    """Give the tape the functions for arrays of another device, a module; called once, by `tinyrnn.ops`.

    name                          what messages and `Tensor.device` call the device
    is_array(x)                   whether x is one of its arrays
    asarray(array)                NumPy's array there; an array of its own as it is
    fetch(array)                  a copy as NumPy's array
    fresh(x, dtype)               a contiguous copy of one of its arrays, in dtype (None: its own, or float32)
    zeros, ones(shape, dtype)     new arrays
    number(value, dtype)          an array without axes, which nobody may write to
    pointwise(op, arrays, into)   an elementwise op over broadcast arrays of one dtype, into a new array if into is None
    counterpart(function)         what does there what `function` does with NumPy's arrays
    """
    global _device
    _device = functions


cdef inline bint _is_away(object array):
    """Whether an array is on the other device."""
    return (type(array) is not cnp.ndarray and type(array) is not Abstract and _device is not None
            and _device.is_array(array))


cdef str _place(object array):
    return _device.name if _is_away(array) else "cpu"


class TraceError(RuntimeError):
    """A value was asked of a tensor that has none yet, because a step is being recorded on shapes alone."""


cdef class Abstract:
    """An array's shape and dtype, without values. shape: tuple of int; dtype: np.float32 or np.float64."""

    cdef readonly tuple shape
    cdef readonly object dtype

    def __init__(self, shape, dtype):
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    @property
    def ndim(self):
        return len(self.shape)

    def __repr__(self):
        return f"Abstract({self.shape}, {self.dtype.name})"


@cython.freelist(8)
cdef class Op:
    """One op: its forward, its vjp rules, its shape rule and the domain its tests draw from.

    name      what messages, plans and tests call it
    arity     how many leading arguments are tensors; the rest are static attributes. -1: the first argument is a list
    code      the position in TR_POINTWISE (pointwise.h) of an elementwise op, else -1
    forward   (*arrays, *attributes) -> array; None for an elementwise op, whose kernel is compiled
    shape     (*shapes, *attributes) -> shape of the result; None for an elementwise op, which broadcasts
    vjps      one function an input, (g, y, *inputs, *attributes) -> gradient of that input, written with ops;
              None where no gradient flows. With arity -1 one function for all of them, (g, y, inputs, wanted,
              *attributes) -> a gradient, or None, an input; `wanted` says which are needed.
              A gradient of a broadcast shape is summed to its input's shape by the tape.
    accumulate  optional, one function an input or None, (buffer, g, *arrays of the other inputs, *attributes): adds
              that input's gradient into an array in place, so that many uses of one array (time steps, embedding rows,
              a weight at every step) do not each make an array of its full size
    multi     the op, of arity -1, makes several results at once (see `bundle`): g is then a list of their gradients,
              with None where none arrived, and y the hub
    reference, domain, kink   for tests: a float64 NumPy function, intervals to draw each input from, and how
              far arguments are from a point without derivative
    """

    cdef readonly str name
    cdef readonly int arity
    cdef readonly int code
    cdef readonly object forward, shape, vjps, accumulate, reference, domain, kink
    cdef readonly bint multi
    cdef readonly str __doc__

    def __init__(self, str name, int arity, vjps, *, int code=-1, forward=None, shape=None, accumulate=None,
                 bint multi=False, reference=None, domain=None, kink=None, doc=None):
        if code < 0 and not multi and (forward is None or shape is None):
            raise ValueError(f"op {name!r} needs a forward and a shape rule, or the code of a compiled elementwise op")
        if arity >= 0 and len(vjps) != arity:
            raise ValueError(f"op {name!r} needs one vjp for each of its {arity} inputs, got {len(vjps)}")
        self.name = name
        self.multi = multi
        self.arity = arity
        self.code = code
        self.vjps = vjps if arity < 0 else tuple(vjps)
        self.forward, self.shape, self.accumulate = forward, shape, accumulate
        self.reference, self.domain, self.kink = reference, domain, kink
        self.__doc__ = doc

    def __call__(self, *args):
        cdef Py_ssize_t n = len(args)
        cdef object model
        if self.code >= 0:
            if n != self.arity:
                raise TypeError(f"{self.name}() takes {self.arity} arguments, got {n}")
            if n == 1:
                a = args[0]
                return _pointwise(self, <Tensor> a if isinstance(a, Tensor) else _operand(a, None), None, None)
            model = _model(args)
            return _pointwise(self, _operand(args[0], model), _operand(args[1], model),
                              _operand(args[2], model) if n == 3 else None)
        if self.arity == 1 and n and isinstance(args[0], Tensor):
            return _apply(self, args[:1], args[1:])
        if self.arity < 0:
            inputs, attrs = args[0], args[1:]
        else:
            inputs, attrs = args[:self.arity], args[self.arity:]
        model = _model(inputs)
        return _apply(self, tuple([_operand(a, model) for a in inputs]), attrs)

    def __repr__(self):
        return f"<op {self.name}>"

    def __reduce__(self):
        return self.name


cdef class Tensor:
    """An array that remembers how it was made. Make one with `tr.tensor`.

    op, inputs, attrs: the record of a result, None for a leaf; `inputs` is None, too, once the graph was freed.
    order: the position in the order of making, in which a Tape is sorted.
    """

    cdef public object _array       # ndarray, the array of another device, or Abstract
    cdef readonly Op op             # what made it; None for a leaf
    cdef readonly tuple inputs      # the op's input tensors; None for a leaf, and after the graph was freed
    cdef readonly tuple attrs       # the op's static attributes
    cdef readonly int64_t order     # position in the order of making: an input's is below its result's
    cdef object _grad
    cdef object _name
    cdef object __weakref__
    cdef bint _requires_grad
    # Damage control. A leaf's version counts replacements of its value; a result stores the sum of its inputs'
    # versions. Writes through a leaf's `.data` array are seen by a fingerprint, taken only where both a graph has
    # saved the value and somebody holds its array.
    cdef int64_t _version
    cdef int64_t _exposures         # how often somebody took the array
    cdef int64_t _saved_versions
    cdef bint _saved, _exposed, _guarded
    cdef uint64_t _fingerprint
    cdef Tensor _origin             # the leaf whose memory this leaf is a view of, made by an op that was not recorded

    # An ndarray on the left of an operator must leave it to us, or it would make an array of objects.
    __array_ufunc__ = None

    def __init__(self, data, requires_grad=False, dtype=None, device=None):
        self._array = _new_array(data, dtype)
        if device is not None and device != _place(self._array):
            self._array = _moved(self._array, device)
        self._requires_grad = bool(requires_grad)
        self.order = _tick()

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def data(self):
        """The array, NumPy's or of another device CuPy's.

        A leaf's is writable; assigning replaces its values. A result's is read-only, CuPy's by custom alone.
        """
        if type(self._array) is Abstract:
            raise _no_value(self)
        if self.op is None:
            self._expose()
        return self._array

    @data.setter
    def data(self, value):
        if self.op is not None:
            raise RuntimeError(f"only a leaf's data can be replaced, and {_describe(self)} is the result of "
                               f"{self.op.name}; use .detach() first")
        away = _is_away(self._array)
        if not away and _device is not None and _device.is_array(value):
            raise TypeError(f"data of {_describe(self)} on cpu must be NumPy's, got an array on {_device.name}")
        array = value if away and _device.is_array(value) else np.asarray(value)
        if array.shape != self.shape:
            raise ValueError(f"data of a {self.shape} tensor must keep its shape, got {array.shape}")
        if array is self._array:        # `t.data -= x` writes in place, then assigns the same array
            if away or self._array.flags.writeable:
                self._bump()
            return
        if not away:
            self._replace(np.array(array, dtype=self._array.dtype, order="C"))
        elif isinstance(array, np.ndarray):
            self._replace(_device.asarray(np.array(array, dtype=self._array.dtype, order="C")))
        else:
            self._replace(_device.fresh(array, self._array.dtype))

    def _move(self, device):
        """Put a leaf's value and its gradient on a device, in place."""
        if self.op is not None:
            raise RuntimeError(f"only a leaf can be moved in place, and {_describe(self)} is the result of "
                               f"{self.op.name}; use .to()")
        if type(self._array) is Abstract or _place(self._array) == device:
            return
        self._replace(_moved(self._array, device))
        if self._grad is not None:
            self._grad = _constant(_moved((<Tensor> self._grad)._array, device))

    cdef _replace(self, object array):
        """Put an array that nobody else holds in the place of the value."""
        if self._origin is not None:
            self._version += self._origin._changes()
        self._array, self._exposed, self._origin = array, False, None
        self._bump()

    def _bump(self):
        """Say that the value was changed in place: graphs that saved it can no longer be differentiated."""
        self._version += 1
        self._saved = self._guarded = False

    @property
    def grad(self):
        """The accumulated gradient: a Tensor of the same shape and dtype, or None."""
        return self._grad

    @grad.setter
    def grad(self, value):
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(f"grad must be a Tensor or None, got {type(value).__name__}")
            if value.shape != self.shape or value.dtype != self.dtype:
                raise ValueError(f"grad must be {self.shape} {self.dtype}, got {value.shape} {value.dtype}")
            if _place((<Tensor> value)._array) != _place(self._array):
                raise ValueError(f"grad must be on {self.device} like its tensor, got one on {value.device}")
        self._grad = value

    @property
    def requires_grad(self):
        """Whether gradients are recorded for this tensor; can be set on a leaf."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value):
        if self.op is not None:
            raise RuntimeError(f"requires_grad can be set on a leaf only, and {_describe(self)} is the result of "
                               f"{self.op.name}; use .detach()")
        self._requires_grad = bool(value)

    @property
    def name(self):
        """What messages and printed tapes call this tensor; None if it was not named."""
        return self._name

    @name.setter
    def name(self, value):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"name must be a str or None, got {type(value).__name__}")
        self._name = value

    @property
    def shape(self):
        """The sizes of the axes, a tuple of int."""
        return self._array.shape

    @property
    def dtype(self):
        """The np.dtype: float32 or float64."""
        return self._array.dtype

    @property
    def ndim(self):
        """The number of axes."""
        return self._array.ndim

    @property
    def size(self):
        """The number of elements."""
        cdef Py_ssize_t n = 1
        for d in self._array.shape:
            n *= d
        return n

    @property
    def device(self):
        """Where the array lives: "cpu" or "cuda"."""
        return _place(self._array)

    @property
    def is_leaf(self):
        """Whether no recorded op made this tensor."""
        return self.op is None

    # -- values ----------------------------------------------------------------------------------------------------

    def numpy(self):
        """The values as a NumPy array that shares memory where it can (read-only for the result of an op).

        Of a tensor on another device it is a copy.
        """
        return _fetched(self._array) if _is_away(self._array) else self.data

    def item(self):
        """The one value of a tensor of one element, as a Python float."""
        if self.size != 1:
            raise ValueError(f"item() needs a tensor of one element, got shape {self.shape}")
        return self.data.item()

    def detach(self):
        """The same values without their history, as a leaf that requires no gradient and shares the array."""
        cdef Tensor out = Tensor.__new__(Tensor)
        out._array = self._array
        out._name = self._name
        out.order = _tick()
        if self.op is None:
            self._expose()
            out._exposed, out._origin = True, self._origin
        else:
            out._origin = _owner(self._array, self)
        return out

    def to(self, device):
        """The values on a device, "cpu" or "cuda"; the gradient comes back. The tensor itself if it is there."""
        return _operators["to"](self, device)

    def astype(self, dtype):
        """The values in another dtype (float32 or float64); differentiable."""
        return _operators["astype"](self, dtype)

    def __array__(self, dtype=None, copy=None):
        if _is_away(self._array):
            raise TypeError(f"{_describe(self)} is on {_device.name}, and NumPy can not read it there; .numpy() copies "
                            "it")
        return np.array(self.data, dtype=dtype, copy=copy)

    def __array_function__(self, function, types, args, kwargs):
        """NumPy's functions take the values. Where these have a gradient and the result is numbers, it is refused:
        arrays have no gradient, so it would be lost unseen.
        """
        if not all([issubclass(kind, (Tensor, np.ndarray)) for kind in types]):
            return NotImplemented
        cdef list learning = []
        name, asks = function.__name__, function.__name__ in _ASKS
        made = function(*_without_tensors(args, asks, learning), **_without_tensors(kwargs, asks, learning))
        if learning and tr_mode != OFF and name not in _TAKES_VALUES and _holds_numbers(made):
            raise TypeError(
                f"{function.__module__}.{name} makes an array, which has no gradient, of {_describe(learning[0])}, "
                "which has one: write it with ops (tr.concat, tr.sum, ..), or give NumPy the values alone by "
                "np.asarray(..) or .detach()")
        return made

    def __dlpack__(self, **kwargs):
        # Most consumers refuse read-only memory, and none of them writes into what it was not told to.
        array = self.data
        if isinstance(array, np.ndarray) and not array.flags.writeable:
            array = array.view()
            cnp.PyArray_ENABLEFLAGS(<cnp.ndarray> array, cnp.NPY_ARRAY_WRITEABLE)
        return array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()

    def __float__(self):
        return float(self.item())

    def __bool__(self):
        if type(self._array) is Abstract:
            raise _no_value(self)
        if self.size != 1:
            raise ValueError(f"the truth of a tensor of shape {self.shape} is ambiguous; use NumPy's any() or all()")
        return bool(self.data.item())

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of a tensor without dimensions")
        return self.shape[0]

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a tensor without dimensions")
        return iter([self[i] for i in range(self.shape[0])])

    def __reduce__(self):
        if self.op is not None:
            raise TypeError(f"only leaves can be copied or pickled, and {_describe(self)} is the result of "
                            f"{self.op.name}; use .detach()")
        # Whoever reads the file may not have the device, so it comes back on the cpu.
        return _rebuild, (type(self), np.array(_fetched(self._array)), self._requires_grad, self._name)

    def __copy__(self):
        """A leaf of the same values; a result, whose values stay, is its own copy."""
        return self if self.op is not None else self.__deepcopy__({})

    def __deepcopy__(self, memo):
        if _is_away(self._array) and self.op is None:
            return _rebuild(type(self), _copied(self._array), self._requires_grad, self._name)
        build, args = self.__reduce__()
        return build(*args)

    def __repr__(self):
        about = [f"shape={self.shape}", f"dtype={self.dtype.name}"] if type(self._array) is Abstract else \
            [np.array2string(_fetched(self._array), separator=", ", prefix="tensor(", threshold=200),
             f"dtype={self.dtype.name}"]
        if _is_away(self._array):
            about.append(f"device={_device.name!r}")
        if self._name is not None:
            about.append(f"name={self._name!r}")
        if self.op is not None:
            about.append(f"op={self.op.name}")
        elif self._requires_grad:
            about.append("requires_grad=True")
        return f"tensor({', '.join(about)})"

    # -- operators -------------------------------------------------------------------------------------------------

    def __add__(self, other):
        return _binary(_add, self, other)

    def __radd__(self, other):
        return _binary(_add, other, self)

    def __sub__(self, other):
        return _binary(_sub, self, other)

    def __rsub__(self, other):
        return _binary(_sub, other, self)

    def __mul__(self, other):
        return _binary(_mul, self, other)

    def __rmul__(self, other):
        return _binary(_mul, other, self)

    def __truediv__(self, other):
        return _binary(_div, self, other)

    def __rtruediv__(self, other):
        return _binary(_div, other, self)

    def __pow__(self, other, modulus):
        if modulus is not None:
            return NotImplemented
        if other == 2 if isinstance(other, (int, float)) else False:
            return _operators["square"](self)
        return _binary(_pow, self, other)

    def __rpow__(self, other, modulus):
        return _binary(_pow, other, self)

    def __neg__(self):
        return _pointwise(_neg, self, None, None)

    def __pos__(self):
        return self

    def __abs__(self):
        return _operators["abs"](self)

    def __matmul__(self, other):
        if isinstance(other, Tensor) and _are_matrices(self, <Tensor> other, False, False):
            return _product(self, <Tensor> other, False, False)
        return _matmul(self, other)

    def __rmatmul__(self, other):
        return _matmul(other, self)

    def __getitem__(self, index):
        return _operators["getitem"](self, index)

    def sum(self, axis=None, keepdims=False):
        """The sum over `axis` (int, tuple, or None for all)."""
        return _operators["sum"](self, axis, keepdims)

    def mean(self, axis=None, keepdims=False):
        """The mean over `axis` (int, tuple, or None for all)."""
        return _operators["mean"](self, axis, keepdims)

    def max(self, axis=None, keepdims=False):
        """The maximum over `axis`; the gradient is shared equally among ties."""
        return _operators["max"](self, axis, keepdims)

    def reshape(self, *shape):
        """The same values in another shape; one size may be -1."""
        return _operators["reshape"](self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes):
        """The axes in another order; reversed if none are given."""
        return _operators["transpose"](self, axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes)

    @property
    def T(self):
        """The axes reversed."""
        return _operators["transpose"](self, ())

    # -- gradients -------------------------------------------------------------------------------------------------

    def backward(self, grad=None, *, retain_graph=False):
        """Add d self / d leaf to the `.grad` of every leaf that requires one.

        grad: the gradient of this tensor, of its shape; may be left out for a tensor of one element. The graph
        is freed on the way unless retain_graph. Raises RuntimeError where there is nothing to differentiate, where the
        graph was freed before, or where a value it saved was changed in place since.
        """
        leaves, gradients = Tape([self]).reverse([grad], None, False, retain_graph)
        with _accumulating:     # a large sum releases the interpreter's lock between reading .grad and setting it
            for leaf, g in zip(leaves, gradients):
                (<Tensor> leaf)._add_grad(g)

    cdef _add_grad(self, Tensor g):
        global tr_mode
        cdef int before = tr_mode
        if self._grad is None:
            self._grad = g
            return
        tr_mode = OFF
        try:
            self._grad = _pointwise(_add, self._grad, g, None)
            if isinstance((<Tensor> self._grad)._array, np.ndarray):
                cnp.PyArray_ENABLEFLAGS(<cnp.ndarray> (<Tensor> self._grad)._array, cnp.NPY_ARRAY_WRITEABLE)
        finally:
            tr_mode = before

    cdef _expose(self):
        """Somebody takes the array, and may write to it."""
        self._exposed = True
        self._exposures += 1
        if self._saved and not self._guarded:
            self._guard()

    cdef _guard(self):
        if isinstance(self._array, np.ndarray) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> self._array):
            self._guarded = True
            self._fingerprint = self._digest()

    cdef uint64_t _digest(self):
        cdef cnp.ndarray array = self._array
        if not (cnp.PyArray_IS_C_CONTIGUOUS(array) or cnp.PyArray_IS_F_CONTIGUOUS(array)):
            array = np.ascontiguousarray(array)
        return tr_fingerprint(cnp.PyArray_DATA(array), cnp.PyArray_NBYTES(array))

    cdef _save(self):
        """A graph now depends on this leaf's value."""
        self._saved = True
        if self._exposed:
            if self._damaged():     # changed since older graphs saved it: they are lost, this one is not
                self._version += 1
                self._guarded = False
            if (<PyObject *> self._array).ob_refcnt == 1:
                self._exposed = self._guarded = False   # whoever took the array has let go of it
            elif not self._guarded:
                self._guard()
        if self._origin is not None:
            self._origin._save()

    cdef bint _damaged(self):
        if self._guarded and self._fingerprint != self._digest():
            return True
        return self._origin is not None and self._origin._damaged()

    cdef inline int64_t _changes(self):
        return self._version if self._origin is None else self._version + self._origin._changes()


def _rebuild(kind, array, requires_grad, name):
    """A leaf from its pickled parts."""
    cdef Tensor out = kind.__new__(kind)
    out._array, out._requires_grad, out._name = array, requires_grad, name
    out.order = _tick()
    return out


# Functions of NumPy's that need no values, and those whose result nobody takes for a function of the tensor.
cdef frozenset _ASKS = frozenset(["shape", "ndim", "size"])
cdef frozenset _TAKES_VALUES = frozenset(["copy", "atleast_1d", "atleast_2d", "atleast_3d", "zeros_like", "ones_like",
                                          "empty_like", "full_like"])


cdef _without_tensors(x, bint asks, list learning):
    """Arguments of a function of NumPy's with arrays for tensors, which if it `asks` for shapes alone have no values.

    learning: gets the tensors through which gradients flow.
    """
    cdef Tensor t
    if isinstance(x, Tensor):
        t = x
        if t.requires_grad:
            learning.append(t)
        return np.broadcast_to(np.zeros((), t.dtype), t.shape) if asks else np.asarray(t)
    if type(x) is dict:
        return {key: _without_tensors(value, asks, learning) for key, value in x.items()}
    if type(x) in (tuple, list):
        return type(x)([_without_tensors(value, asks, learning) for value in x])
    return x


cdef bint _holds_numbers(x):
    if isinstance(x, (tuple, list)):
        return any([_holds_numbers(value) for value in x])
    return isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind in "fc"


cdef inline int64_t _tick():
    global _clock
    _clock += 1
    return _clock


cdef _no_value(Tensor t):
    return TraceError(
        f"{_describe(t)} has no value yet: the step is being recorded on shapes alone, so it can not branch on values, "
        "print them or hand them to NumPy. Write it with ops (tr.where, tr.maximum), or run the cell with tr.unroll")


cdef str _describe(Tensor t):
    what = f"tensor {t._name!r}" if t._name is not None else "a tensor"
    return f"{what} of shape {t.shape}"


# -- making tensors ----------------------------------------------------------------------------------------------------

cdef object _FLOATS = (np.dtype("float32"), np.dtype("float64"))


def float_dtype(dtype):
    """np.dtype of "float32" or "float64"; TypeError for anything else."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in _FLOATS:
        raise TypeError(f"dtype must be float32 or float64, got {dtype!r}")
    return found


cdef _new_array(data, dtype):
    """A fresh C-contiguous float32 or float64 copy of `data`."""
    if isinstance(data, Tensor):
        data = (<Tensor> data).data
    if not isinstance(data, np.ndarray) and _device is not None and _device.is_array(data):
        if data.dtype.kind not in "fiub":
            raise TypeError(f"data must be numbers, got {data.dtype.name}")
        return _device.fresh(data, None if dtype is None else float_dtype(dtype))
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise ValueError(f"data must be a rectangular array of numbers: {error}") from None
    if dtype is not None:
        dtype = float_dtype(dtype)
    elif isinstance(data, (np.ndarray, np.generic)) and array.dtype.newbyteorder("=") in _FLOATS:
        dtype = array.dtype.newbyteorder("=")
    else:
        dtype = _FLOATS[0]
    if array.dtype.kind not in "fiub":
        raise TypeError(f"data must be numbers, got {array.dtype.name} ({type(data).__name__})")
    return np.array(array, dtype=dtype, order="C", copy=True)


cdef Tensor _constant(object array):
    cdef Tensor out = Tensor.__new__(Tensor)
    out._array = array
    out.order = _tick()
    return out


def wrap(array, Tensor like=None):
    """A leaf over `array` itself, without a copy: for arrays that nobody else will write to.

    like: a tensor to whose device the array is brought, if it is not there.
    """
    if like is not None and _is_away(like._array):
        array = _device.asarray(array)
    return _constant(array)


def zeros(Py_ssize_t rows, widths, dtype, device):
    """Leaves of zeros, (rows, width) each, on a device: "cpu", or the name of the other one."""
    make = (_kernels if device == "cpu" else _device).zeros
    return tuple([_constant(make((rows, width), dtype)) for width in widths])


def share(array):
    """A leaf over an array that somebody else holds too, and may write to."""
    cdef Tensor out = _constant(array)
    out._exposed = True
    return out


cdef object _moved(object array, device):
    """A copy on a device: "cpu", or the name of the other one."""
    if device == "cpu":
        return _device.fetch(array)
    if _device is None or device != _device.name:
        raise ValueError(f"unknown device {device!r}")
    return _device.asarray(array)


cdef object _fetched(object array):
    return _device.fetch(array) if _is_away(array) else array


cdef object _copied(object array):
    """A copy of an array beside it."""
    return _device.fresh(array, None) if _is_away(array) else np.array(array, order="C")


def abstract(shape, dtype, name=None, requires_grad=False):
    """A leaf without values, to record a step with."""
    cdef Tensor out = _constant(Abstract(shape, dtype))
    out._name, out._requires_grad = name, requires_grad
    return out


cdef _model(args):
    """The array whose dtype and device plain operands adopt: the first Tensor's, else the first float array."""
    for a in args:
        if isinstance(a, Tensor):
            return (<Tensor> a)._array
    for a in args:
        if (isinstance(a, np.ndarray) or (_device is not None and _device.is_array(a))) and a.dtype in _FLOATS:
            return a
    return None


cdef inline Tensor _operand(object value, object model):
    """`value` as a Tensor; a plain one in the dtype and on the device of the array `model`."""
    cdef cnp.npy_intp *none = NULL
    cdef cnp.ndarray array
    cdef object dtype
    if isinstance(value, Tensor):
        return <Tensor> value
    dtype = None if model is None else model.dtype
    if dtype is not None and _is_away(model):
        return _constant(_operand_away(value, dtype))
    if dtype is not None and (type(value) is float or type(value) is int):
        if (<cnp.dtype> dtype).type_num == cnp.NPY_FLOAT32:
            array = cnp.PyArray_EMPTY(0, none, cnp.NPY_FLOAT32, 0)
            (<float *> cnp.PyArray_DATA(array))[0] = <float> <double> value
        else:
            array = cnp.PyArray_EMPTY(0, none, cnp.NPY_FLOAT64, 0)
            (<double *> cnp.PyArray_DATA(array))[0] = <double> value
        return _constant(array)
    if _is_plain(value):
        return _constant(_new_array(value, dtype))
    raise _no_operand(value)


cdef inline bint _is_plain(object value):
    return isinstance(value, (np.ndarray, np.generic, int, float, list, tuple)) or (
        _device is not None and _device.is_array(value))


cdef _no_operand(value):
    return TypeError(f"an operand must be a Tensor, an array or a number, got {type(value).__name__}")


cdef object _operand_away(object value, object dtype):
    if type(value) is float or type(value) is int:
        return _device.number(value, dtype)
    if _is_plain(value):
        return _device.asarray(_new_array(value, dtype))
    raise _no_operand(value)


cdef bint _is_array(object value):
    return isinstance(value, (np.ndarray, np.generic)) or (_device is not None and _device.is_array(value))


cdef _binary(Op op, left, right):
    cdef Tensor a, b
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return _pointwise(op, <Tensor> left, <Tensor> right, None)
    try:
        if isinstance(left, Tensor):
            a = <Tensor> left
            b = _operand(right, a._array)
        else:
            b = <Tensor> right
            a = _operand(left, b._array)
    except TypeError:
        if _is_array(right if isinstance(left, Tensor) else left):
            raise
        return NotImplemented
    return _pointwise(op, a, b, None)


# -- applying ops ------------------------------------------------------------------------------------------------------

cdef Tensor _record(Op op, object array, tuple inputs, tuple attrs):
    """The result of `op`, with its history if some input wants one."""
    cdef Tensor out = Tensor.__new__(Tensor)
    cdef Tensor t
    cdef bint wanted = False
    cdef int64_t versions = 0
    out._array = array
    out.order = _tick()
    if tr_mode != OFF:
        for i in range(len(inputs)):
            t = <Tensor> inputs[i]
            wanted |= t._requires_grad and (op.arity < 0 or op.vjps[i] is not None)
        if wanted or tr_mode == EVERYTHING:
            out.op = op
            out.inputs = inputs
            out.attrs = attrs
            out._requires_grad = wanted
            for i in range(len(inputs)):
                t = <Tensor> inputs[i]
                if t.op is None:
                    t._save()
                    versions += t._changes()
            out._saved_versions = versions
            if tr_mode == EVERYTHING:
                callback = getattr(_watching, "callback", None)
                if callback is not None:
                    callback(out)
            return out
    if inputs:
        out._origin = _owner(array, <Tensor> inputs[0])
    return out


cdef Tensor _owner(object array, Tensor t):
    """The leaf under `array`, which was made of t: whoever writes to that leaf changes `array`. None for a copy."""
    cdef PyObject *base
    if type(array) is not cnp.ndarray:
        return None
    base = cnp.PyArray_BASE(<cnp.ndarray> array)
    if base == NULL:
        return None
    while <PyObject *> t._array != base:
        if type(t._array) is not cnp.ndarray or cnp.PyArray_BASE(<cnp.ndarray> t._array) != base:
            return None
        if t.op is None or t.inputs is None:
            return t._origin
        t = <Tensor> t.inputs[0]
    return t if t.op is None else None


cdef Tensor _apply(Op op, tuple inputs, tuple attrs):
    cdef Tensor t
    cdef bint is_abstract = False, is_away = False
    arrays = []
    first = None
    for item in inputs:
        t = <Tensor> item
        if type(t._array) is Abstract:
            is_abstract = True
        elif _is_away(t._array):
            is_away = True
        if first is None:
            first = t._array.dtype
        elif t._array.dtype != first:
            raise _dtype_error(op, inputs)
        arrays.append(t._array)
    if is_abstract:
        shapes = [a.shape for a in arrays]
        shape = op.shape(shapes, *attrs) if op.arity < 0 else op.shape(*shapes, *attrs)
        array = Abstract(shape, attrs[0] if op.name == "astype" else first)
    else:
        forward = op.forward
        if is_away:
            for item in inputs:
                if not _is_away((<Tensor> item)._array):
                    raise _device_error(op, inputs)
            forward = _device.counterpart(forward)
        array = forward(arrays, *attrs) if op.arity < 0 else forward(*arrays, *attrs)
        if type(array) is not cnp.ndarray and isinstance(array, np.generic):
            array = np.asarray(array)   # NumPy gives numbers for arrays without axes
        if isinstance(array, np.ndarray):
            for a in arrays:
                if a is array:
                    array = array.view()
            cnp.PyArray_CLEARFLAGS(<cnp.ndarray> array, cnp.NPY_ARRAY_WRITEABLE)
    arrays = a = None       # so that `_save` sees whether anyone else holds them
    return _record(op, array, inputs, attrs)


def apply(Op op, tuple inputs, tuple attrs):
    """op(*inputs, *attrs) for inputs that are Tensors already: how a recorded step is replayed."""
    return _applied(op, inputs, attrs)


cdef Tensor _applied(Op op, tuple inputs, tuple attrs):
    if op is _matmul_op and _are_matrices(inputs[0], inputs[1], False, False):
        return _product(inputs[0], inputs[1], False, False)
    if op.code < 0:
        return _apply(op, inputs, attrs)
    return _pointwise(op, inputs[0], inputs[1] if op.arity > 1 else None, inputs[2] if op.arity > 2 else None)


cdef _dtype_error(Op op, inputs):
    return TypeError(f"{op.name} needs inputs of one dtype, got "
                     + " and ".join(f"{_describe(t)} {t.dtype.name}" for t in inputs)
                     + "; convert one with .astype()")


cdef _device_error(Op op, inputs):
    return TypeError(f"{op.name} needs inputs on one device, got "
                     + " and ".join(f"{_describe(t)} on {t.device}" for t in inputs)
                     + "; move one with .to()")


def _broadcast(Op op, *shapes):
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(f"{op.name} can not broadcast shapes " + " and ".join(map(str, shapes))) from None


cdef Tensor _pointwise(Op op, Tensor a, Tensor b, Tensor c):
    cdef object x = a._array, y = None, z = None, out
    cdef tuple inputs
    if b is None:
        inputs = (a,)
    elif c is None:
        inputs = (a, b)
        y = b._array
    else:
        inputs = (a, b, c)
        y, z = b._array, c._array
    if (type(x) is cnp.ndarray or isinstance(x, np.ndarray)) and (b is None or isinstance(y, np.ndarray)) \
            and (c is None or isinstance(z, np.ndarray)):
        out = _pointwise_arrays(op, inputs, None, <cnp.ndarray> x, y, z)
        cnp.PyArray_CLEARFLAGS(<cnp.ndarray> out, cnp.NPY_ARRAY_WRITEABLE)
    else:
        for t in inputs:
            if t.dtype != a.dtype:
                raise _dtype_error(op, inputs)
        if type(x) is Abstract or type(y) is Abstract or type(z) is Abstract:
            out = Abstract(_broadcast(op, *[t.shape for t in inputs]), a.dtype)
        else:
            out = _device.pointwise(op, [_brought(op, <Tensor> t, inputs) for t in inputs], None)
    x = y = z = None        # so that `_save` sees whether anyone else holds them
    return _record(op, out, inputs, ())


cdef object _brought(Op op, Tensor t, tuple inputs):
    """An input's array on the other device. A constant without axes may be on the cpu, as a recorded step's are."""
    if _is_away(t._array):
        return t._array
    if t.op is None and not t._requires_grad and t._array.ndim == 0:
        return _device.number(t._array.item(), t._array.dtype)
    raise _device_error(op, inputs)


cdef inline void _map(int code, bint single, char *out, const char *a, const char *b, const char *c,
                      Py_ssize_t n) noexcept nogil:
    if single:
        kernels.f32.map[code](<float *> out, <const float *> a, <const float *> b, <const float *> c, n)
    else:
        kernels.f64.map[code](<double *> out, <const double *> a, <const double *> b, <const double *> c, n)


cdef struct Map:
    int code
    bint single
    char *out
    const char *a
    const char *b
    const char *c
    Py_ssize_t n


cdef void _map_stretch(const void *work, Py_ssize_t k) noexcept nogil:
    cdef const Map *o = <const Map *> work
    cdef Py_ssize_t first = k * STRETCH * (4 if o.single else 8)
    _map(o.code, o.single, o.out + first, o.a + first, o.b + first if o.b != NULL else NULL,
         o.c + first if o.c != NULL else NULL, min(<Py_ssize_t> STRETCH, o.n - k * STRETCH))


cdef cnp.ndarray _pointwise_arrays(Op op, tuple inputs, object into, cnp.ndarray x, object y_, object z_):
    """Run an elementwise kernel over broadcast arrays, into a new array or into `into` (contiguous, right shape)."""
    cdef cnp.ndarray out, y, z
    cdef int typenum = cnp.PyArray_TYPE(x)
    cdef bint single = typenum == cnp.NPY_FLOAT32
    cdef int nd = cnp.PyArray_NDIM(x), arity = op.arity
    cdef bint same = cnp.PyArray_IS_C_CONTIGUOUS(x)
    cdef char *pb = NULL
    cdef char *pc = NULL
    cdef Py_ssize_t n = cnp.PyArray_SIZE(x)
    cdef Map work
    if arity > 1:
        y = <cnp.ndarray> y_
        pb = cnp.PyArray_BYTES(y)
        if cnp.PyArray_TYPE(y) != typenum:
            raise _dtype_error(op, inputs)
        same = same and cnp.PyArray_IS_C_CONTIGUOUS(y) and cnp.PyArray_SAMESHAPE(x, y)
        if arity > 2:
            z = <cnp.ndarray> z_
            pc = cnp.PyArray_BYTES(z)
            if cnp.PyArray_TYPE(z) != typenum:
                raise _dtype_error(op, inputs)
            same = same and cnp.PyArray_IS_C_CONTIGUOUS(z) and cnp.PyArray_SAMESHAPE(x, z)
    if same:
        if into is not None:
            out = into
        elif n < NOGIL_ELEMENTS:
            out = cnp.PyArray_EMPTY(nd, cnp.PyArray_DIMS(x), typenum, 0)
        else:
            out = _kernels.empty((<object> x).shape, x.dtype)
        if n < NOGIL_ELEMENTS:
            _map(op.code, single, cnp.PyArray_BYTES(out), cnp.PyArray_BYTES(x), pb, pc, n)
            return out
        work = Map(op.code, single, cnp.PyArray_BYTES(out), cnp.PyArray_BYTES(x), pb, pc, n)
        pass_over(cnp.PyArray_NBYTES(out), (n + STRETCH - 1) // STRETCH, _map_stretch, &work)
        return out
    return _pointwise_strided(op, into, [x, y_, z_][:arity])


cdef cnp.ndarray _pointwise_strided(Op op, object into, list arrays):
    """The general case: any strides, broadcasting; operands that are not contiguous are gathered a tile at a time."""
    cdef cnp.npy_intp shape[MAX_DIMS]
    cdef Py_ssize_t strides[3][MAX_DIMS]
    cdef Py_ssize_t index[MAX_DIMS]
    cdef char *base[3]
    cdef cnp.ndarray array, out
    cdef int arity = len(arrays), nd = 0, own, k, d, kept, axes, spread = 0
    cdef Py_ssize_t have, outer = 1, inner = 1, i, item, rows = 1
    cdef Py_ssize_t leading[3]
    cdef bint fits, single
    for array in arrays:
        nd = max(nd, cnp.PyArray_NDIM(array))
    # 1. The broadcast shape, and each operand's strides in it (0 along what it repeats).
    for d in range(nd):
        shape[d] = 1
    for k in range(arity):
        array = arrays[k]
        own = cnp.PyArray_NDIM(array)
        base[k] = cnp.PyArray_BYTES(array)
        for d in range(nd):
            strides[k][d] = 0
            if d < nd - own:
                continue
            have = cnp.PyArray_DIM(array, d - nd + own)
            if have != 1:
                if shape[d] != 1 and shape[d] != have:
                    raise ValueError(f"{op.name} can not broadcast shapes "
                                     + " and ".join(str(a.shape) for a in arrays))
                shape[d] = have
                strides[k][d] = cnp.PyArray_STRIDE(array, d - nd + own)
    array = arrays[0]
    single = cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32
    item = cnp.PyArray_ITEMSIZE(array)
    out = into if into is not None else _kernels.empty(tuple([shape[d] for d in range(nd)]), array.dtype)
    if cnp.PyArray_SIZE(out) == 0:
        return out
    # 2. Axes of one element go, and neighbours that every operand walks through in one stride become one axis.
    kept = 0
    for d in range(nd):
        if shape[d] == 1:
            continue
        if kept:
            fits = True
            for k in range(arity):
                fits = fits and strides[k][kept - 1] == strides[k][d] * shape[d]
            if fits:
                shape[kept - 1] *= shape[d]
                for k in range(arity):
                    strides[k][kept - 1] = strides[k][d]
                continue
        shape[kept] = shape[d]
        for k in range(arity):
            strides[k][kept] = strides[k][d]
        kept += 1
    if kept:
        inner = shape[kept - 1]
        for d in range(kept - 1):
            outer *= shape[d]
            index[d] = 0
    for k in range(arity):
        strides[k][MAX_DIMS - 1] = strides[k][kept - 1] if kept else item
    # 3. The loop, in order: over matrices if every operand's rows are in one piece or one element, else over rows.
    axes, fits = kept - 1, True
    for k in range(arity):
        spread |= (strides[k][MAX_DIMS - 1] == 0) << k
        leading[k] = strides[k][kept - 2] // item if kept > 1 else 0
        fits = fits and strides[k][MAX_DIMS - 1] in (0, item) and (kept < 2 or strides[k][kept - 2] % item == 0)
    fits = fits and spread != (1 << arity) - 1
    if fits and kept > 1:
        rows = shape[kept - 2]
        axes = kept - 2
    for k in range(arity, 3):
        base[k], leading[k] = base[0], leading[0]
    with nogil:
        for i in range(outer // rows):
            if not fits:
                _row(op.code, single, arity, cnp.PyArray_BYTES(out) + i * inner * item, base, inner, item,
                     strides[0][MAX_DIMS - 1], strides[1][MAX_DIMS - 1], strides[2][MAX_DIMS - 1])
            elif single:
                kernels.f32.map_rows[op.code](<float *> cnp.PyArray_BYTES(out) + i * rows * inner, inner,
                                              <const float **> base, leading, spread, rows, inner)
            else:
                kernels.f64.map_rows[op.code](<double *> cnp.PyArray_BYTES(out) + i * rows * inner, inner,
                                              <const double **> base, leading, spread, rows, inner)
            d = axes - 1
            while d >= 0:
                index[d] += 1
                for k in range(arity):
                    base[k] += strides[k][d]
                if index[d] < shape[d]:
                    break
                for k in range(arity):
                    base[k] -= strides[k][d] * shape[d]
                index[d] = 0
                d -= 1
    return out


cdef void _row(int code, bint single, int arity, char *out, char **base, Py_ssize_t n, Py_ssize_t item,
               Py_ssize_t s0, Py_ssize_t s1, Py_ssize_t s2) noexcept nogil:
    cdef double tiles[3][TILE]
    cdef Py_ssize_t step[3]
    cdef char *at[3]
    cdef Py_ssize_t begin = 0, m, i
    cdef int k
    cdef bint gathers = False
    step[0], step[1], step[2] = s0, s1, s2
    for k in range(arity):
        at[k] = base[k]
        gathers = gathers or step[k] != item
    if not gathers:
        _map(code, single, out, at[0], at[1], at[2], n)
        return
    while begin < n:
        m = min(<Py_ssize_t> TILE, n - begin)
        for k in range(arity):
            if step[k] == item:
                at[k] = base[k] + begin * item
                continue
            at[k] = <char *> tiles[k]
            if step[k] == 0 and begin:
                continue            # a repeated value fills its tile once
            if single:
                for i in range(m):
                    (<float *> tiles[k])[i] = (<float *> (base[k] + (begin + i) * step[k]))[0]
            else:
                for i in range(m):
                    tiles[k][i] = (<double *> (base[k] + (begin + i) * step[k]))[0]
        _map(code, single, out + begin * item, at[0], at[1], at[2], m)
        begin += m


cdef inline bint _are_matrices(Tensor a, Tensor b, bint a_turned, bint b_turned):
    """Whether the product of a and b, or of their transposes, is the plain one of two matrices on this device."""
    cdef cnp.ndarray x, y
    if type(a._array) is not cnp.ndarray or type(b._array) is not cnp.ndarray:
        return False
    x, y = a._array, b._array
    return (cnp.PyArray_NDIM(x) == 2 and cnp.PyArray_NDIM(y) == 2 and cnp.PyArray_TYPE(x) == cnp.PyArray_TYPE(y)
            and cnp.PyArray_DIM(x, not a_turned) == cnp.PyArray_DIM(y, b_turned))


cdef Tensor _product(Tensor a, Tensor b, bint a_turned, bint b_turned):
    x, y = a._array, b._array
    if a_turned:
        x = cnp.PyArray_Transpose(<cnp.ndarray> x, NULL)
    if b_turned:
        y = cnp.PyArray_Transpose(<cnp.ndarray> y, NULL)
    array = _product_of_arrays(x, y)
    cnp.PyArray_CLEARFLAGS(<cnp.ndarray> array, cnp.NPY_ARRAY_WRITEABLE)
    x = y = None            # so that `_save` sees whether anyone else holds them
    return _record(_matmul_op, array, (a, b), ()) if not (a_turned or b_turned) else _constant(array)


def turned_product(Tensor a, Tensor b, bint a_turned, bint b_turned):
    """a @ b with one of them transposed: a product's gradients. None where it has to be recorded, or is batched."""
    if tr_mode == OFF and _are_matrices(a, b, a_turned, b_turned):
        return _product(a, b, a_turned, b_turned)
    return None


# -- what the run of a plan asks for -----------------------------------------------------------------------------------

def apply_at(Op op, list slots, tuple numbers, tuple attrs):
    """op(*inputs, *attrs) for the inputs, Tensors all, that are in these slots of a list."""
    return _applied(op, tuple([slots[<Py_ssize_t> k] for k in numbers]), attrs)


def learns(tensors):
    """Whether gradients are recorded, and one of these tensors requires one."""
    cdef Tensor t
    if tr_mode != OFF:
        for t in tensors:
            if t._requires_grad:
                return True
    return False


def wrap_all(list arrays):
    """A leaf over each array, as `wrap` makes it; None for None."""
    return [None if array is None else _constant(array) for array in arrays]


def chosen(items, numbers):
    """The items with these numbers."""
    return [items[<Py_ssize_t> k] for k in numbers]


def parted(list items, sizes):
    """The items cut into lists of these sizes."""
    cdef Py_ssize_t at = 0, size
    cdef list found = []
    for size in sizes:
        found.append(items[at:at + size])
        at += size
    return found


def are_same(objects, list known):
    """Whether `objects` are the very ones of `known`, in order."""
    cdef Py_ssize_t k = 0, n = len(known)
    if len(objects) != n:
        return False
    for one in objects:
        if one is not known[k]:
            return False
        k += 1
    return True


cdef enum:      # what a buffer of a program is
    NOTHING, SEQ, KEPT, STATE, BEFORE, PAIR, SUM, VECTOR

cdef dict _sources = {"none": NOTHING, "seq": SEQ, "keep": KEPT, "state": STATE, "before": BEFORE, "pair": PAIR,
                      "sum": SUM, "vector": VECTOR}


cdef class Frame:
    """What lays out the arrays of a program's runs, whatever the rows and the device. It holds no array of a run.

    program  what the device runs
    seqs     columns of each input sequence
    states   for each state its columns, and whether all of its values are wanted
    kept     columns of each kept buffer
    sums     for each sum over steps its columns, and the shape of a row
    vectors  for each vector its number among params or None, the constant that it is then or None, the shape of a row
    weights  numbers of the weights among params
    sources  for each buffer of the program what it is, as `tinyrnn.plan.program` calls it, and its number there
    results  for each value that comes out whether it is in a kept buffer or in an input sequence, the number of that, a
             slice of its columns or None for all, the shape of a row or None where it has one axis
    """

    cdef object program, dtype
    cdef list seqs, states, kept, sums, vectors, weights, results
    cdef vector[int] kinds, numbers     # the sources
    cdef dict constants         # by device, a list for the vectors: None where they are params

    def __init__(self, program, dtype, *, seqs, states, kept, sums, vectors, weights, sources, results):
        self.program, self.dtype = program, dtype
        self.seqs, self.states, self.kept, self.sums = list(seqs), list(states), list(kept), list(sums)
        self.vectors, self.weights, self.results = list(vectors), list(weights), list(results)
        self.kinds = [_sources[kind] for kind, _ in sources]
        self.numbers = [number for _, number in sources]
        self.constants = {}

    def run(self, device, layout, seqs, params, initial, serial):
        """Run the program: (kept sequences, partial sums, all states, those after a step, final ones) as arrays.

        serial: another number for other values of params, or -1 where that is not known.
        All states, where they are wanted: those before the first step, (batch, w), and those after each, (rows, w), in
        the order in which the loop makes them; backwards, those before the first step come last.
        """
        cdef Py_ssize_t rows = layout.rows, batch = layout.batch, partial = layout.partial if self.sums else 0
        cdef Py_ssize_t k, number, columns
        cdef bint uniform = layout.uniform, wanted, in_kept
        cdef list given = [], kept = [], sums = [], matrices = [], vectors, weights = []
        cdef list states = [], befores = [], afters = [], ones = [], twos = []
        cdef list arrays = [], others = [], finals = [], found = []
        cdef tuple tables
        empty, matrix, repeated, dtype = device.empty, device.matrix, device.vector, self.dtype
        # 1. what goes in, and room for what comes out
        for k, columns in enumerate(self.seqs):
            given.append(matrix((<Tensor?> seqs[k])._array, rows, columns))
        for columns in self.kept:
            kept.append(empty((rows, columns), dtype))
        for columns, shape in self.sums:
            array = device.zeros((partial, *shape), dtype)
            sums.append(array)
            matrices.append(matrix(array, partial, columns))
        for k, (columns, wanted) in enumerate(self.states):
            start = matrix((<Tensor?> initial[k])._array, batch, columns)
            whole = before = after = one = two = None
            if wanted:
                whole = empty((batch + rows, columns), dtype)
                whole[layout.at_first] = start
                before, after = whole[layout.at_before], whole[layout.at_after]
            if not (wanted and uniform):    # else a step finds the state where the step before recorded it
                one, two = start.copy(), empty((batch, columns), dtype) if uniform else start.copy()
            states.append(whole)
            befores.append(before)
            afters.append(after)
            ones.append(one)
            twos.append(two)
        if device not in self.constants:
            self.constants[device] = [None if param is not None else repeated((<Tensor?> constant)._array, row)
                                      for param, constant, row in self.vectors]
        vectors = list(self.constants[device])
        for k, (param, _, row) in enumerate(self.vectors):
            if param is not None:
                vectors[k] = repeated((<Tensor?> params[<Py_ssize_t> param])._array, row)
        # 2. the program, with its buffers and weights
        tables = (None, given, kept, afters, befores, ones, matrices, vectors)
        for k in range(<Py_ssize_t> self.kinds.size()):
            arrays.append(None if self.kinds[k] == NOTHING else (<list> tables[self.kinds[k]])[self.numbers[k]])
            others.append(twos[self.numbers[k]] if self.kinds[k] == PAIR else None)
        for number in self.weights:
            weights.append((<Tensor?> params[number])._array)
        if layout.steps:
            device.run_loop(self.program, arrays, others, weights, layout, serial)
        # 3. what came out
        for k, whole in enumerate(states):
            if whole is not None:
                finals.append(whole[layout.at_last])
            elif uniform:                   # the two took turns
                finals.append(twos[k] if layout.steps % 2 else ones[k])
            else:
                finals.append(device.concat((ones[k], twos[k]), 0)[layout.last_of_pair])
        for in_kept, number, part, row in self.results:
            array = kept[number] if in_kept else given[number]
            if part is not None:
                array = array[:, part]
            found.append(array if row is None else array.reshape((rows, *row)))
        return found, sums, states, afters, finals


_pick = Op("pick", 1, (lambda g, y, hub, k, n: g,), forward=lambda x, k: x, shape=lambda x, k: x)


def bundle(Op op, tuple inputs, tuple attrs, list arrays):
    """Record one op of several results, `arrays`, and return them as a list of Tensors.

    On the tape stands a hub without values, made by `op`; each result is picked from it. The gradients of the
    results gather at the hub, and the op's vjp gets them all at once.
    """
    cdef Tensor hub = _record(op, Abstract((), arrays[0].dtype), inputs, attrs)
    results = []
    for k in range(len(arrays)):
        if isinstance(arrays[k], np.ndarray):
            cnp.PyArray_CLEARFLAGS(<cnp.ndarray> arrays[k], cnp.NPY_ARRAY_WRITEABLE)
        results.append(_record(_pick, arrays[k], (hub,), (k, len(arrays))) if hub.op is not None
                       else _constant(arrays[k]))
    return results


def stamp(tensors):
    """A number that is another one as soon as one of these leaves has another value; -1 where that can not be known:
    for results, and while somebody else holds an array and may write to it.
    """
    cdef Tensor t
    cdef int64_t changes = 0
    for t in tensors:
        if t.op is not None or t._origin is not None or (t._exposed and (<PyObject *> t._array).ob_refcnt > 1):
            return -1
        changes += t._version + t._exposures
    return changes


def let_go(Tensor hub):
    """Whether the sweep that asks for the gradients of a bundled op frees the graph.

    Then its node is freed now, and the op may write over what it keeps.
    """
    if tr_frees:
        hub.inputs = None
    return bool(tr_frees)


def pick(Tensor hub, Py_ssize_t n, arrays):
    """The first of the n results of a bundled op, picked from its hub again."""
    return [_record(_pick, array, (hub,), (k, n)) for k, array in enumerate(arrays)]


def drop(Tensor t):
    """Let go of the values of a result of which nothing but the shape will be asked."""
    if t.op is not None and type(t._array) is not Abstract:
        t._array = Abstract(t._array.shape, t._array.dtype)


# -- the tape ----------------------------------------------------------------------------------------------------------

cdef class Tape:
    """The program that made `outputs`: every tensor they were computed from, inputs before results.

    nodes    tensors in the order in which they were made, leaves included
    outputs  the tensors it was asked for
    everything  include the ops that no gradient flows through (as when a step is recorded)
    """

    cdef readonly list nodes
    cdef readonly list outputs

    def __init__(self, outputs, *, bint everything=False):
        cdef Tensor t, source
        cdef list stack
        self.outputs = list(outputs)
        seen = set()
        stack = []
        self.nodes = []
        for t in self.outputs:
            if t not in seen and (everything or t._requires_grad):
                seen.add(t)
                stack.append(t)
        while stack:
            t = <Tensor> stack.pop()
            self.nodes.append(t)
            if t.inputs is not None:
                for source in t.inputs:
                    if (everything or source._requires_grad) and source not in seen:
                        seen.add(source)
                        stack.append(source)
        self.nodes.sort(key=_order)

    def __len__(self):
        return len(self.nodes)

    def __repr__(self):
        cdef Tensor t
        names = {}
        lines = []
        for t in self.nodes:
            names[t] = f"%{len(names)}"
        for t in self.nodes:
            about = f"{t.dtype.name}{list(t.shape)}"
            label = f"  # {t._name}" if t._name is not None else ""
            if t.op is None:
                lines.append(f"{names[t]} = {'parameter' if t._requires_grad else 'constant'} {about}{label}")
                continue
            args = [names.get(s, f"constant {list(s.shape)}") for s in t.inputs or ()]
            args += [repr(a) for a in t.attrs]
            lines.append(f"{names[t]} = {t.op.name}({', '.join(args)}) {about}{label}")
        return "\n".join(lines)

    def reverse(self, seeds, targets, bint create_graph, bint retain):
        """Walk the tape backwards from `seeds`, the outputs' gradients (None: one, for a tensor of one element).

        Returns (leaves, gradients) if targets is None, for every leaf that requires a gradient and got one, else
        (targets, gradients), with None where no gradient arrived. A returned gradient shares memory with nothing.
        """
        global tr_mode, tr_frees
        cdef int before = tr_mode, freed = tr_frees
        cdef dict position = {}
        cdef Py_ssize_t n = len(self.nodes), i
        cdef Tensor t
        for i in range(n):
            position[self.nodes[i]] = i
        cdef list grads = [None] * n
        # 1: this sweep made grads[i]'s array for itself and may add into it
        cdef vector[char] owned = vector[char](n, 0)
        cdef vector[char] needed = vector[char](n, targets is None)
        cdef vector[char] kept = vector[char](n, 0)
        if targets is not None:
            for t in targets:
                if t in position:
                    needed[<Py_ssize_t> position[t]] = kept[<Py_ssize_t> position[t]] = 1
            for i in range(n):
                t = <Tensor> self.nodes[i]
                if t.inputs is not None:
                    for s in t.inputs:
                        if s in position and needed[<Py_ssize_t> position[s]]:
                            needed[i] = 1
                elif t.op is not None and any((<Tensor> s).order < t.order for s in targets):
                    raise _freed(t)     # the way to an older target may have led through it
        seeds = [_seed(t, g) for t, g in zip(self.outputs, seeds, strict=True)]
        tr_mode = max(before, <int> ON) if create_graph else OFF
        tr_frees = not retain and not create_graph
        try:
            for t, g in zip(self.outputs, seeds):
                i = position[t]
                grads[i] = g if grads[i] is None else _pointwise(_add, grads[i], g, None)
            for i in range(n - 1, -1, -1):
                t = <Tensor> self.nodes[i]
                if t.op is None or not needed[i] or (kept[i] and t.inputs is None):
                    continue
                if grads[i] is not None:
                    self._push(t, grads[i], position, grads, owned, needed, create_graph)
                    if not kept[i]:
                        grads[i] = None
            if not retain:
                for t in self.nodes:
                    if t.op is not None:
                        t.inputs = None
            if targets is None:
                found = [i for i in range(n) if (<Tensor> self.nodes[i]).op is None and grads[i] is not None]
                targets = [self.nodes[i] for i in found]
            else:
                found = [position.get(t) for t in targets]
            results = []
            done = set()
            for k in found:
                g = None if k is None else grads[<Py_ssize_t> k]
                if g is not None and not create_graph and k in done:
                    g = _constant(_copied((<Tensor> g)._array))
                elif g is not None and not create_graph:
                    done.add(k)
                    grads[<Py_ssize_t> k] = None
                    g = _unshared(<Tensor> g, owned[<Py_ssize_t> k])
                    owned[<Py_ssize_t> k] = 0
                    grads[<Py_ssize_t> k] = g
                results.append(g)
        finally:
            tr_mode, tr_frees = before, freed
        return targets, results

    cdef _push(self, Tensor t, object g, dict position, list grads, vector[char] &owned, vector[char] &needed,
               bint create_graph):
        """Add t's share of the gradient to each of its inputs. g: t's gradient, or a hub's list of them."""
        cdef Op op = t.op
        cdef Tensor source
        cdef Py_ssize_t k, j
        cdef tuple inputs = t.inputs
        if inputs is None:
            raise _freed(t)
        _check_saved(t)
        if op is _pick:
            j = position[inputs[0]]
            if grads[j] is None:
                grads[j] = [None] * <Py_ssize_t> t.attrs[1]
            slots, k = grads[j], t.attrs[0]
            slots[k] = g if slots[k] is None else _pointwise(_add, slots[k], g, None)
            return
        wanted = [position.get(s) for s in inputs]
        for k in range(len(inputs)):
            if wanted[k] is not None and not needed[<Py_ssize_t> wanted[k]]:
                wanted[k] = None
        if op.arity < 0:
            shares = op.vjps(g, t, inputs, [at is not None for at in wanted], *t.attrs)
        for k in range(len(inputs)):
            if wanted[k] is None:
                continue
            j = wanted[k]
            source = <Tensor> inputs[k]
            if op.arity < 0:
                share = shares[k]
            elif (op.accumulate is not None and op.accumulate[k] is not None and not create_graph
                  and (op.arity == 1 or grads[j] is not None) and type(source._array) is not Abstract
                  and (op.arity == 1 or source.ndim == t.ndim == 2)):
                self._own(j, source, grads, owned)
                others = [(<Tensor> inputs[i])._array for i in range(len(inputs)) if i != k]
                add_to = op.accumulate[k]
                if _is_away(source._array):
                    add_to = _device.counterpart(add_to)
                add_to((<Tensor> grads[j])._array, (<Tensor> g)._array, *others, *t.attrs)
                continue
            else:
                rule = op.vjps[k]
                share = rule(g, t, *inputs, *t.attrs) if rule is not None else None
            if share is not None:
                self._accumulate(j, source, <Tensor> share, grads, owned, create_graph)

    cdef _accumulate(self, Py_ssize_t j, Tensor source, Tensor share, list grads, vector[char] &owned,
                     bint create_graph):
        if share._array.shape != source._array.shape:
            share = _operators["sum_to"](share, source._array.shape)
        if grads[j] is None:
            grads[j] = share
        elif create_graph or type(share._array) is Abstract:
            grads[j] = _pointwise(_add, <Tensor> grads[j], share, None)
        elif owned[j]:
            array = (<Tensor> grads[j])._array
            _sum_of_arrays(array, array, share._array)
        else:
            grads[j] = _constant(_sum_of_arrays(None, (<Tensor> grads[j])._array, share._array))
            owned[j] = 1

    cdef _own(self, Py_ssize_t j, Tensor source, list grads, vector[char] &owned):
        if grads[j] is None:
            zeros = _device.zeros if _is_away(source._array) else _kernels.zeros
            grads[j] = _constant(zeros(source.shape, source.dtype))
        elif not owned[j]:
            grads[j] = _constant(_copied((<Tensor> grads[j])._array))
        owned[j] = 1


cdef object _sum_of_arrays(object into, object a, object b):
    if type(a) is cnp.ndarray or not _is_away(a):
        return _pointwise_arrays(_add, (), into, a, b, None)
    return _device.pointwise(_add, [a, b], into)


def _order(Tensor t):
    return t.order


cdef Tensor _unshared(Tensor g, bint owned):
    """A gradient to hand out: its array is its own, so that nobody's later write can reach it."""
    cdef cnp.ndarray array
    if owned or type(g._array) is Abstract:
        return g
    if _is_away(g._array):      # whether anybody shares its memory can not be seen
        return _constant(_copied(g._array))
    array = g._array
    own = cnp.PyArray_BASE(array) == NULL or isinstance((<object> array).base, _kernels.Block)
    if (<PyObject *> array).ob_refcnt == 2 and own and (<PyObject *> g).ob_refcnt <= 2:
        cnp.PyArray_ENABLEFLAGS(array, cnp.NPY_ARRAY_WRITEABLE)
        return g
    return _constant(cnp.PyArray_NewCopy(array, cnp.NPY_CORDER))


cdef Tensor _seed(Tensor t, object g):
    cdef object dtype = t._array.dtype
    if not t._requires_grad:
        raise RuntimeError(f"{_describe(t)} does not depend on anything that requires a gradient, or was computed "
                           "under tr.no_grad()")
    if g is None:
        if t.size != 1:
            raise RuntimeError(f"the gradient of {_describe(t)} must be given: only a tensor of one element has 1 "
                               "as its own")
        return _constant((_device.ones if _is_away(t._array) else np.ones)(t.shape, dtype))
    plain = not isinstance(g, Tensor)
    g = _operand(g, t._array)
    if plain and _is_away((<Tensor> g)._array):     # a number's array is everybody's
        g = _constant(_copied((<Tensor> g)._array))
    if _place((<Tensor> g)._array) != _place(t._array) and type((<Tensor> g)._array) is not Abstract:
        raise TypeError(f"the gradient of {_describe(t)} must be on {t.device} like it, got one on {g.device}")
    if g.shape != t.shape or g.dtype != dtype:
        raise ValueError(f"the gradient of {_describe(t)} must be {t.shape} {dtype}, got {g.shape} {g.dtype}")
    return g


cdef _freed(Tensor t):
    return RuntimeError(
        f"the graph behind {_describe(t)}, a result of {t.op.name}, was freed by an earlier backward pass; "
        "compute it again, or ask that pass to keep it with retain_graph=True")


cdef _check_saved(Tensor t):
    cdef Tensor source
    cdef int64_t versions = 0
    cdef bint damaged = False
    for source in t.inputs:
        if source.op is None:
            versions += source._changes()
            damaged |= source._damaged()
    if damaged or versions != t._saved_versions:
        changed = " or ".join(dict.fromkeys([_describe(s) for s in t.inputs if s.op is None]))
        raise RuntimeError(f"{changed} was changed in place after {t.op.name} saved it, so the gradient would be "
                           "wrong; call backward() before the change, or compute the result again after it")


# The ops behind the operators, as C variables: one comparison fewer for each use.
cdef Op _add, _sub, _mul, _div, _pow, _neg
cdef Op _matmul_op
cdef object _matmul
cdef object _product_of_arrays = _kernels.matmul


def bind_arithmetic(Op add, Op sub, Op mul, Op div, Op pow, Op neg, Op matmul_op, matmul):
    """The arithmetic ops that Tensor's operators and the reverse sweep call directly.

    matmul_op is the record of the product of matrices, matmul the function for operands of any rank.
    """
    global _add, _sub, _mul, _div, _pow, _neg, _matmul_op, _matmul
    _add, _sub, _mul, _div, _pow, _neg, _matmul_op, _matmul = add, sub, mul, div, pow, neg, matmul_op, matmul
