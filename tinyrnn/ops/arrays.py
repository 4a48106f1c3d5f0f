"""The ops that move, sum or multiply whole arrays: a record each, and the functions that users call.

A function checks and normalises its arguments (axes counted from the front, shapes as tuples of int), then applies
the record, so that attributes on the tape have one form. Shape rules work on shapes alone and raise for what does not
fit.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyrnn import backend
from tinyrnn._core.tape import Abstract, Op, Tensor, float_dtype, turned_product, wrap
from tinyrnn.checks import as_array, is_int, type_name
from tinyrnn.ops import elementwise as ew

Shape = tuple[int, ...]
Axis: TypeAlias = int | Sequence[int] | None
Value: TypeAlias = Tensor | ArrayLike


def as_tensor(value: Value, name: str = "x", dtype: Any = None, like: Tensor | None = None) -> Tensor:
    """`value` itself if it is a Tensor, else a constant made of it, on the device of `like`; errors name the argument
    `name`."""
    if isinstance(value, Tensor):
        return value
    try:
        made = Tensor(value, dtype=dtype)
        return made if like is None else wrap(made._array, like)
    except TypeError:
        raise TypeError(f"{name} must be a Tensor, an array or a number, got {_kind(value)}") from None
    except ValueError:
        raise ValueError(f"{name} must be a rectangular array, got a ragged {type_name(value)}") from None


def _kind(value: Any) -> str:
    return (
        f"{type_name(value)} of {value.dtype.name}" if isinstance(value, np.ndarray | np.generic) else type_name(value)
    )


def _axes(axis: Axis, ndim: int) -> Shape:
    """`axis` as a sorted tuple of non-negative ints; None means all of them."""
    if axis is None:
        return tuple(range(ndim))
    if isinstance(axis, int | np.integer):
        given: Sequence[int] = (axis,)
    elif isinstance(axis, tuple | list):
        given = axis
    else:
        raise ValueError(f"axis must be an int, a tuple of ints or None, got {axis!r}")
    axes = []
    for a in given:
        if not is_int(a) or not -ndim <= a < ndim:
            raise ValueError(f"axis must be {_range(ndim)} (or a tuple, or None), got {axis!r}")
        axes.append(int(a) % ndim)
    if len(set(axes)) != len(axes):
        raise ValueError(f"axis must not name an axis twice, got {axis!r}")
    return tuple(sorted(axes))


def _one_axis(axis: int, ndim: int) -> int:
    if not is_int(axis) or not -ndim <= axis < ndim:
        raise ValueError(f"axis must be {_range(ndim)}, got {axis!r}")
    return int(axis) % ndim


def _range(ndim: int) -> str:
    """What an axis may be."""
    return f"an int in {-ndim}..{ndim - 1}" if ndim else "an int, of which a tensor without axes has none"


def _sizes(name: str, given: Any) -> Shape:
    """A shape as a tuple of int."""
    if isinstance(given, int | np.integer):
        given = (given,)
    if not isinstance(given, tuple | list | np.ndarray) or not all(map(is_int, given)):
        raise ValueError(f"{name} must be ints, got {given!r}")
    return tuple(map(int, given))


# -- shape -------------------------------------------------------------------------------------------------------------

RESHAPE = _reshape = Op(
    "reshape", 1, (lambda g, y, x, shape: _reshape(g, x.shape),),
    forward=backend.reshape, shape=lambda x, shape: shape,
)  # fmt: skip


def reshape(x: Value, shape: int | Sequence[int]) -> Tensor:
    """The same values in another shape; one size may be -1."""
    x = as_tensor(x)
    given = wanted = _sizes("shape", shape)
    size = x.size
    if wanted.count(-1) == 1:
        known = -math.prod(wanted)
        if known > 0 and size % known == 0:
            wanted = tuple(size // known if n == -1 else n for n in wanted)
    if math.prod(wanted) != size or min(wanted, default=0) < 0:
        raise ValueError(f"reshape can not make shape {given} of {x.shape}, which has {size} elements")
    return _reshape(x, wanted)


TRANSPOSE = _transpose = Op(
    "transpose", 1, (lambda g, y, x, axes: _transpose(g, tuple(np.argsort(axes).tolist())),),
    forward=backend.transpose, shape=lambda x, axes: tuple(x[a] for a in axes),
)  # fmt: skip


def transpose(x: Value, axes: Sequence[int] = ()) -> Tensor:
    """The axes in the order of `axes`; reversed if it is empty."""
    x = as_tensor(x)
    if isinstance(axes, str) or not isinstance(axes, Sequence | np.ndarray):
        raise ValueError(f"axes must be ints, got {axes!r}")
    if len(axes) == 0:
        return _transpose(x, (1, 0) if x.ndim == 2 else tuple(range(x.ndim))[::-1])
    if len(axes) != x.ndim:
        raise ValueError(f"axes must name each of the {x.ndim} axes of shape {x.shape} once, got {tuple(axes)}")
    if not all(is_int(a) and -x.ndim <= a < x.ndim for a in axes):
        raise ValueError(f"axes must be ints in {-x.ndim}..{x.ndim - 1}, each axis once, got {tuple(axes)}")
    if len({int(a) % x.ndim for a in axes}) < x.ndim:
        raise ValueError(f"axes must not name an axis twice, got {tuple(axes)}")
    return _transpose(x, tuple(int(a) % x.ndim for a in axes))


# The tape sums a gradient of a broadcast shape to its input's, so this rule has nothing left to do.
_broadcast_to = Op(
    "broadcast_to", 1, (lambda g, y, x, shape: g,),
    forward=backend.broadcast_to, shape=lambda x, shape: shape,
)  # fmt: skip


def broadcast_to(x: Value, shape: Sequence[int]) -> Tensor:
    """x repeated along new axes and axes of one element, as NumPy broadcasts."""
    x = as_tensor(x)
    shape = _sizes("shape", shape)
    try:
        fits = np.broadcast_shapes(x.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"broadcast_to can not make shape {shape} of {x.shape}")
    return _broadcast_to(x, shape)


_sum_to = Op(
    "sum_to", 1, (lambda g, y, x, shape: _broadcast_to(g, x.shape),),
    forward=backend.sum_to, shape=lambda x, shape: shape,
)  # fmt: skip


def sum_to(x: Value, shape: Shape) -> Tensor:
    """The sum over what broadcasting from `shape` to x's shape repeats: the adjoint of broadcasting."""
    return _sum_to(x, shape)


def _concat_shape(shapes: Sequence[Shape], axis: int) -> Shape:
    first = shapes[0]
    if any(s[:axis] + s[axis + 1 :] != first[:axis] + first[axis + 1 :] for s in shapes):
        raise ValueError(f"concat along axis {axis} needs shapes that agree elsewhere, got {list(shapes)}")
    return (*first[:axis], builtins.sum(s[axis] for s in shapes), *first[axis + 1 :])


def _concat_vjp(
    g: Tensor, y: Tensor, inputs: Sequence[Tensor], wanted: Sequence[bool], axis: int
) -> list[Tensor | None]:
    before, stop = (slice(None),) * axis, 0
    found = []
    for x, want in zip(inputs, wanted, strict=True):
        start, stop = stop, stop + x.shape[axis]
        found.append(_getitem(g, (*before, slice(start, stop))) if want else None)
    return found


_concat = Op("concat", -1, _concat_vjp, forward=backend.concat, shape=_concat_shape)


def concat(tensors: Sequence[Value], axis: int = 0) -> Tensor:
    """Join tensors along an axis; their other sizes agree."""
    parts = _parts("concat", tensors)
    if len({x.ndim for x in parts}) != 1:
        raise ValueError(f"concat needs tensors of one rank, got shapes {[x.shape for x in parts]}")
    axis = _one_axis(axis, parts[0].ndim)
    _concat_shape([x.shape for x in parts], axis)
    return _concat(parts, axis)


def _parts(name: str, tensors: Any) -> list[Tensor]:
    """What `concat` or `stack` joins."""
    several = isinstance(tensors, list | tuple | np.ndarray)
    if not several or len(tensors) == 0:
        raise ValueError(f"{name} needs a list of one or more tensors, got {'none' if several else type_name(tensors)}")
    parts = _one_dtype(tensors)
    if any(x.dtype != parts[0].dtype for x in parts):
        got = " and ".join(dict.fromkeys(f"{x.shape} {x.dtype}" for x in parts))
        raise TypeError(f"{name} needs inputs of one dtype, got {got}; convert one with .astype()")
    return parts


def _one_dtype(tensors: Sequence[Value]) -> list[Tensor]:
    """Plain arrays among `tensors` take the dtype and the device of the first Tensor."""
    first = next((x for x in tensors if isinstance(x, Tensor)), None)
    return [as_tensor(x, "an operand", None if first is None else first.dtype, first) for x in tensors]


def stack(tensors: Sequence[Value], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    parts = _parts("stack", tensors)
    shape = parts[0].shape
    if any(x.shape != shape for x in parts):
        raise ValueError(f"stack needs tensors of one shape, got {[x.shape for x in parts]}")
    axis = _one_axis(axis, len(shape) + 1)
    return _concat([_reshape(x, (*shape[:axis], 1, *shape[axis:])) for x in parts], axis)


def split(x: Value, sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Cut x along an axis into `sections` equal parts, or before each index of a list, as np.split does."""
    x = as_tensor(x)
    axis = _one_axis(axis, x.ndim)
    n = x.shape[axis]
    if isinstance(sections, int | np.integer):
        if isinstance(sections, bool) or sections < 1 or n % sections:
            raise ValueError(f"sections must divide the {n} elements of axis {axis} equally, got {sections}")
        cuts = list(range(n // sections, n, n // sections)) if n else [0] * (int(sections) - 1)
    else:
        if not isinstance(sections, tuple | list | np.ndarray) or not all(map(is_int, sections)):
            raise ValueError(f"sections must be an int or a list of ints, the indices to cut at, got {sections!r}")
        cuts = [int(i) for i in sections]
    before = (slice(None),) * axis
    return [_getitem(x, (*before, slice(a, b))) for a, b in zip([0, *cuts], [*cuts, n], strict=True)]


# -- indexing ----------------------------------------------------------------------------------------------------------


def _indexed_shape(shape: Shape, index: Any) -> Shape:
    return np.shape(np.broadcast_to(np.float32(0), shape)[index])


GETITEM = _getitem = Op(
    "getitem", 1, (lambda g, y, x, index: _scatter(g, x.shape, index),),
    forward=backend.getitem, shape=_indexed_shape, accumulate=(backend.add_at,),
)  # fmt: skip
_scatter = Op(
    "scatter", 1, (lambda u, y, g, shape, index: _getitem(u, index),),
    forward=backend.scatter, shape=lambda g, shape, index: shape,
)  # fmt: skip


def getitem(x: Value, index: Any) -> Tensor:
    """x[index] with NumPy's rules: ints, slices, None, Ellipsis, integer and boolean arrays."""
    try:
        if isinstance(index, tuple):
            return _getitem(x, tuple([_kept(part) for part in index]))
        return _getitem(x, _kept(index))
    except (IndexError, TypeError) as error:
        got = ", ".join(map(_part_told, index if isinstance(index, tuple) else [index]))
        raise type(error)(f"index [{got}] does not fit a tensor of shape {np.shape(x)}: {error}") from None


def _kept(part: Any) -> Any:
    """One part of an index as the tape can keep it: an array that its owner may change is copied."""
    if isinstance(part, Tensor):
        raise TypeError("an index must be made of ints, slices, None, Ellipsis or arrays, got a Tensor")
    return np.array(part) if isinstance(part, np.ndarray | list) else part


def _part_told(part: Any) -> str:
    return f"{type_name(part)} {part.shape}" if isinstance(part, Tensor | np.ndarray) else repr(part)


def _take_shape(table: Shape, indices: NDArray[np.int64]) -> Shape:
    return indices.shape + table[1:]


TAKE = _take = Op(
    "take", 1, (lambda g, y, table, indices: _scatter_rows(g, indices, table.shape),),
    forward=backend.take, shape=_take_shape, accumulate=(backend.add_rows,),
)  # fmt: skip
_scatter_rows = Op(
    "scatter_rows", 1, (lambda u, y, g, indices, shape: _take(u, indices),),
    forward=backend.scatter_rows, shape=lambda g, indices, shape: shape,
)  # fmt: skip

# Rows of which none is named twice change their place: nothing is added to them, not even the 0 that makes 0 of -0.
PICK_ROWS = Op(
    "pick_rows", 1, (lambda g, y, x, indices: PLACE_ROWS(g, indices, x.shape),),
    forward=backend.take, shape=_take_shape,
)  # fmt: skip
PLACE_ROWS = Op(
    "place_rows", 1, (lambda u, y, g, indices, shape: PICK_ROWS(u, indices),),
    forward=backend.place_rows, shape=lambda g, indices, shape: shape,
)  # fmt: skip


def take(table: Value, indices: ArrayLike) -> Tensor:
    """Rows of a table (N, ...) by integer indices of any shape, all in 0..N-1: result indices.shape + table.shape[1:].

    The gradient adds each row's share in the order of the indices, so it is the same every time.
    """
    table = as_tensor(table, "table")
    which = as_array("indices", indices)
    if table.ndim < 1:
        raise ValueError("table must have at least one axis, got shape ()")
    if which.dtype.kind not in "iu" and which.size:
        raise TypeError(f"indices must be integers, got {which.dtype.name}")
    if which.size and not 0 <= which.min() <= which.max() < table.shape[0]:
        known = f"lie in 0..{table.shape[0] - 1}" if table.shape[0] else "be none, for table has no rows"
        raise IndexError(f"indices must {known}, got {which.min()}..{which.max()}")
    return _take(table, which.astype(np.int64))


# -- products and reductions -------------------------------------------------------------------------------------------


def _matmul_shape(a: Shape, b: Shape) -> Shape:
    if a[-1] != b[-2]:
        raise ValueError(f"matmul needs inner sizes that agree, got {a} @ {b}")
    try:
        return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
    except ValueError:
        raise ValueError(f"matmul can not broadcast the batch axes of {a} @ {b}") from None


def _swap(x: Tensor) -> Tensor:
    n = x.ndim
    return _transpose(x, (1, 0) if n == 2 else (*range(n - 2), n - 1, n - 2))


def _left_vjp(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    fast = turned_product(g, b, False, True)
    return _matmul(g, _swap(b)) if fast is None else fast


def _right_vjp(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if b.ndim == 2 < a.ndim:  # one product instead of many that would have to be summed
        a, g = (reshape(t, (math.prod(t.shape[:-1]), t.shape[-1])) for t in (a, g))
    fast = turned_product(a, g, True, False)
    return _matmul(_swap(a), g) if fast is None else fast


MATMUL = _matmul = Op(
    "matmul", 2, (_left_vjp, _right_vjp),
    forward=backend.matmul, shape=_matmul_shape, accumulate=(None, backend.add_product),
)  # fmt: skip


def matmul(a: Value, b: Value) -> Tensor:
    """The matrix product (..., M, K) @ (..., K, N); leading axes broadcast; a 1-D operand is a row or a column."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        a, b = _one_dtype([a, b])
    m, n = a.ndim, b.ndim
    if m == 2 and n == 2:
        if a.shape[1] != b.shape[0]:
            _matmul_shape(a.shape, b.shape)
        return _matmul(a, b)
    if m == 0 or n == 0:
        raise ValueError(f"matmul needs operands of at least one axis, got shapes {a.shape} and {b.shape}")
    if m == 1:
        y = matmul(reshape(a, (1, a.size)), b)
        return reshape(y, y.shape[:-2] + y.shape[-1:]) if n > 1 else reshape(y, ())
    if n == 1:
        y = matmul(a, reshape(b, (b.size, 1)))
        return reshape(y, y.shape[:-1])
    _matmul_shape(a.shape, b.shape)
    return _matmul(a, b)


def _reduced(shape: Shape, axes: Shape, keepdims: bool) -> Shape:
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)


def _restore(g: Tensor, x: Tensor, axes: Shape) -> Tensor:
    """g, reduced over axes, repeated to x's shape."""
    return _broadcast_to(_reshape(g, _reduced(x.shape, axes, True)), x.shape)


def _max_vjp(g: Tensor, y: Tensor, x: Tensor, axes: Shape, keepdims: bool) -> Tensor:
    hits = 2.0 * ew.wins(x, _restore(y, x, axes))  # 1 at each maximum, else 0
    return hits * _restore(g / sum(hits, axes, keepdims), x, axes)


_sum = Op(
    "sum", 1, (lambda g, y, x, axes, keepdims: _restore(g, x, axes),),
    forward=backend.sum_over, shape=_reduced,
)  # fmt: skip
_max = Op("max", 1, (_max_vjp,), forward=backend.max_over, shape=_reduced)


def sum(x: Value, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over `axis`: an int, several, or None for all."""
    x = as_tensor(x)
    return _sum(x, _axes(axis, x.ndim), bool(keepdims))


def mean(x: Value, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean over `axis`: an int, several, or None for all."""
    x = as_tensor(x)
    axes = _axes(axis, x.ndim)
    count = math.prod(x.shape[a] for a in axes)
    return _sum(x, axes, bool(keepdims)) * (1.0 / count if count else float("nan"))


def max(x: Value, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The maximum over `axis`: an int, several, or None for all. Ties share the gradient equally."""
    x = as_tensor(x)
    axes = _axes(axis, x.ndim)
    if any(x.shape[a] == 0 for a in axes):
        raise ValueError(f"the maximum of no elements is undefined: shape {x.shape}, axis {axis}")
    return _max(x, axes, bool(keepdims))


# -- dtype, device and gradient ----------------------------------------------------------------------------------------

_astype = Op(
    "astype", 1, (lambda g, y, x, dtype: _astype(g, x.dtype),),
    forward=backend.astype, shape=lambda x, dtype: x,
)  # fmt: skip
_stop_gradient = Op("stop_gradient", 1, (None,), forward=backend.identity, shape=lambda x: x)


def astype(x: Value, dtype: Any) -> Tensor:
    """x in float32 or float64; the gradient returns in x's dtype."""
    x = as_tensor(x)
    if dtype is None:  # float64 to NumPy
        raise TypeError("dtype must be float32 or float64, got None")
    dtype = float_dtype(dtype)
    return x if dtype == x.dtype else _astype(x, dtype)


_to = Op(
    "to", 1, (lambda g, y, x, device: to(g, x.device),),
    forward=backend.move, shape=lambda x, device: x,
)  # fmt: skip


def to(x: Value, device: str) -> Tensor:
    """x on a device, "cpu" or "cuda"; the gradient comes back. x itself if it is there; a copy of a plain array."""
    x = as_tensor(x)
    device = backend.check_device(device)
    # While a step is recorded on shapes there is no device: what is recorded runs on that of the inputs.
    return x if x.device == device or isinstance(x._array, Abstract) else _to(x, device)


def stop_gradient(x: Value) -> Tensor:
    """x as a constant: no gradient flows through. Unlike .detach(), it can stand in a cell's step."""
    return _stop_gradient(x)


RECORDS: list[Op] = [
    _reshape, _transpose, _broadcast_to, _sum_to, _concat, _getitem, _scatter, _take, _scatter_rows, PICK_ROWS,
    PLACE_ROWS, _matmul, _sum, _max, _astype, _to, _stop_gradient,
]  # fmt: skip
