"""Cells with layer normalisation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.cells.parts import OptionCell, as_bias, masked
from tinyrnn.module import probe
from tinyrnn.ops import layer_norm, sigmoid, split, tanh


class LayerNormLSTM(OptionCell):
    """LSTM with layer normalisation (Ba, Kiros & Hinton 2016, supplement): LN over all four gates together.

        [i, f, o, g] = LN(x W_x) * a_x + LN(h W_h) * a_h + b        W_x (I, 4H), W_h (H, 4H), a_x a_h b (4H,)
        c' = σ(i) * tanh(g) + σ(f) * c
        h' = σ(o) * tanh(LN(c') * a_c + b_c)                         a_c b_c (H,)

    LN(v) = (v - mean(v)) / sqrt(variance(v) + 1e-5) along a row. The paper's two biases of the sum are one, b. Gains
    start at 1; W and b uniform in ±1/sqrt(H), f's part of b at forget_bias unless that is None; b_c at 0.
    States h, c (B, H). Probes: "i", "f", "o", "g", "c".
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
        self.forget_bias = as_bias("forget_bias", forget_bias)
        self.W_x = self.param((input_size, 4 * hidden_size))
        self.W_h = self.param((hidden_size, 4 * hidden_size))
        self.a_x, self.a_h = (self.param(4 * hidden_size, init=1.0) for _ in range(2))
        self.b = self.param(4 * hidden_size)
        if forget_bias is not None:
            self.b.data[hidden_size : 2 * hidden_size] = forget_bias
        self.a_c, self.b_c = self.param(hidden_size, init=1.0), self.param(hidden_size, init=0.0)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z = layer_norm(x @ self.W_x, self.a_x) + layer_norm(h @ self.W_h, self.a_h) + self.b
        i, f, o, g = split(z, 4, axis=1)
        i, f, o = probe("i", sigmoid(i)), probe("f", sigmoid(f)), probe("o", sigmoid(o))
        g = probe("g", tanh(g))
        c = probe("c", f * c + i * g)
        return o * tanh(layer_norm(c, self.a_c, self.b_c)), c


class LayerNormGRU(OptionCell):
    """GRU with layer normalisation (Ba, Kiros & Hinton 2016, supplement): LN over both gates together.

        [r, z] = σ(LN(x W_x) * a_x + LN(h W_h) * a_h + b)            W_x (I, 2H), W_h (H, 2H), a_x a_h b (2H,)
        n = tanh(LN(x W_xn) * a_xn + b_n + r * (LN(h W_hn) * a_hn + b_hn))
        h' = (1 - z) * h + z * n

    LN(v) = (v - mean(v)) / sqrt(variance(v) + 1e-5) along a row. The paper's two biases of the gates are one, b.
    W_xn (I, H), W_hn (H, H); a_xn, a_hn, b_n, b_hn (H,). Gains start at 1, all else uniform in ±1/sqrt(H).
    State h (B, H). Probes: "r", "z", "n".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.W_x, self.W_xn = (self.param((input_size, n * hidden_size)) for n in (2, 1))
        self.W_h, self.W_hn = (self.param((hidden_size, n * hidden_size)) for n in (2, 1))
        self.a_x, self.a_h = (self.param(2 * hidden_size, init=1.0) for _ in range(2))
        self.a_xn, self.a_hn = (self.param(hidden_size, init=1.0) for _ in range(2))
        self.b = self.param(2 * hidden_size)
        self.b_n, self.b_hn = (self.param(hidden_size) for _ in range(2))

    def step(self, x: Tensor, h: Tensor, *, mask: Tensor | None = None) -> Tensor:
        read = masked(h, mask)
        gates = sigmoid(layer_norm(x @ self.W_x, self.a_x) + layer_norm(read @ self.W_h, self.a_h) + self.b)
        r, z = split(gates, 2, axis=1)
        r, z = probe("r", r), probe("z", z)
        fresh = layer_norm(x @ self.W_xn, self.a_xn, self.b_n)
        n = probe("n", tanh(fresh + r * layer_norm(read @ self.W_hn, self.a_hn, self.b_hn)))
        return (1 - z) * h + z * n
