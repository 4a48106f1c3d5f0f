"""Gated units of one state: the GRU and its simplification."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.cells.parts import Activation, OptionCell, as_activation, as_bias, as_choice, masked, plus
from tinyrnn.module import probe
from tinyrnn.ops import sigmoid, tanh


class GRU(OptionCell):
    """The gated recurrent unit (Cho et al. 2014), with the two choices in which published forms differ.

        r = σ(x W_xr + h W_hr + b_r)                        reset gate
        z = σ(x W_xz + h W_hz + b_z)                        update gate
        n = tanh(x W_xn + (r * h) W_hn + b_n)               candidate, reset="before" the product
        n = tanh(x W_xn + b_n + r * (h W_hn + b_hn))        candidate, reset="after" it
        h' = (1 - z) * h + z * n                            z says how much is new
        h' = z * h + (1 - z) * n                            z says how much is kept: flipped=True

    The choices are independent. GRU() is the form of Chung et al. 2014 and of lectures 002 and 003; GRU(flipped=True)
    that of Cho et al. and lecture 004; GRU(reset="after", flipped=True) is exactly PyTorch's nn.GRU and cuDNN's, and
    ONNX's with linear_before_reset=1. b_hn exists with reset="after" only; bias=False: no b at all. activation and
    gate_activation stand for tanh and σ. Parameters are uniform in ±1/sqrt(H). State h (B, H). Probes: "r", "z", "n".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        reset: str = "before",
        flipped: bool = False,
        bias: bool = True,
        activation: Activation = tanh,
        gate_activation: Activation = sigmoid,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.reset = as_choice("reset", reset, ("before", "after"))
        self.flipped, self.bias = bool(flipped), bool(bias)
        self.activation = as_activation("activation", activation)
        self.gate_activation = as_activation("gate_activation", gate_activation)
        self.W_xr, self.W_xz, self.W_xn = (self.param((input_size, hidden_size)) for _ in range(3))
        self.W_hr, self.W_hz, self.W_hn = (self.param((hidden_size, hidden_size)) for _ in range(3))
        self.b_r, self.b_z, self.b_n = (self.param(hidden_size) if bias else None for _ in range(3))
        self.b_hn = self.param(hidden_size) if bias and reset == "after" else None

    @property
    def memory_gates(self) -> dict[str, int]:
        """b_z: z writes, or keeps if flipped."""
        return {"b_z": 1 if self.flipped else -1}

    def step(self, x: Tensor, h: Tensor, *, mask: Tensor | None = None) -> Tensor:
        gate, read = self.gate_activation, masked(h, mask)
        r = probe("r", gate(plus(x @ self.W_xr + read @ self.W_hr, self.b_r)))
        z = probe("z", gate(plus(x @ self.W_xz + read @ self.W_hz, self.b_z)))
        if self.reset == "before":
            n = plus(x @ self.W_xn + (r * read) @ self.W_hn, self.b_n)
        else:
            n = plus(x @ self.W_xn, self.b_n) + r * plus(read @ self.W_hn, self.b_hn)
        n = probe("n", self.activation(n))
        return z * h + (1 - z) * n if self.flipped else (1 - z) * h + z * n


class MGU(OptionCell):
    """The minimal gated unit, whose one gate forgets and resets (Zhou, Wu, Zhang & Zhou 2016).

        f = σ(x W_xf + h W_hf + b_f)
        n = tanh(x W_xn + (f * h) W_hn + b_n)
        h' = (1 - f) * h + f * n

    forget_bias: b_f at the start; None: drawn like the others, uniform in ±1/sqrt(H). State h (B, H). Probes: "f",
    "n".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | None = 1.0,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.forget_bias = as_bias("forget_bias", forget_bias)
        self.W_xf, self.W_xn = (self.param((input_size, hidden_size)) for _ in range(2))
        self.W_hf, self.W_hn = (self.param((hidden_size, hidden_size)) for _ in range(2))
        self.b_f, self.b_n = self.param(hidden_size, init=forget_bias), self.param(hidden_size)

    @property
    def memory_gates(self) -> dict[str, int]:
        """b_f writes, whatever its name says: f is the share of what is new."""
        return {"b_f": -1}

    def step(self, x: Tensor, h: Tensor, *, mask: Tensor | None = None) -> Tensor:
        read = masked(h, mask)
        f = probe("f", sigmoid(x @ self.W_xf + read @ self.W_hf + self.b_f))
        n = probe("n", tanh(x @ self.W_xn + (f * read) @ self.W_hn + self.b_n))
        return (1 - f) * h + f * n
