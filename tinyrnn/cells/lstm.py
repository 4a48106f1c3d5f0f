"""Long short-term memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.module import Cell, probe
from tinyrnn.ops import sigmoid, tanh


class LSTM(Cell):
    """Long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000).

        i = σ(x W_xi + h W_hi + b_i)        input gate: what is written
        f = σ(x W_xf + h W_hf + b_f)        forget gate: what is kept
        o = σ(x W_xo + h W_ho + b_o)        output gate: what is shown
        g = tanh(x W_xg + h W_hg + b_g)     candidate
        c' = f * c + i * g
        h' = o * tanh(c')

    forget_bias: b_f at the start, 1 so that a new cell remembers (Jozefowicz, Zaremba & Sutskever 2015); None: drawn
    like the others, uniform in ±1/sqrt(H). States h, c. Probes: "i", "f", "o", "g", "c".
    """

    states = ("h", "c")

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
        self.W_xi, self.W_xf, self.W_xo, self.W_xg = (self.param((input_size, hidden_size)) for _ in range(4))
        self.W_hi, self.W_hf, self.W_ho, self.W_hg = (self.param((hidden_size, hidden_size)) for _ in range(4))
        biases = (None, forget_bias, None, None)
        self.b_i, self.b_f, self.b_o, self.b_g = (self.param(hidden_size, init=value) for value in biases)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i = probe("i", sigmoid(x @ self.W_xi + h @ self.W_hi + self.b_i))
        f = probe("f", sigmoid(x @ self.W_xf + h @ self.W_hf + self.b_f))
        o = probe("o", sigmoid(x @ self.W_xo + h @ self.W_ho + self.b_o))
        g = probe("g", tanh(x @ self.W_xg + h @ self.W_hg + self.b_g))
        c = probe("c", f * c + i * g)
        return o * tanh(c), c
