"""The simple recurrent network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.module import Cell, probe
from tinyrnn.ops import tanh


class Elman(Cell):
    """The vanilla recurrent network (Elman 1990).

        h' = g(x W_x + h W_h + b)

    activation: g, an op of one argument such as tr.tanh, tr.sigmoid or tr.relu. Parameters W_x (I, H), W_h (H, H),
    b (H,), uniform in ±1/sqrt(H). Probe: "h".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        activation: Callable[[Tensor], Tensor] = tanh,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        if not callable(activation):
            raise TypeError(f"activation must be an op like tr.tanh, got {activation!r}")
        self.activation = activation
        self.W_x = self.param((input_size, hidden_size))
        self.W_h = self.param((hidden_size, hidden_size))
        self.b = self.param(hidden_size)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        return probe("h", self.activation(x @ self.W_x + h @ self.W_h + self.b))
