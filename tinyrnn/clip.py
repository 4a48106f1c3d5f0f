"""Clipping gradients between `backward()` and the optimiser's step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinyrnn._core import kernels
from tinyrnn._core.tape import Tensor, wrap


def clip_grad_norm(params: Iterable[Tensor], max_norm: float, *, error_if_nonfinite: bool = False) -> float:
    """Scale all gradients by one factor so that their joint Euclidean norm is at most `max_norm`.

    g <- g · min(1, max_norm / ‖g‖) (Pascanu, Mikolov & Bengio 2013), in place; parameters without a gradient are passed
    over. Returns ‖g‖ before, computed in float64. A norm that is inf or NaN leaves every gradient as it was, so that
    the step can be skipped, or looked into:

        if math.isfinite(tr.clip_grad_norm(params, 1.0)):
            optimiser.step()

    With error_if_nonfinite it raises RuntimeError instead, which names the parameters at fault.
    max_norm: > 0; inf only measures. Raises ValueError or TypeError for anything else.
    """
    limit = _positive("max_norm", max_norm)
    tensors = _tensors(params)
    norm = _norm([p.grad for p in tensors if p.grad is not None])
    if not math.isfinite(norm):
        if error_if_nonfinite:
            bad = [
                p.name or f"parameter {k}"
                for k, p in enumerate(tensors)
                if p.grad is not None and not np.isfinite(p.grad._array).all()
            ]
            raise RuntimeError(f"the norm of the gradients is {norm}; not finite: {', '.join(bad) or 'their sum'}")
    elif norm > limit:
        scaled: set[int] = set()
        for p in tensors:
            g = p.grad
            if g is not None and id(g) not in scaled:
                p.grad = _changed(g, lambda array, out: np.multiply(array, limit / norm, out=out))
                scaled.add(id(p.grad))
    return norm


def clip_grad_value(params: Iterable[Tensor], value: float) -> None:
    """Limit every element of every gradient to ±`value`, in place. NaN stays NaN. value: > 0."""
    limit = _positive("value", value)
    for p in _tensors(params):
        if p.grad is not None:
            p.grad = _changed(p.grad, lambda array, out: np.clip(array, -limit, limit, out=out))


def _norm(gradients: list[Tensor]) -> float:
    """The joint norm; right also where the sum of squares overflows or vanishes in float64."""
    total = sum(kernels.sumsq(g._array) for g in gradients)
    if 1e-290 < total < math.inf:
        return math.sqrt(total)
    peak = max((float(np.max(np.abs(g._array), initial=0.0)) for g in gradients), default=0.0, key=_nan_first)
    if peak == 0.0 or not math.isfinite(peak):
        return peak
    return peak * math.sqrt(sum(kernels.sumsq(g._array / g.dtype.type(peak)) for g in gradients))


def _nan_first(value: float) -> tuple[bool, float]:
    return math.isnan(value), value


def _changed(g: Tensor, change: Callable[[Any, Any], Any]) -> Tensor:
    """A gradient after change(array, out): changed in place where its array may be written, else a new Tensor."""
    if not g._array.flags.carray:
        return wrap(change(g._array, np.empty(g.shape, g.dtype)))
    change(g._array, g._array)
    g._bump()
    return g


def _tensors(params: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(params, Tensor):
        return [params]
    if not isinstance(params, Iterable):
        raise TypeError(f"params must be Tensors, as model.parameters() gives them, got {type(params).__name__}")
    tensors = list(params)
    for p in tensors:
        if not isinstance(p, Tensor):
            raise TypeError(
                f"params must be Tensors, as model.parameters() gives them, got a {type(p).__name__} inside"
            )
    return tensors


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number > 0, got {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be > 0, got {value}")
    return float(value)
