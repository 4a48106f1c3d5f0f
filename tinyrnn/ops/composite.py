"""Functions that are compositions of ops: their gradients, of any order, come from the tape alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tinyrnn._core.tape import Abstract, Tensor, TraceError, wrap
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
        if value is not None and np.shape(value) != x.shape[-1:]:
            raise ValueError(f"layer_norm's {name} must be of shape {x.shape[-1:]}, got {np.shape(value)}")
    centred = x - mean(x, -1, keepdims=True)
    y = centred * (1.0 / sqrt(mean(square(centred), -1, keepdims=True) + eps))
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def dropout(x: Value, p: float, rng: np.random.Generator, training: bool = True) -> Tensor:
    """Zero each element with probability p and scale the rest by 1 / (1 - p); x itself when not training."""
    x = as_tensor(x)
    if not 0.0 <= p < 1.0:
        raise ValueError(f"p must be in [0, 1), got {p}")
    if not training or p == 0.0:
        return x
    if isinstance(x._array, Abstract):
        raise TraceError(
            "dropout draws new numbers, which a recorded step would repeat at every time step: draw the mask outside "
            "and give it to the cell as a time input or a state, or run the cell with tr.unroll"
        )
    mask = rng.random(x.shape, dtype=np.float32) >= p
    return x * wrap(mask.astype(x.dtype) / x.dtype.type(1.0 - p))


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return mean(losses)
    if reduction == "sum":
        return sum(losses)
    if reduction == "none":
        return losses
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def cross_entropy(logits: Value, targets: ArrayLike, reduction: str = "mean") -> Tensor:
    """-log softmax(logits)[target] of each row, in nats. logits (N, C); targets (N,) ints in 0..C-1."""
    logits = as_tensor(logits)
    which = np.asarray(targets)
    if logits.ndim != 2:
        raise ValueError(f"logits must be (N, C), got shape {logits.shape}")
    n, classes = logits.shape
    if which.shape != (n,):
        raise ValueError(f"targets must be ({n},), one a row of logits, got shape {which.shape}")
    if which.dtype.kind not in "iu" and n:
        raise TypeError(f"targets must be integers, got {which.dtype.name}")
    if n and not 0 <= which.min() <= which.max() < classes:
        raise ValueError(f"targets must lie in 0..{classes - 1}, got {which.min()}..{which.max()}")
    return _reduce(-getitem(log_softmax(logits), (np.arange(n), which.astype(np.int64))), reduction)


def _paired(a: Value, b: Value, names: str) -> tuple[Tensor, Tensor]:
    """Two tensors of one shape, the second in the first's dtype if it came as a plain array."""
    x = as_tensor(a)
    y = b if isinstance(b, Tensor) else Tensor(b, dtype=x.dtype)
    if x.shape != y.shape:
        raise ValueError(f"{names} must be of one shape, got {x.shape} and {y.shape}")
    return x, y


def mse_loss(pred: Value, target: Value, reduction: str = "mean") -> Tensor:
    """The squared error (pred - target)**2; both of one shape."""
    x, y = _paired(pred, target, "pred and target")
    return _reduce(square(x - y), reduction)


def binary_cross_entropy_with_logits(logits: Value, targets: Value, reduction: str = "mean") -> Tensor:
    """-t log σ(x) - (1 - t) log(1 - σ(x)), in nats, as softplus(x) - t x; both of one shape, targets in [0, 1]."""
    x, t = _paired(logits, targets, "logits and targets")
    return _reduce(softplus(x) - t * x, reduction)
