"""Second order without a Hessian: products of Hessians and of Jacobians with vectors, through any ops and scans.

The tape goes backwards only, and its reverse is again a tape. So a Hessian-vector product is the gradient of the
gradient's product with the vector (Pearlmutter 1994), and a Jacobian-vector product the gradient of a vector-Jacobian
product by its vector, in which it is linear. Both are exact, and run through `tr.scan` as compiled loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from tinyrnn import ops
from tinyrnn._core.tape import Tensor, wrap
from tinyrnn.autograd import enable_grad, grad

__all__ = ["hvp", "jvp"]

Array = npt.NDArray[Any]
Vector: TypeAlias = Tensor | Array


@overload
def hvp(loss_fn: Callable[[], Tensor], params: Tensor, v: Vector, *, create_graph: bool = False) -> Tensor: ...
@overload
def hvp(
    loss_fn: Callable[[], Tensor], params: Iterable[Tensor], v: Vector, *, create_graph: bool = False
) -> Tensor: ...
@overload
def hvp(
    loss_fn: Callable[[], Tensor], params: Iterable[Tensor], v: Sequence[Vector], *, create_graph: bool = False
) -> tuple[Tensor, ...]: ...
def hvp(
    loss_fn: Callable[[], Tensor],
    params: Tensor | Iterable[Tensor],
    v: Vector | Sequence[Vector],
    *,
    create_graph: bool = False,
) -> Tensor | tuple[Tensor, ...]:
    """The product H v of a loss's Hessian by some parameters with a vector: exact, in about three gradients' time.

    loss_fn       () -> the loss, a Tensor of one element; called once. Where it draws random numbers (dropout), every
                  product is of another loss: draw them before, or call .eval().
    params        a Tensor that requires a gradient, or several, as model.parameters() gives them. One that the loss
                  does not depend on has zeros in its part of H v.
    v             the vector, in one of two forms: a Tensor or an array of a parameter's shape for each parameter (for a
                  bare Tensor in params, one); or flat, (n,) or (n, 1), all parameters' elements one after another.
                  Numbers are taken in the parameter's dtype.
    create_graph  record the product, so that it can be differentiated in its turn.

    Returns H v in the form of v: a tuple of Tensors, one Tensor for a bare one, or a flat Tensor. No `.grad` is
    touched, no graph freed, and a no_grad block around makes no difference. Raises TypeError or ValueError that names
    the argument, what it got and what it needs; ValueError too where the loss depends on none of the parameters.

    The largest eigenvalue of a trained network's Hessian by Lanczos' method, of n parameters, without an n × n matrix:

        from scipy.sparse.linalg import LinearOperator, eigsh

        params = list(model.parameters())
        n = sum(p.size for p in params)

        def loss_fn():
            return tr.mse_loss(model(xs), targets)

        hessian = LinearOperator((n, n), matvec=lambda v: tr.hvp(loss_fn, params, v), dtype="float64")
        (sharpness,) = eigsh(hessian, k=1, which="LA", return_eigenvectors=False)
    """
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of no arguments, got {type(loss_fn).__name__}")
    single = isinstance(params, Tensor)
    wanted = _parameters(params)
    with enable_grad():
        parts, flat = _vector(v, wanted, single)
        loss = loss_fn()
        if not isinstance(loss, Tensor) or loss.size != 1:
            got = f"one of shape {loss.shape}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss_fn must return a Tensor of one element, got {got}")
        first: Sequence[Tensor | None] = [None] * len(wanted)
        if loss.requires_grad:
            first = grad(loss, wanted, create_graph=True, allow_unused=True)
        if all(g is None for g in first):
            raise ValueError(
                "loss_fn's result depends on none of params: is it made with them, and outside of no_grad?"
            )
        product = _pull(first, wanted, parts, create_graph)
        if flat is None:
            return product[0] if single else product
        return ops.reshape(ops.concat([ops.reshape(h, (h.size,)) for h in product]), flat)


def jvp(fn: Callable[..., Any], inputs: Any, tangents: Any, *, create_graph: bool = False) -> tuple[Any, Any]:
    """fn(*inputs) and its derivative along the tangents, J v: exact, from two passes backwards over fn's tape.

    fn            inputs -> a Tensor, or a tuple or list (nested if need be) of Tensors, such as `tr.scan` returns.
    inputs        one input or a tuple of them. A Tensor that requires a gradient is handed to fn as it is, so that fn
                  may also reach it by closure, as it does the parameters of a module. Of another Tensor fn gets a view;
                  an array of floats becomes a Tensor of its precision; anything else is handed over untouched.
    tangents      in the form of inputs: a Tensor or an array of each input's shape, taken in its dtype; None stands for
                  zeros, and has to for an input that is neither Tensor nor array of floats.
    create_graph  record both results, so that they can be differentiated in their turn.

    Returns (outputs, their tangents), each in the form of fn's result; an output that the inputs do not move has zeros.
    No `.grad` is touched, no graph freed, and a no_grad block around makes no difference. Raises TypeError or
    ValueError that names the argument, what it got and what it needs.

    How a loss changes along a direction d of the weights, with the loss:

        loss, slope = tr.jvp(lambda *_: loss_fn(), tuple(params), tuple(d))
    """
    if not callable(fn):
        raise TypeError(f"fn must be a function, got {type(fn).__name__}")
    several = isinstance(inputs, tuple | list)
    if several != isinstance(tangents, tuple | list):
        raise TypeError(f"tangents must be {'a tuple' if several else 'one'} as inputs, got {type(tangents).__name__}")
    given, along = (list(inputs), list(tangents)) if several else ([inputs], [tangents])
    if len(along) != len(given):
        raise ValueError(f"tangents must be {len(given)}, one for each of the inputs, got {len(along)}")
    args: list[Any] = []
    moving: list[Tensor] = []
    tangent_of: list[tuple[str, Any]] = []
    for k, (value, tangent) in enumerate(zip(given, along, strict=True)):
        which = f"[{k}]" if several else ""
        arg = _argument(value)
        args.append(arg)
        if tangent is None:
            continue
        if not isinstance(arg, Tensor):
            raise TypeError(f"tangents{which} must be None where inputs{which} is {type(value).__name__}")
        if any(arg is other for other in moving):
            raise ValueError(f"inputs{which} is the same Tensor as one before; hand over a copy, or use it by closure")
        moving.append(arg)
        tangent_of.append((which, tangent))
    with enable_grad():
        parts = [
            _part(f"tangents{which}", t, arg, f"inputs{which}")
            for arg, (which, t) in zip(moving, tangent_of, strict=True)
        ]
        result = fn(*args)
        outputs = list(_flatten("output", result))
        pulled = [y for y in outputs if y.requires_grad]
        cotangents = [wrap(np.zeros(y.shape, y.dtype), y) for y in pulled]  # any values: J v does not depend on them
        for u in cotangents:
            u.requires_grad = True
        rows: Sequence[Tensor | None] = [None] * len(moving)
        if pulled and moving:
            rows = grad(pulled, moving, cotangents, create_graph=True, allow_unused=True)
        found = iter(_pull(rows, cotangents, parts, create_graph))
        moved = [next(found) if y.requires_grad else wrap(np.zeros(y.shape, y.dtype), y) for y in outputs]
    kept = outputs if create_graph else [y.detach() for y in outputs]
    return _like(result, iter(kept)), _like(result, iter(moved))


def _pull(
    values: Sequence[Tensor | None], by: Sequence[Tensor], parts: Sequence[Tensor], create_graph: bool
) -> tuple[Tensor, ...]:
    """The gradient of Σ <value, part> by each of `by`; zeros where there is no path."""
    pairs = [(g, p) for g, p in zip(values, parts, strict=True) if g is not None and g.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(by)
    if pairs and by:
        seeds, directions = [g for g, _ in pairs], [p for _, p in pairs]
        found = grad(seeds, by, directions, create_graph, retain_graph=True, allow_unused=True)
    return tuple(wrap(np.zeros(t.shape, t.dtype), t) if g is None else g for g, t in zip(found, by, strict=True))


# -- arguments ---------------------------------------------------------------------------------------------------------


def _parameters(params: Any) -> list[Tensor]:
    if not isinstance(params, Iterable):
        raise TypeError(f"params must be Tensors, as model.parameters() gives them, got {type(params).__name__}")
    wanted = [params] if isinstance(params, Tensor) else list(params)
    for k, p in enumerate(wanted):
        if not isinstance(p, Tensor):
            raise TypeError(
                f"params must be Tensors, as model.parameters() gives them, got a {type(p).__name__} as number {k}"
            )
        if not p.requires_grad:
            raise ValueError(
                f"params must require gradients, but {p.name or f'number {k}'}, of shape {p.shape}, does not"
            )
    if not wanted:
        raise ValueError("params must be one Tensor or more, got none")
    return wanted


def _vector(v: Any, params: Sequence[Tensor], single: bool) -> tuple[list[Tensor], tuple[int, ...] | None]:
    """v in parts of the parameters' shapes and dtypes, and its shape if it is flat."""
    if single:
        return [_part("v", v, params[0], "params")], None
    if isinstance(v, Tensor | np.ndarray):
        n = sum(p.size for p in params)
        if v.shape not in ((n,), (n, 1)):
            raise ValueError(
                f"v must be {len(params)} arrays, one a parameter, or flat, ({n},), for all the elements of "
                f"params, got shape {v.shape}"
            )
        whole = (
            v
            if isinstance(v, Tensor)
            else _numbers("v", v, np.result_type(*(p.dtype for p in params)), params[0].device)
        )
        line = ops.reshape(whole, (n,))
        ends = np.cumsum([p.size for p in params]).tolist()
        cut = [line[end - p.size : end] for p, end in zip(params, ends, strict=True)]
        return [ops.astype(ops.reshape(c, p.shape), p.dtype) for c, p in zip(cut, params, strict=True)], v.shape
    if isinstance(v, str | bytes) or not isinstance(v, Iterable):
        raise TypeError(f"v must be arrays, one a parameter, or one flat array, got {type(v).__name__}")
    parts = list(v)
    if len(parts) != len(params):
        raise ValueError(f"v must be {len(params)} arrays, one a parameter, got {len(parts)}")
    return [
        _part(f"v[{k}]", part, p, p.name or f"params[{k}]")
        for k, (part, p) in enumerate(zip(parts, params, strict=True))
    ], None


def _part(name: str, value: Any, like: Tensor, what: str) -> Tensor:
    """`value` as a Tensor of the shape and dtype of `like`."""
    if not isinstance(value, Tensor):
        value = _numbers(name, value, like.dtype, like.device)
    if value.shape != like.shape:
        raise ValueError(f"{name} must be of the shape of {what}, {like.shape}, got {value.shape}")
    return ops.astype(value, like.dtype)


def _numbers(name: str, value: Any, dtype: npt.DTypeLike, device: str) -> Tensor:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be a Tensor or an array of numbers, got {type(value).__name__} of {array.dtype}")
    return Tensor(array, dtype=dtype, device=device)


def _argument(value: Any) -> Any:
    """What fn gets for an input."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            return value
        view = value.detach()
    elif isinstance(value, np.ndarray | np.generic | float) and np.asarray(value).dtype.kind == "f":
        view = Tensor(value)
    else:
        return value
    view.requires_grad = True
    return view


def _flatten(name: str, value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for k, item in enumerate(value):
            yield from _flatten(f"{name}[{k}]", item)
    else:
        raise TypeError(f"fn must return a Tensor or a tuple of Tensors; its {name} is {type(value).__name__}")


def _like(value: Any, tensors: Iterator[Tensor]) -> Any:
    """The tensors in the form of fn's result."""
    if isinstance(value, Tensor):
        return next(tensors)
    items = [_like(item, tensors) for item in value]
    return items if isinstance(value, list) else tuple(items)
