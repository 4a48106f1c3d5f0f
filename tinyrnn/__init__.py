"""tinyrnn: recurrent cells written as six lines of ops, differentiated by a small tape, run by compiled loops.

    import tinyrnn as tr

A cell's step is written with ops; `tr.unroll` runs it over time and the tape holds the gradients. See README.md.
"""

from tinyrnn import cells, files, flow, init, interop, nn, optim, plots
from tinyrnn._core.kernels import get_num_threads, set_num_threads
from tinyrnn.autograd import Tape, Tensor, enable_grad, from_dlpack, grad, no_grad, tensor
from tinyrnn.backend.cuda.precision import get_precision, set_precision
from tinyrnn.clip import clip_grad_norm, clip_grad_value
from tinyrnn.curvature import hvp, jvp
from tinyrnn.files.modules import load, save
from tinyrnn.findiff import GradcheckError, GradcheckReport, gradcheck
from tinyrnn.loop import scan, unroll
from tinyrnn.module import Cell, Module, Parameter, probe, probes
from tinyrnn.ops import (
    abs,
    add,
    astype,
    binary_cross_entropy_with_logits,
    broadcast_to,
    concat,
    cross_entropy,
    div,
    dropout,
    exp,
    fma,
    getitem,
    greater,
    layer_norm,
    log,
    log_softmax,
    matmul,
    max,
    maximum,
    mean,
    minimum,
    mse_loss,
    mul,
    neg,
    pow,
    relu,
    reshape,
    sigmoid,
    sign,
    softmax,
    softplus,
    split,
    sqrt,
    square,
    stack,
    stop_gradient,
    sub,
    sum,
    take,
    tanh,
    transpose,
    where,
)
from tinyrnn.plan.explain import explain

__version__ = "0.1.0"

__all__ = [
    "Cell", "GradcheckError", "GradcheckReport", "Module", "Parameter", "Tape", "Tensor", "abs", "add", "astype",
    "binary_cross_entropy_with_logits", "broadcast_to", "cells", "clip_grad_norm", "clip_grad_value", "concat",
    "cross_entropy", "div", "dropout", "enable_grad", "exp", "explain", "files", "flow", "fma", "from_dlpack",
    "get_num_threads", "get_precision", "getitem", "grad", "gradcheck", "greater", "hvp", "init", "interop", "jvp",
    "layer_norm", "load", "log", "log_softmax", "matmul", "max", "maximum", "mean", "minimum", "mse_loss", "mul", "neg",
    "nn", "no_grad", "optim", "plots", "pow", "probe", "probes", "relu", "reshape", "save", "scan", "set_num_threads",
    "set_precision", "sigmoid", "sign", "softmax", "softplus", "split", "sqrt", "square", "stack", "stop_gradient",
    "sub", "sum", "take", "tanh", "tensor", "transpose", "unroll", "where",
]  # fmt: skip
