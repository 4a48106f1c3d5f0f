"""The cell that the scan benchmark needs beside those of `tr.cells`, written as any user would write one.

Notation: x (B, I), states (B, H), `*` the Hadamard product, σ the logistic sigmoid. Parameters are `W_xk` (I, H),
`W_hk` (H, H), `b_k` (H,) for gate k.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tinyrnn as tr


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
