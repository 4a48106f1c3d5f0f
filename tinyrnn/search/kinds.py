"""The kinds of ops that a random cell is made of: what each computes, how it is written, and what it may be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyrnn import ops
from tinyrnn._core.tape import Tensor

Bound = tuple[float, float]
"""The least and the largest value that are to be expected."""


class Width(NamedTuple):
    """Columns of a value: those of so many inputs, so many units, and so many single ones."""

    inputs: int = 0
    units: int = 0
    single: int = 0

    def __str__(self) -> str:
        parts = [f"{n if n > 1 else ''}{name}" for n, name in ((self.inputs, "I"), (self.units, "U")) if n]
        return " + ".join(parts + [str(self.single)] * bool(self.single))

    def columns(self, input_size: int, unit: int) -> int:
        return self.inputs * input_size + self.units * unit + self.single


SINGLE = Width(single=1)


class Kind(NamedTuple):
    """A kind of node. args: how many values it reads, -1 for two or three; parameter: "W", "b", "g" or none.

    run(cell, node, *values) -> value, for a RandomCell and its Node; text(names, attrs) -> the equation's right side;
    width(widths, attrs) -> that of the result, None if these do not fit; bound(bounds, attrs) -> that of the result,
    None if these are not in its domain.
    choices: from which its constant is drawn. kink: whether its slope jumps somewhere. attrs: how many there are.
    """

    args: int
    run: Callable[..., Tensor]
    text: Callable[[Sequence[str], Sequence[float]], str]
    width: Callable[[Sequence[Width], Sequence[float]], Width | None]
    bound: Callable[[Sequence[Bound], Sequence[float]], Bound | None]
    choices: tuple[float, ...] = ()
    parameter: str = ""
    kink: bool = False
    attrs: int = 0


def _same_width(widths: Sequence[Width], attrs: Sequence[float]) -> Width | None:
    """Values of one width, or single columns, which are repeated."""
    wide = {w for w in widths if w != SINGLE}
    return SINGLE if not wide else wide.pop() if len(wide) == 1 else None


def _units(widths: Sequence[Width], attrs: Sequence[float]) -> Width | None:
    """The width of a value that is made of units alone."""
    w = widths[0]
    return w if w.units and not w.inputs and not w.single else None


def _map(fn: Callable[..., Tensor], text: str, bound: Callable[..., Bound | None], kink: bool = False) -> Kind:
    n = 1 + max(k for k in range(4) if f"{{{k}}}" in text)
    return Kind(
        n, lambda cell, node, *values: fn(*values), lambda names, attrs: text.format(*names), _same_width,
        lambda bounds, attrs: bound(*bounds), kink=kink,
    )  # fmt: skip


def _monotone(fn: Callable[[float], Any], least: float = -np.inf) -> Callable[..., Bound | None]:
    """The bound of a rising function, and that it is only wanted above `least`."""
    return lambda a: (float(fn(a[0])), float(fn(a[1]))) if a[0] >= least else None


def _hull(*values: float) -> Bound:
    return min(values), max(values)


def _products(a: Bound, b: Bound) -> Bound:
    return _hull(*(p * q for p in a for q in b))


def magnitude(a: Bound) -> float:
    """The largest absolute value within a bound."""
    return max(abs(a[0]), abs(a[1]))


def _constant(fn: Callable[[Any, float], Any], text: str, choices: tuple[float, ...]) -> Kind:
    return Kind(
        1, lambda cell, node, a: fn(a, node.attrs[0]), lambda names, attrs: text.format(*names, f"{attrs[0]:g}"),
        _same_width, lambda bounds, attrs: _hull(*(fn(v, attrs[0]) for v in bounds[0])), choices, attrs=1,
    )  # fmt: skip


def _slice_width(widths: Sequence[Width], attrs: Sequence[float]) -> Width | None:
    whole = _units(widths, attrs)
    return Width(units=int(attrs[1] - attrs[0])) if whole and 0 <= attrs[0] < attrs[1] <= whole.units else None


def _sum_width(widths: Sequence[Width], attrs: Sequence[float]) -> Width:
    return Width(*(sum(parts) for parts in zip(*widths, strict=True)))


def _blocks(cell: Any, a: Tensor) -> Tensor:
    """(B, units, unit)"""
    return ops.reshape(a, (a.shape[0], a.shape[1] // cell.unit, cell.unit))


def _shuffle(cell: Any, node: Any, a: Tensor) -> Tensor:
    return ops.reshape(ops.transpose(_blocks(cell, a), (0, 2, 1)), a.shape)


def _cut(cell: Any, node: Any, a: Tensor) -> Tensor:
    return a[:, int(node.attrs[0]) * cell.unit : int(node.attrs[1]) * cell.unit]


def _mix(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return z * a + (1.0 - z) * b


def _unary(name: str, kind: Callable[..., Tensor], **fields: Any) -> Kind:
    """A function of a row of one value that keeps its width, unless told otherwise."""
    defaults: dict[str, Any] = {"width": _units, "bound": lambda bounds, attrs: bounds[0]}
    return Kind(1, kind, lambda names, attrs: f"{name}({names[0]})", **(defaults | fields))


_tanh, _softplus = _monotone(np.tanh), _monotone(lambda v: np.logaddexp(0, v))

# The order is that in which a failing example is simplified.
KINDS: dict[str, Kind] = {
    "tanh": _map(ops.tanh, "tanh({0})", _tanh),
    "sigmoid": _map(ops.sigmoid, "σ({0})", _monotone(lambda v: 1 / (1 + np.exp(-v)))),
    "product": Kind(
        1, lambda cell, node, a: a @ cell.parameter(node), lambda names, attrs: f"{names[0]} W{attrs[0]}",
        lambda widths, attrs: Width(units=int(attrs[1])) if attrs[1] >= 1 else None,
        lambda bounds, attrs: (-1.5 * magnitude(bounds[0]), 1.5 * magnitude(bounds[0])), parameter="W", attrs=2,
    ),
    "mul": _map(ops.mul, "{0} * {1}", _products),
    "add": _map(ops.add, "{0} + {1}", lambda a, b: (a[0] + b[0], a[1] + b[1])),
    "sub": _map(ops.sub, "{0} - {1}", lambda a, b: (a[0] - b[1], a[1] - b[0])),
    "bias": Kind(
        1, lambda cell, node, a: a + cell.parameter(node), lambda names, attrs: f"{names[0]} + b{attrs[0]}", _units,
        lambda bounds, attrs: (bounds[0][0] - 0.5, bounds[0][1] + 0.5), parameter="b", attrs=1,
    ),
    "gain": Kind(
        1, lambda cell, node, a: cell.parameter(node) * a, lambda names, attrs: f"g{attrs[0]} * {names[0]}", _units,
        lambda bounds, attrs: _products(bounds[0], (0.5, 1.5)), parameter="g", attrs=1,
    ),
    "mix": _map(
        _mix, "{0} * {1} + (1 - {0}) * {2}",
        lambda z, a, b: _hull(*a, *b) if z[0] >= 0 and z[1] <= 1 else None,
    ),
    "scale": _constant(lambda a, c: a * c, "{0} * {1}", (0.5, 2.0, -1.5)),
    "shift": _constant(lambda a, c: a + c, "{0} + {1}", (1.0, -0.5, 3.0)),
    "rest": _constant(lambda a, c: c - a, "{1} - {0}", (1.0, 0.5)),
    "concat": Kind(
        -1, lambda cell, node, *parts: ops.concat(parts, 1), lambda names, attrs: f"[{', '.join(names)}]", _sum_width,
        lambda bounds, attrs: _hull(*(v for b in bounds for v in b)),
    ),
    "slice": Kind(
        1, _cut, lambda names, attrs: f"{names[0]}[{attrs[0]:g}U:{attrs[1]:g}U]", _slice_width,
        lambda bounds, attrs: bounds[0], attrs=2,
    ),
    "softmax": _unary("softmax", lambda cell, node, a: ops.softmax(a), bound=lambda bounds, attrs: (0.0, 1.0)),
    # A large eps: a row that hardly varies is not blown up together with its rounding.
    "layer_norm": _unary(
        "layer_norm", lambda cell, node, a: ops.layer_norm(a, eps=0.1), bound=lambda bounds, attrs: (-3.0, 3.0)
    ),
    "mean": _unary("mean", lambda cell, node, a: ops.mean(a, 1, True), width=lambda widths, attrs: SINGLE),
    "square": _map(
        ops.square, "{0}²", lambda a: (0.0 if a[0] <= 0 <= a[1] else min(v * v for v in a), magnitude(a) ** 2)
    ),
    "neg": _map(ops.neg, "-{0}", lambda a: (-a[1], -a[0])),
    "softplus": _map(ops.softplus, "softplus({0})", _softplus),
    "exp": _map(ops.exp, "exp({0})", _monotone(np.exp)),
    "sqrt": _map(ops.sqrt, "sqrt({0})", _monotone(np.sqrt, 0.25)),
    "log": _map(ops.log, "log({0})", _monotone(np.log, 0.25)),
    "div": _map(
        lambda a, b: b / a, "{1} / {0}", lambda a, b: _products(b, (1 / a[1], 1 / a[0])) if a[0] >= 0.25 else None
    ),
    "flip": _unary("flip", lambda cell, node, a: a[:, ::-1]),
    "shuffle": _unary("shuffle", _shuffle),
    "fold": _unary(
        "fold", lambda cell, node, a: ops.mean(_blocks(cell, a), 1),
        width=lambda widths, attrs: Width(units=1) if _units(widths, attrs) else None,
    ),
    "relu": _map(ops.relu, "relu({0})", _monotone(lambda v: max(v, 0.0)), kink=True),
    "abs": _map(ops.abs, "|{0}|", lambda a: (0.0, magnitude(a)), kink=True),
    "max": _unary("max", lambda cell, node, a: ops.max(a, 1, True), width=lambda widths, attrs: SINGLE, kink=True),
    "maximum": _map(ops.maximum, "max({0}, {1})", lambda a, b: (max(a[0], b[0]), max(a[1], b[1])), kink=True),
    "minimum": _map(ops.minimum, "min({0}, {1})", lambda a, b: (min(a[0], b[0]), min(a[1], b[1])), kink=True),
    "where": _map(
        lambda a, b, c, d: ops.where(ops.greater(a, b), c, d), "{0} > {1} ? {2} : {3}",
        lambda a, b, c, d: _hull(*c, *d), kink=True,
    ),
}  # fmt: skip
