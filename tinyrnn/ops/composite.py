"""Functions that are compositions of ops: their gradients, of any order, come from the tape alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyrnn._core.tape import Abstract, Tensor, TraceError, wrap
from tinyrnn.backend import to_host
from tinyrnn.checks import as_array, as_generator, as_number, as_rate, type_name
from tinyrnn.ops.arrays import Value, as_tensor, getitem, max, mean, stop_gradient, sum
from tinyrnn.ops.elementwise import exp, log, softplus, sqrt, square


def softmax(x: Value, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis, shifted by the maximum so that nothing overflows."""
    e = exp(as_tensor(x) - stop_gradient(max(x, axis, keepdims=True)))
    return e / sum(e, axis, keepdims=True)


def log_softmax(x: Value, axis: int = -1) -> Tensor:
    """log(softmax(x)) along an axis, without the rounding of taking the logarithm afterwards."""
    shifted = as_tensor(x) - stop_gradient(max(x, axis, keepdims=True))
    return shifted - log(sum(exp(shifted), axis, keepdims=True))


def layer_norm(x: Value, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias along the last axis; Ba, Kiros, Hinton 2016, eq. 3-4.

    x (..., H); weight and bias (H,) or None. The variance is that of the population (divided by H).
    """
    x = as_tensor(x)
    if x.ndim == 0:
        raise ValueError("layer_norm needs x of at least one axis, got shape ()")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is None:
            continue
        if np.shape(value) != x.shape[-1:]:
            raise ValueError(f"layer_norm's {name} must be of shape {x.shape[-1:]}, got {np.shape(value)}")
        if isinstance(value, Tensor) and value.dtype != x.dtype:
            raise TypeError(
                f"layer_norm's {name} must be {x.dtype} like x, got {value.dtype}; convert it with .astype()"
            )
    if as_number("layer_norm's eps", eps) < 0:
        raise ValueError(f"layer_norm's eps must be >= 0, got {eps}")
    centred = x - mean(x, -1, keepdims=True)
    y = centred * (1.0 / sqrt(mean(square(centred), -1, keepdims=True) + eps))
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def dropout(x: Value, p: float, rng: np.random.Generator, training: bool = True) -> Tensor:
    """Zero each element with probability p and scale the rest by 1 / (1 - p); x itself when not training.

    p: in [0, 1), taken to the nearest 65,536th. Srivastava et al. 2014.
    """
    x = as_tensor(x)
    p = as_rate("p", p)
    if not training or p == 0.0:
        return x
    as_generator(rng)
    if isinstance(x._array, Abstract):
        raise TraceError(
            "dropout draws new numbers, which a recorded step would repeat at every time step: draw the mask outside "
            "and give it to the cell as a time input or a state, or run the cell with tr.unroll"
        )
    mask = bernoulli(rng, x.shape, 1.0 - p)
    return x * wrap(np.multiply(mask, 1.0 / (1.0 - p), dtype=x.dtype), x)


def bernoulli(rng: np.random.Generator, shape: tuple[int, ...], p: float) -> NDArray[np.bool_]:
    """True with probability p each, to the nearest 65,536th.

    Drawing 16 bits takes a third of a float's time, and 8 do where p is a number of 256ths.
    """
    n, kind = math.prod(shape), np.dtype(np.uint8 if p * 256 % 1 == 0 else np.uint16)
    bits = rng.integers(0, 1 << 64, -(-n * kind.itemsize // 8), dtype=np.uint64).view(kind)[:n]
    return (bits < round(p * 256**kind.itemsize)).reshape(shape)


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return mean(losses)
    return sum(losses) if reduction == "sum" else losses


def _check_reduction(reduction: str, x: Tensor, name: str) -> None:
    """Raise for another reduction, and for a mean over nothing: a loss of NaN would be found much later."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if reduction == "mean" and x.size == 0:
        raise ValueError(
            f"{name} must hold one element or more for reduction='mean', got shape {x.shape}; the sum is 0, "
            "reduction='sum'"
        )


def cross_entropy(logits: Value, targets: ArrayLike, reduction: str = "mean") -> Tensor:
    """-log softmax(logits)[target] of each row, in nats. logits (N, C); targets (N,) ints in 0..C-1.

    reduction: "mean", "sum" or "none", (N,). Raises ValueError or TypeError for what does not fit; the mean of no rows
    is an error, their sum 0.
    """
    logits = as_tensor(logits, "logits")
    which = as_array("targets", targets)
    if logits.ndim != 2:
        raise ValueError(f"logits must be (N, C), got shape {logits.shape}")
    n, classes = logits.shape
    if which.shape != (n,):
        raise ValueError(f"targets must be ({n},), one a row of logits, got shape {which.shape}")
    if which.dtype.kind not in "iu" and n:
        raise TypeError(f"targets must be integers, got {which.dtype.name}")
    if n and not 0 <= which.min() <= which.max() < classes:
        raise ValueError(f"targets must lie in 0..{classes - 1}, got {which.min()}..{which.max()}")
    _check_reduction(reduction, logits, "logits")
    return _reduce(-getitem(log_softmax(logits), (np.arange(n), which.astype(np.int64))), reduction)


def _paired(a: Value, b: Value, first: str, second: str, reduction: str) -> tuple[Tensor, Tensor]:
    """Two tensors of one shape, the second in the first's dtype if it came as a plain array."""
    x = as_tensor(a, first)
    y = b if isinstance(b, Tensor) else _numbers(second, b, x)
    if x.shape != y.shape:
        raise ValueError(f"{first} and {second} must be of one shape, got {x.shape} and {y.shape}")
    if x.device != y.device:
        raise TypeError(f"{first} and {second} must be on one device, got {x.device} and {y.device}; .to() moves one")
    if x.dtype != y.dtype:
        raise TypeError(f"{first} and {second} must be of one dtype, got {x.dtype} and {y.dtype}; .astype() converts")
    _check_reduction(reduction, x, first)
    return x, y


def _numbers(name: str, value: ArrayLike, like: Tensor) -> Tensor:
    array = as_array(name, value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be numbers {like.shape}, got {type_name(value)} of {array.dtype.name}")
    return wrap(np.array(array, dtype=like.dtype, order="C"), like)


def mse_loss(pred: Value, target: Value, reduction: str = "mean") -> Tensor:
    """The squared error (pred - target)**2; both of one shape, and not empty for the mean."""
    x, y = _paired(pred, target, "pred", "target", reduction)
    return _reduce(square(x - y), reduction)


def binary_cross_entropy_with_logits(logits: Value, targets: Value, reduction: str = "mean") -> Tensor:
    """-t log σ(x) - (1 - t) log(1 - σ(x)), in nats, as softplus(x) - t x; both of one shape, targets in [0, 1].

    Raises ValueError for other targets, other shapes, and for the mean of nothing.
    """
    x, t = _paired(logits, targets, "logits", "targets", reduction)
    if not isinstance(t._array, Abstract):
        values = to_host(t._array)
        if not (inside := (values >= 0) & (values <= 1)).all():
            raise ValueError(f"targets must lie in [0, 1], got {values[~inside][0]}")
    return _reduce(softplus(x) - t * x, reduction)
