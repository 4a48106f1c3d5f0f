"""Every op, one record each, and the functions made of them. Importing this gives the tape its operators."""

from tinyrnn import backend as _backend
from tinyrnn._core import tape as _tape
from tinyrnn.ops import arrays as _arrays
from tinyrnn.ops import elementwise as _elementwise
from tinyrnn.ops.arrays import (
    astype,
    broadcast_to,
    concat,
    getitem,
    matmul,
    max,
    mean,
    reshape,
    split,
    stack,
    stop_gradient,
    sum,
    sum_to,
    take,
    to,
    transpose,
)
from tinyrnn.ops.composite import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    dropout,
    layer_norm,
    log_softmax,
    mse_loss,
    softmax,
)
from tinyrnn.ops.elementwise import (
    abs,
    add,
    d_relu,
    d_sigmoid,
    d_tanh,
    div,
    exp,
    fma,
    greater,
    lerp,
    log,
    maximum,
    minimum,
    mix,
    mul,
    neg,
    pow,
    relu,
    sigmoid,
    sign,
    softplus,
    sqrt,
    square,
    sub,
    tanh,
    where,
    wins,
)

RECORDS = [*_elementwise.RECORDS, *_arrays.RECORDS]

_tape.bind_device(_backend.cuda)
_tape.bind_arithmetic(add, sub, mul, div, pow, neg, _arrays.MATMUL, matmul)
_tape.bind(
    {
        "abs": abs, "square": square, "astype": astype, "getitem": getitem, "sum": sum, "mean": mean, "max": max,
        "reshape": reshape, "transpose": transpose, "sum_to": sum_to, "to": to,
    }
)  # fmt: skip

__all__ = [
    "RECORDS", "abs", "add", "astype", "binary_cross_entropy_with_logits", "broadcast_to", "concat", "cross_entropy",
    "d_relu", "d_sigmoid", "d_tanh", "div", "dropout", "exp", "fma", "getitem", "greater", "layer_norm", "lerp", "log",
    "log_softmax", "matmul", "max", "maximum", "mean", "minimum", "mix", "mse_loss", "mul", "neg", "pow", "relu",
    "reshape", "sigmoid", "sign", "softmax", "softplus", "split", "sqrt", "square", "stack", "stop_gradient", "sub",
    "sum", "sum_to", "take", "tanh", "to", "transpose", "where", "wins",
]  # fmt: skip
