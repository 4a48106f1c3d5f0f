"""MUT1 to MUT3, three cells that a search over ten thousand found."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.cells.parts import OptionCell, as_choice, masked
from tinyrnn.module import probe
from tinyrnn.ops import sigmoid, tanh


class _MUT(OptionCell):
    """What the three share: h' = z * h̃ + (1 - z) * h, and x as wide as the state where it is added as it is."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        projection: bool | None = None,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.projection = as_choice("projection", projection, (None, False, True))
        if projection is False and input_size != hidden_size:
            raise ValueError(
                f"{type(self).__name__} adds x to a state's columns: without a projection input_size must be "
                f"hidden_size, {hidden_size}, got {input_size}"
            )
        wanted = input_size != hidden_size if projection is None else projection
        self.W_p = self.param((input_size, hidden_size)) if wanted else None

    @property
    def memory_gates(self) -> dict[str, int]:
        """b_z writes."""
        return {"b_z": -1}

    def wide(self, x: Tensor) -> Tensor:
        """x, or x W_p, of the width of the state."""
        return x if self.W_p is None else x @ self.W_p


class MUT1(_MUT):
    """The first of three cells that a search over ten thousand found (Jozefowicz, Zaremba & Sutskever 2015).

        z = σ(x W_xz + b_z)
        r = σ(x W_xr + h W_hr + b_r)
        h̃ = tanh((r * h) W_hh + tanh(x) + b_h)
        h' = z * h̃ + (1 - z) * h

    projection: whether x W_p stands where x is added as it is, W_p (I, H); None: if I is not H. False with another I
    raises ValueError. Parameters W_xk (I, H), W_hk (H, H), b_k (H,), uniform in ±1/sqrt(H). State h (B, H).
    Probes: "z", "r", "h̃".
    """

    def __init__(self, input_size: int, hidden_size: int, *, projection: bool | None = None, **options: Any) -> None:
        super().__init__(input_size, hidden_size, projection=projection, **options)
        self.W_xz, self.W_xr = (self.param((input_size, hidden_size)) for _ in range(2))
        self.W_hr, self.W_hh = (self.param((hidden_size, hidden_size)) for _ in range(2))
        self.b_z, self.b_r, self.b_h = (self.param(hidden_size) for _ in range(3))

    def step(self, x: Tensor, h: Tensor, *, mask: Tensor | None = None) -> Tensor:
        read = masked(h, mask)
        z = probe("z", sigmoid(x @ self.W_xz + self.b_z))
        r = probe("r", sigmoid(x @ self.W_xr + read @ self.W_hr + self.b_r))
        new = probe("h̃", tanh((r * read) @ self.W_hh + tanh(self.wide(x)) + self.b_h))
        return z * new + (1 - z) * h


class MUT2(_MUT):
    """The second of three cells that a search over ten thousand found (Jozefowicz, Zaremba & Sutskever 2015).

        z = σ(x W_xz + h W_hz + b_z)
        r = σ(x + h W_hr + b_r)
        h̃ = tanh((r * h) W_hh + x W_xh + b_h)
        h' = z * h̃ + (1 - z) * h

    projection: whether x W_p stands where x is added as it is, W_p (I, H); None: if I is not H. False with another I
    raises ValueError. Parameters W_xk (I, H), W_hk (H, H), b_k (H,), uniform in ±1/sqrt(H). State h (B, H).
    Probes: "z", "r", "h̃".
    """

    def __init__(self, input_size: int, hidden_size: int, *, projection: bool | None = None, **options: Any) -> None:
        super().__init__(input_size, hidden_size, projection=projection, **options)
        self.W_xz, self.W_xh = (self.param((input_size, hidden_size)) for _ in range(2))
        self.W_hz, self.W_hr, self.W_hh = (self.param((hidden_size, hidden_size)) for _ in range(3))
        self.b_z, self.b_r, self.b_h = (self.param(hidden_size) for _ in range(3))

    def step(self, x: Tensor, h: Tensor, *, mask: Tensor | None = None) -> Tensor:
        read = masked(h, mask)
        z = probe("z", sigmoid(x @ self.W_xz + read @ self.W_hz + self.b_z))
        r = probe("r", sigmoid(self.wide(x) + read @ self.W_hr + self.b_r))
        new = probe("h̃", tanh((r * read) @ self.W_hh + x @ self.W_xh + self.b_h))
        return z * new + (1 - z) * h


class MUT3(OptionCell):
    """The third of three cells that a search over ten thousand found (Jozefowicz, Zaremba & Sutskever 2015).

        z = σ(x W_xz + tanh(h) W_hz + b_z)
        r = σ(x W_xr + h W_hr + b_r)
        h̃ = tanh((r * h) W_hh + x W_xh + b_h)
        h' = z * h̃ + (1 - z) * h

    Parameters W_xk (I, H), W_hk (H, H), b_k (H,), uniform in ±1/sqrt(H). State h (B, H). Probes: "z", "r", "h̃".
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
        self.W_xz, self.W_xr, self.W_xh = (self.param((input_size, hidden_size)) for _ in range(3))
        self.W_hz, self.W_hr, self.W_hh = (self.param((hidden_size, hidden_size)) for _ in range(3))
        self.b_z, self.b_r, self.b_h = (self.param(hidden_size) for _ in range(3))

    @property
    def memory_gates(self) -> dict[str, int]:
        """b_z writes."""
        return {"b_z": -1}

    def step(self, x: Tensor, h: Tensor, *, mask: Tensor | None = None) -> Tensor:
        read = masked(h, mask)
        z = probe("z", sigmoid(x @ self.W_xz + masked(tanh(h), mask) @ self.W_hz + self.b_z))
        r = probe("r", sigmoid(x @ self.W_xr + read @ self.W_hr + self.b_r))
        new = probe("h̃", tanh((r * read) @ self.W_hh + x @ self.W_xh + self.b_h))
        return z * new + (1 - z) * h
