"""Cells that the scan benchmark needs beside those of `tr.cells`, written as any user would write one.

Notation: x (B, I), states (B, H), `*` the Hadamard product, σ the logistic sigmoid. Parameters are `W_xk` (I, H),
`W_hk` (H, H), `b_k` (H,) for gate k.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tinyrnn as tr


class PeepholeLSTM(tr.Cell):
    """LSTM whose gates see the cell state through diagonals (Gers & Schmidhuber 2000).

        i = σ(x W_xi + h W_hi + p_i * c + b_i)
        f = σ(x W_xf + h W_hf + p_f * c + b_f)
        c' = f * c + i * tanh(x W_xg + h W_hg + b_g)
        o = σ(x W_xo + h W_ho + p_o * c' + b_o)
        h' = o * tanh(c')

    States h, c.
    """

    states = ("h", "c")

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.W_xi, self.W_xf, self.W_xo, self.W_xg = (self.param((input_size, hidden_size)) for _ in range(4))
        self.W_hi, self.W_hf, self.W_ho, self.W_hg = (self.param((hidden_size, hidden_size)) for _ in range(4))
        self.p_i, self.p_f, self.p_o = (self.param(hidden_size) for _ in range(3))
        self.b_i, self.b_f, self.b_o, self.b_g = (self.param(hidden_size) for _ in range(4))

    def step(self, x: tr.Tensor, h: tr.Tensor, c: tr.Tensor) -> tuple[tr.Tensor, tr.Tensor]:
        i = tr.sigmoid(x @ self.W_xi + h @ self.W_hi + self.p_i * c + self.b_i)
        f = tr.sigmoid(x @ self.W_xf + h @ self.W_hf + self.p_f * c + self.b_f)
        c = f * c + i * tr.tanh(x @ self.W_xg + h @ self.W_hg + self.b_g)
        o = tr.sigmoid(x @ self.W_xo + h @ self.W_ho + self.p_o * c + self.b_o)
        return o * tr.tanh(c), c


class LayerNormLSTM(tr.Cell):
    """LSTM with layer normalisation (Ba, Kiros & Hinton 2016, supplement): LN over all four gates together.

        i, f, o, g = split(LN(x W_x) * a_x + LN(h W_h) * a_h + b)        W_x (I, 4H), W_h (H, 4H), a_x a_h b (4H,)
        c' = σ(f) * c + σ(i) * tanh(g)
        h' = σ(o) * tanh(LN(c') * a_c + b_c)

    States h, c.
    """

    states = ("h", "c")

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.W_x = self.param((input_size, 4 * hidden_size))
        self.W_h = self.param((hidden_size, 4 * hidden_size))
        self.a_x, self.a_h = (self.param(4 * hidden_size, init=1.0) for _ in range(2))
        self.b = self.param(4 * hidden_size)
        self.a_c, self.b_c = self.param(hidden_size, init=1.0), self.param(hidden_size)

    def step(self, x: tr.Tensor, h: tr.Tensor, c: tr.Tensor) -> tuple[tr.Tensor, tr.Tensor]:
        z = tr.layer_norm(x @ self.W_x, self.a_x) + tr.layer_norm(h @ self.W_h, self.a_h) + self.b
        i, f, o, g = tr.split(z, 4, axis=-1)
        c = tr.sigmoid(f) * c + tr.sigmoid(i) * tr.tanh(g)
        return tr.sigmoid(o) * tr.tanh(tr.layer_norm(c, self.a_c, self.b_c)), c


class MUT1(tr.Cell):
    """The first of three cells that a search over thousands found (Jozefowicz, Zaremba & Sutskever 2015); I = H.

        z = σ(x W_xz + b_z)
        r = σ(x W_xr + h W_hr + b_r)
        h' = z * tanh((r * h) W_hh + tanh(x) + b_h) + (1 - z) * h

    State h.
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        if input_size != hidden_size:
            raise ValueError(f"MUT1 adds x to the state: input_size must be {hidden_size}, got {input_size}")
        self.W_xz, self.W_xr = (self.param((input_size, hidden_size)) for _ in range(2))
        self.W_hr, self.W_hh = (self.param((hidden_size, hidden_size)) for _ in range(2))
        self.b_z, self.b_r, self.b_h = (self.param(hidden_size) for _ in range(3))

    def step(self, x: tr.Tensor, h: tr.Tensor) -> tr.Tensor:
        z = tr.sigmoid(x @ self.W_xz + self.b_z)
        r = tr.sigmoid(x @ self.W_xr + h @ self.W_hr + self.b_r)
        new = tr.tanh((r * h) @ self.W_hh + tr.tanh(x) + self.b_h)
        return z * new + (1 - z) * h


class Random18(tr.Cell):
    """A cell of 18 ops as a search might draw it, with two products of which one needs the other's result.

        u = x W_xu + h W_hu + b_u
        a = σ(u)
        v = tanh((a * c) W_cv + u)
        c' = c + a * (v - c)
        s = softplus(x W_xs)
        h' = a * tanh(max(c', v) * s)

    salt: adds (v - c) * salt to c', so that cells of different salt are different programs.
    """

    states = ("h", "c")

    def __init__(self, input_size: int, hidden_size: int, *, salt: float | None = None, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.W_xu, self.W_xs = (self.param((input_size, hidden_size)) for _ in range(2))
        self.W_hu, self.W_cv = (self.param((hidden_size, hidden_size)) for _ in range(2))
        self.b_u = self.param(hidden_size)
        self.salt = salt

    def step(self, x: tr.Tensor, h: tr.Tensor, c: tr.Tensor) -> tuple[tr.Tensor, tr.Tensor]:
        u = x @ self.W_xu + h @ self.W_hu + self.b_u
        a = tr.sigmoid(u)
        v = tr.tanh((a * c) @ self.W_cv + u)
        new = c + a * (v - c)
        if self.salt is not None:
            new = new + (v - c) * self.salt
        s = tr.softplus(x @ self.W_xs)
        return a * tr.tanh(tr.maximum(new, v) * s), new


def salted(input_size: int, hidden_size: int, rng: np.random.Generator) -> Random18:
    """A Random18 that no plan was ever made for."""
    return Random18(input_size, hidden_size, salt=float(rng.uniform(0.01, 0.1)), rng=rng)
