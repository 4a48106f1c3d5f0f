"""The elementwise ops: one record each, pairing the compiled kernel with its vjp rules and its domain.

The kernels come from the list in `_core/pointwise.h`; a new op is one struct there and one record here. In a vjp rule
`g` is the gradient of the result and `y` the result; a rule that can is written with `y`, which is at hand, and
the products that sigmoid, tanh and relu need are ops of the list themselves (d_sigmoid, d_tanh, d_relu), so that a
backward pass runs one kernel where the formula has four operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyrnn._core.kernels import POINTWISE
from tinyrnn._core.tape import Op

Interval = tuple[float, float]

REAL: Interval = (-3.0, 3.0)
POSITIVE: Interval = (0.2, 3.0)
UNIT: Interval = (0.05, 0.95)


def _op(
    name: str,
    vjps: tuple[Callable[..., Any] | None, ...],
    reference: Callable[..., Any],
    domain: tuple[Interval, ...],
    doc: str,
    kink: Callable[..., Any] | None = None,
) -> Op:
    code, arity = POINTWISE[name]
    return Op(name, arity, vjps, code=code, reference=reference, domain=domain, kink=kink, doc=doc)


# -- one argument ------------------------------------------------------------------------------------------------------

neg = _op("neg", (lambda g, y, a: -g,), np.negative, (REAL,), "-a.")
abs = _op("abs", (lambda g, y, a: g * sign(a),), np.abs, (REAL,), "The absolute value; gradient 0 at 0.", np.abs)
sign = _op("sign", (None,), np.sign, (REAL,), "-1, 0 or 1; no gradient flows.", np.abs)
square = _op("square", (lambda g, y, a: 2.0 * g * a,), np.square, (REAL,), "a * a.")
sqrt = _op("sqrt", (lambda g, y, a: 0.5 * g / y,), np.sqrt, (POSITIVE,), "The square root; NaN below 0.")
exp = _op("exp", (lambda g, y, a: g * y,), np.exp, (REAL,), "e to the a.")
log = _op("log", (lambda g, y, a: g / a,), np.log, (POSITIVE,), "The natural logarithm; NaN below 0.")
sigmoid = _op(
    "sigmoid",
    (lambda g, y, a: d_sigmoid(g, y),),
    lambda a: 1 / (1 + np.exp(-a)),
    (REAL,),
    "The logistic sigmoid σ(a) = 1 / (1 + exp(-a)).",
)
tanh = _op("tanh", (lambda g, y, a: d_tanh(g, y),), np.tanh, (REAL,), "The hyperbolic tangent.")
softplus = _op(
    "softplus", (lambda g, y, a: g * sigmoid(a),), lambda a: np.logaddexp(0, a), (REAL,), "log(1 + exp(a)), stable."
)
relu = _op(
    "relu",
    (lambda g, y, a: d_relu(g, y),),
    lambda a: np.maximum(a, 0),
    (REAL,),
    "max(a, 0); gradient 0 at 0.",
    np.abs,
)

# -- two arguments, broadcast ------------------------------------------------------------------------------------------

add = _op("add", (lambda g, y, a, b: g, lambda g, y, a, b: g), np.add, (REAL, REAL), "a + b.")
sub = _op("sub", (lambda g, y, a, b: g, lambda g, y, a, b: -g), np.subtract, (REAL, REAL), "a - b.")
mul = _op(
    "mul",
    (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a),
    np.multiply,
    (REAL, REAL),
    "a * b, the Hadamard product.",
)
div = _op(
    "div",
    (lambda g, y, a, b: g / b, lambda g, y, a, b: -(g * y / b)),
    np.divide,
    (REAL, POSITIVE),
    "a / b.",
)
pow = _op(
    "pow",
    (
        # Where the exponent is 0 the slope is 0, of any order, though the formula says 0 * a**-1.
        lambda g, y, a, b: g * b * pow(where(b, a, 1.0), b - 1.0),
        lambda g, y, a, b: where(a, g * y * log(where(a, a, 1.0)), 0.0),
    ),
    np.power,
    (POSITIVE, REAL),
    "a to the b; NaN for a negative a and a broken b.",
)
maximum = _op(
    "maximum",
    (lambda g, y, a, b: g * wins(a, b), lambda g, y, a, b: g * wins(b, a)),
    np.maximum,
    (REAL, REAL),
    "The larger of a and b; a tie shares the gradient equally.",
    lambda a, b: np.abs(a - b),
)
minimum = _op(
    "minimum",
    (lambda g, y, a, b: g * wins(b, a), lambda g, y, a, b: g * wins(a, b)),
    np.minimum,
    (REAL, REAL),
    "The smaller of a and b; a tie shares the gradient equally.",
    lambda a, b: np.abs(a - b),
)
greater = _op(
    "greater",
    (None, None),
    lambda a, b: np.greater(a, b).astype(a.dtype),
    (REAL, REAL),
    "1 where a > b, else 0; no gradient flows.",
    lambda a, b: np.abs(a - b),
)
wins = _op(
    "wins",
    (None, None),
    lambda a, b: np.heaviside(a - b, 0.5),
    (REAL, REAL),
    "1 where a > b, 1/2 where a = b, else 0: a's share in maximum(a, b); no gradient flows.",
    lambda a, b: np.abs(a - b),
)

# -- a gradient and a result: the vjps of the ops above ----------------------------------------------------------------

d_sigmoid = _op(
    "d_sigmoid",
    (lambda g, y, u, s: d_sigmoid(g, s), lambda g, y, u, s: g * u * (1.0 - 2.0 * s)),
    lambda u, s: u * s * (1 - s),
    (REAL, UNIT),
    "u * s * (1 - s): the gradient of sigmoid from that of its result, s.",
)
d_tanh = _op(
    "d_tanh",
    (lambda g, y, u, s: d_tanh(g, s), lambda g, y, u, s: -2.0 * g * u * s),
    lambda u, s: u * (1 - s * s),
    (REAL, UNIT),
    "u * (1 - s * s): the gradient of tanh from that of its result, s.",
)
d_relu = _op(
    "d_relu",
    (lambda g, y, u, s: d_relu(g, s), None),
    lambda u, s: np.where(s > 0, u, 0),
    (REAL, REAL),
    "u where s > 0, else 0: the gradient of relu from that of its result, s.",
    lambda u, s: np.abs(s),
)

# -- three arguments ---------------------------------------------------------------------------------------------------

where = _op(
    "where",
    (None, lambda g, y, c, a, b: where(c, g, 0.0), lambda g, y, c, a, b: where(c, 0.0, g)),
    lambda c, a, b: np.where(c != 0, a, b),
    (REAL, REAL, REAL),
    "a where the condition c is not 0 (a mask of numbers or booleans), else b.",
    lambda c, a, b: np.abs(c),
)
fma = _op(
    "fma",
    (lambda g, y, a, b, c: g * b, lambda g, y, a, b, c: g * a, lambda g, y, a, b, c: g),
    lambda a, b, c: a * b + c,
    (REAL, REAL, REAL),
    "a * b + c, rounded once where the processor can.",
)
mix = _op(
    "mix",
    (lambda g, y, w, a, b: g * (a - b), lambda g, y, w, a, b: g * w, lambda g, y, w, a, b: g * (1.0 - w)),
    lambda w, a, b: w * a + (1 - w) * b,
    (REAL, REAL, REAL),
    "w * a + (1 - w) * b: what a gate w takes of a and leaves of b.",
)
lerp = _op(
    "lerp",
    (lambda g, y, a, b, w: g - g * w, lambda g, y, a, b, w: g * w, lambda g, y, a, b, w: g * (b - a)),
    lambda a, b, w: a + w * (b - a),
    (REAL, REAL, REAL),
    "a + w * (b - a): from a towards b, by the share w.",
)

RECORDS: list[Op] = [
    neg, abs, sign, square, sqrt, exp, log, sigmoid, tanh, softplus, relu, add, sub, mul, div, pow, maximum, minimum,
    greater, wins, d_sigmoid, d_tanh, d_relu, where, fma, mix, lerp,
]  # fmt: skip
