"""The gated recurrent unit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.module import Cell, probe
from tinyrnn.ops import sigmoid, tanh


class GRU(Cell):
    """The gated recurrent unit (Cho et al. 2014), with the two choices in which published forms differ.

        r = σ(x W_xr + h W_hr + b_r)                        reset gate
        z = σ(x W_xz + h W_hz + b_z)                        update gate
        n = tanh(x W_xn + (r * h) W_hn + b_n)               candidate, reset="before" the product
        n = tanh(x W_xn + b_n + r * (h W_hn + b_hn))        candidate, reset="after" it
        h' = (1 - z) * h + z * n                            z says how much is new
        h' = z * h + (1 - z) * n                            z says how much is kept: flipped=True

    The choices are independent. GRU() is the form of Chung et al. 2014; GRU(flipped=True) that of Cho et al.;
    GRU(reset="after", flipped=True) is exactly PyTorch's nn.GRU and cuDNN's, and ONNX's with linear_before_reset=1.
    b_hn exists with reset="after" only. Parameters are uniform in ±1/sqrt(H). State h. Probes: "r", "z", "n".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        reset: str = "before",
        flipped: bool = False,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        if reset not in ("before", "after"):
            raise ValueError(f'reset must be "before" or "after" (the recurrent product), got {reset!r}')
        self.reset, self.flipped = reset, bool(flipped)
        self.W_xr, self.W_xz, self.W_xn = (self.param((input_size, hidden_size)) for _ in range(3))
        self.W_hr, self.W_hz, self.W_hn = (self.param((hidden_size, hidden_size)) for _ in range(3))
        self.b_r, self.b_z, self.b_n = (self.param(hidden_size) for _ in range(3))
        if reset == "after":
            self.b_hn = self.param(hidden_size)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        r = probe("r", sigmoid(x @ self.W_xr + h @ self.W_hr + self.b_r))
        z = probe("z", sigmoid(x @ self.W_xz + h @ self.W_hz + self.b_z))
        if self.reset == "before":
            n = probe("n", tanh(x @ self.W_xn + (r * h) @ self.W_hn + self.b_n))
        else:
            n = probe("n", tanh(x @ self.W_xn + self.b_n + r * (h @ self.W_hn + self.b_hn)))
        return z * h + (1 - z) * n if self.flipped else (1 - z) * h + z * n

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reset={self.reset!r}, flipped={self.flipped}"
