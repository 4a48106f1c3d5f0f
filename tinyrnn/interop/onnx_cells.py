"""ONNX's recurrent operators as cells: their activation functions, and a cell made of their weights.

Notation: ONNX stacks the gates of an operator in one matrix, W (G·H, I) and R (G·H, H), whose products are x Wᵀ; the
biases of both, Wb and Rb, lie side by side in B (2·G·H,). A cell here has a W_xk (I, H), a W_hk (H, H) and one b_k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn import ops
from tinyrnn._core.tape import Tensor
from tinyrnn.cells import GRU, LSTM, Elman
from tinyrnn.cells.parts import Activation as AnyActivation
from tinyrnn.cells.parts import Gated, as_activation, as_choice, identity
from tinyrnn.checks import as_number
from tinyrnn.module import Cell, probe

Array = npt.NDArray[Any]

GATES = {"RNN": ("",), "LSTM": ("i", "o", "f", "g"), "GRU": ("z", "r", "n")}
"""The gates of an operator in its order, by the cells' letters: ONNX calls g "c", and n "h"."""
DEFAULTS = {"RNN": ("Tanh",), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}
"""The activations of one direction, ONNX's f, g and h."""


# -- activation functions ----------------------------------------------------------------------------------------------


def _affine(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * x + beta


def _leaky_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return ops.where(ops.greater(0.0, x), alpha * x, x)


def _thresholded_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return ops.where(ops.greater(alpha, x), 0.0, x)


def _scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * ops.tanh(beta * x)


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return ops.minimum(ops.maximum(alpha * x + beta, 0.0), 1.0)


def _elu(x: Tensor, alpha: float, beta: float) -> Tensor:
    return ops.where(ops.greater(0.0, x), alpha * (ops.exp(ops.minimum(x, 0.0)) - 1.0), x)


def _softsign(x: Tensor, alpha: float, beta: float) -> Tensor:
    return x / (1.0 + ops.abs(x))


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": ops.relu,
    "Tanh": ops.tanh,
    "Sigmoid": ops.sigmoid,
    "Softplus": ops.softplus,
}
"""Those that are an op."""
SCALED: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "Affine": _affine,
    "LeakyRelu": _leaky_relu,
    "ThresholdedRelu": _thresholded_relu,
    "ScaledTanh": _scaled_tanh,
    "HardSigmoid": _hard_sigmoid,
    "Elu": _elu,
    "Softsign": _softsign,
}
NAMES = {name.lower(): name for name in (*PLAIN, *SCALED)}
# What alpha and beta are where they are not given, as for ONNX's operators of these names; None: there is none.
ALPHAS = {"Affine": None, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": None, "HardSigmoid": 0.2, "Elu": 1.0}
BETAS = {"Affine": None, "ScaledTanh": None, "HardSigmoid": 0.5}


@dataclass(frozen=True)
class Activation:
    """An activation function of ONNX's recurrent operators, which a cell of this library can take as its own.

        Relu(x)             max(0, x)                     ScaledTanh(x)       alpha * tanh(beta * x)
        Tanh(x)             tanh(x)                       HardSigmoid(x)      min(max(alpha * x + beta, 0), 1)
        Sigmoid(x)          1 / (1 + exp(-x))             Elu(x)              x if x >= 0 else alpha * (exp(x) - 1)
        Affine(x)           alpha * x + beta              Softsign(x)         x / (1 + |x|)
        LeakyRelu(x)        x if x >= 0 else alpha * x    Softplus(x)         log(1 + exp(x))
        ThresholdedRelu(x)  x if x >= alpha else 0

    name: one of these; capitals do not count. alpha, beta: None for the default, which Affine and ScaledTanh do not
    have. clip: bounds x to [-clip, clip] before, as the attribute `clip` does; None: it does not.
    Raises ValueError for another name, an alpha or beta that is missing, and a clip that is not above 0, TypeError for
    what is no number.
    """

    name: str
    alpha: float | None = None
    beta: float | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        name = NAMES.get(str(self.name).lower())
        if name is None:
            raise ValueError(f"an activation must be one of {', '.join(NAMES.values())}, got {self.name!r}")
        for which, known in (("alpha", ALPHAS), ("beta", BETAS)):
            value = getattr(self, which)
            if name not in known:
                value = None
            elif value is None and (value := known[name]) is None:
                raise ValueError(f"the activation {name} needs {which}, which has no default")
            object.__setattr__(self, which, value if value is None else as_number(which, value))
        if self.clip is not None and not as_number("clip", self.clip) > 0:
            raise ValueError(f"clip must be above 0, got {self.clip}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "clip", None if self.clip is None else float(self.clip))

    def __call__(self, x: Tensor) -> Tensor:
        if self.clip is not None:
            x = ops.minimum(ops.maximum(x, -self.clip), self.clip)
        if self.name in PLAIN:
            return PLAIN[self.name](x)
        return SCALED[self.name](x, self.alpha or 0.0, self.beta or 0.0)

    def bare(self) -> AnyActivation:
        """The op that this is, where it is one."""
        return PLAIN[self.name] if self.clip is None and self.name in PLAIN else self


def as_onnx(activation: AnyActivation) -> Activation | None:
    """What an activation of a cell is called in ONNX; None if it is none of ONNX's."""
    if isinstance(activation, Activation):
        return activation
    if activation is identity:
        return Activation("Affine", 1.0, 0.0)
    return next((Activation(name) for name, op in PLAIN.items() if op is activation), None)


# -- cells -------------------------------------------------------------------------------------------------------------


class InputForgetLSTM(Gated):
    """The LSTM whose forget gate is what its input gate leaves: ONNX's LSTM with input_forget=1.

        i = σ(x W_xi + h W_hi + p_i * c + b_i)
        f = 1 - i
        g = tanh(x W_xg + h W_hg + b_g)
        c' = f * c + i * g
        o = σ(x W_xo + h W_ho + p_o * c' + b_o)
        h' = o * tanh(c')

    `tr.cells.LSTM(coupled="input")` is the other way round, i = 1 - f; with σ for the gate one can be written as the
    other, but not with every activation. peephole=None: without p_i, p_o. bias=False: without b_k. gate_activation,
    activation and output_activation stand for σ, the tanh of g and that of c'. Parameters as of `tr.cells.LSTM`.
    States h, c (B, H). Probes: "i", "f", "o", "g", "c".
    """

    states = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        peephole: str | None = None,
        activation: AnyActivation = ops.tanh,
        output_activation: AnyActivation = ops.tanh,
        gate_activation: AnyActivation = ops.sigmoid,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.bias, self.peephole = bool(bias), as_choice("peephole", peephole, (None, "diagonal"))
        self.activation = as_activation("activation", activation)
        self.output_activation = as_activation("output_activation", output_activation)
        self.gate_activation = as_activation("gate_activation", gate_activation)
        self.add_gates(dict.fromkeys("iog", hidden_size), bias=self.bias)
        if peephole is not None:
            self.p_i, self.p_o = self.param(hidden_size), self.param(hidden_size)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        sees = self.peephole is not None
        i = self.gate("i", self.gate_activation, x, h, self.p_i * c if sees else None)
        f = probe("f", 1 - i)
        g = self.gate("g", self.activation, x, h)
        c = probe("c", f * c + i * g)
        o = self.gate("o", self.gate_activation, x, h, self.p_o * c if sees else None)
        return o * self.output_activation(c), c


def make_cell(
    op: str,
    W: Array,
    R: Array,
    B: Array | None,
    P: Array | None,
    activations: Sequence[Activation],
    flags: Mapping[str, bool],
) -> Cell:
    """The cell of one direction of an operator.

    op: "RNN", "LSTM" or "GRU". W (G·H, I), R (G·H, H), B (2·G·H,) or None, P (3·H,) or None: its weights, all of one
    dtype, float32 or float64. activations: as many as `DEFAULTS` has. flags: "input_forget", "linear_before_reset".
    """
    inputs, hidden, dtype = W.shape[1], R.shape[1], W.dtype
    bias, bare = B is not None, [a.bare() for a in activations]
    cell: Cell
    if op == "RNN":
        cell = Elman(inputs, hidden, activation=bare[0], bias=bias, dtype=dtype, rng=0)
    elif op == "GRU":
        reset = "after" if flags.get("linear_before_reset") else "before"
        cell = GRU(
            inputs, hidden, reset=reset, flipped=True, bias=bias,
            gate_activation=bare[0], activation=bare[1], dtype=dtype, rng=0,
        )  # fmt: skip
    else:
        kind = InputForgetLSTM if flags.get("input_forget") else LSTM
        cell = kind(
            inputs, hidden, bias=bias, peephole=None if P is None else "diagonal",
            gate_activation=bare[0], activation=bare[1], output_activation=bare[2], dtype=dtype, rng=0,
        )  # fmt: skip

    gates, found = GATES[op], {}
    for k, w, r in zip(gates, np.split(W, len(gates)), np.split(R, len(gates)), strict=True):
        found[f"W_x{k}"], found[f"W_h{k}"] = w.T, r.T
    if B is not None:
        given, recurrent = (np.split(b, len(gates)) for b in np.split(B, 2))
        for k, b, rb in zip(gates, given, recurrent, strict=True):
            found[f"b_{k}" if k else "b"] = b + rb
        if isinstance(cell, GRU) and cell.reset == "after":  # the reset gate multiplies the recurrent one alone
            found["b_n"], found["b_hn"] = given[2], recurrent[2]
    if P is not None:
        found |= zip(("p_i", "p_o", "p_f"), np.split(P, 3), strict=True)
    cell.load_state_dict({name: found[name] for name, _ in cell.named_parameters()})
    return cell
