"""The simple recurrent network and its relatives without gates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.cells.parts import Activation, OptionCell, as_activation, masked, plus
from tinyrnn.checks import as_number
from tinyrnn.module import probe
from tinyrnn.ops import relu, tanh


class Elman(OptionCell):
    """The vanilla recurrent network (Elman 1990; lectures 000, 002, 004).

        h' = g(x W_x + h W_h + b)

    activation: g, an op of one argument such as tr.tanh, tr.sigmoid or tr.relu. bias=False: without b. The readout
    y = h' V of the lectures is a `tr.nn.Linear` behind the cell. Parameters W_x (I, H), W_h (H, H), b (H,), uniform in
    ±1/sqrt(H). State h (B, H). Probe: "h". PyTorch's nn.RNN is this cell.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        activation: Activation = tanh,
        bias: bool = True,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.activation, self.bias = as_activation("activation", activation), bool(bias)
        self.W_x = self.param((input_size, hidden_size))
        self.W_h = self.param((hidden_size, hidden_size))
        self.b = self.param(hidden_size) if bias else None

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return probe("h", self.activation(plus(x @ self.W_x + h @ self.W_h, self.b)))


class IRNN(Elman):
    """The vanilla network of rectified linear units that starts by keeping its state (Le, Jaitly & Hinton 2015).

        h' = relu(x W_x + h W_h + b),   W_h = scale * identity, b = 0 and W_x normal(0, 0.001) at the start

    scale: below 1 the state fades; the paper takes 1, and 0.01 for speech. State h (B, H). Probe: "h".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        scale: float = 1.0,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        scale = as_number("scale", scale)
        super().__init__(input_size, hidden_size, activation=relu, dtype=dtype, rng=rng)
        self.scale = scale
        self.W_x = self.param((input_size, hidden_size), init=self.rng.normal(0.0, 1e-3, (input_size, hidden_size)))
        self.W_h = self.param((hidden_size, hidden_size), init=self.scale * np.eye(hidden_size))
        self.b = self.param(hidden_size, init=0.0)


class Additive(OptionCell):
    """The additive update, which cures vanishing gradients and overflows in their stead (lecture 002).

        s' = s + g(x W_x + s W_h + b)

    activation: g. Parameters W_x (I, H), W_h (H, H), b (H,), uniform in ±1/sqrt(H). State s (B, H). Probe: "g".
    """

    states = ("s",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        activation: Activation = tanh,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.activation = as_activation("activation", activation)
        self.W_x = self.param((input_size, hidden_size))
        self.W_h = self.param((hidden_size, hidden_size))
        self.b = self.param(hidden_size)

    def step(self, x: Tensor, s: Tensor, *, mask: Tensor | None = None) -> Tensor:
        return s + probe("g", self.activation(x @ self.W_x + masked(s, mask) @ self.W_h + self.b))


class IndRNN(OptionCell):
    """The independently recurrent network, whose units see their own state only (Li, Li, Cook, Zhu & Gao 2018).

        h' = g(x W_x + u * h + b)

    activation: g, relu in the paper. Parameters W_x (I, H) and b (H,), uniform in ±1/sqrt(H); u (H,), uniform in
    [0, 1). State h (B, H). Probe: "h".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        activation: Activation = relu,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.activation = as_activation("activation", activation)
        self.W_x = self.param((input_size, hidden_size))
        self.u = self.param(hidden_size, init=self.rng.uniform(0.0, 1.0, hidden_size))
        self.b = self.param(hidden_size)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return probe("h", self.activation(x @ self.W_x + self.u * h + self.b))
