"""Clipping gradients between `backward()` and the optimiser's step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tinyrnn import backend
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
                if p.grad is not None and not np.isfinite(backend.to_host(p.grad._array)).all()
            ]
            raise RuntimeError(f"the norm of the gradients is {norm}; not finite: {', '.join(bad) or 'their sum'}")
    elif norm > limit:
        scaled: set[int] = set()
        for p in tensors:
            g = p.grad
            if g is not None and id(g) not in scaled:
                p.grad = _changed(g, backend.scale(g._array, limit / norm))
                scaled.add(id(p.grad))
    return norm


def clip_grad_value(params: Iterable[Tensor], value: float) -> None:
    """Limit every element of every gradient to ±`value`, in place. NaN stays NaN. value: > 0."""
    limit = _positive("value", value)
    for p in _tensors(params):
        if p.grad is not None:
            p.grad = _changed(p.grad, backend.clip(p.grad._array, limit))


def _norm(gradients: list[Tensor]) -> float:
    """The joint norm; right also where the sum of squares overflows or vanishes in float64."""
    total = backend.sumsq([g._array for g in gradients])
    if 1e-290 < total < math.inf:
        return math.sqrt(total)
    arrays = [backend.to_host(g._array) for g in gradients]  # it is rare that one comes here
    peak = max((float(np.max(np.abs(a), initial=0.0)) for a in arrays), default=0.0, key=_nan_first)
    if peak == 0.0 or not math.isfinite(peak):
        return peak
    return peak * math.sqrt(backend.sumsq([a / a.dtype.type(peak) for a in arrays]))


def _nan_first(value: float) -> tuple[bool, float]:
    return math.isnan(value), value


def _changed(g: Tensor, array: Any) -> Tensor:
    """The gradient g, if `array` is its own, which was changed in place; else a new Tensor over `array`."""
    if array is not g._array:
        return wrap(array)
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
