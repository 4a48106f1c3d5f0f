"""The LSTM and the eight variants of the search space odyssey."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.cells.parts import Gated, as_choice, identity
from tinyrnn.module import probe
from tinyrnn.ops import sigmoid, tanh

VARIANTS = ("vanilla", "NIG", "NFG", "NOG", "NIAF", "NOAF", "CIFG", "NP", "FGR")


class Odyssey(Gated):
    """The LSTM with diagonal peepholes and the eight variants of Greff, Srivastava, Koutník, Steunebrink & Schmidhuber
    2015, "LSTM: a search space odyssey", in its letters: z is the block input, y the output.

        z = tanh(x W_xz + y W_hz + b_z)
        i = σ(x W_xi + y W_hi + p_i * c + b_i)
        f = σ(x W_xf + y W_hf + p_f * c + b_f)
        c' = i * z + f * c
        o = σ(x W_xo + y W_ho + p_o * c' + b_o)
        y' = tanh(c') * o

    variant: "vanilla", or one that changes a single thing:

        "NIG"  i = 1        "NFG"  f = 1        "NOG"  o = 1        "CIFG"  f = 1 - i        (no parameters for it)
        "NIAF" z = x W_xz + y W_hz + b_z        "NOAF" y' = c' * o        "NP"  without p_i, p_f, p_o
        "FGR"  every gate k also sees the gates of the step before: + i W_ik + f W_fk + o W_ok, nine full matrices

    Parameters W_xk (I, H), W_hk and W_ik, W_fk, W_ok (H, H), p_k and b_k (H,), uniform in ±1/sqrt(H). States y, c
    (B, H), for "FGR" y, c, i, f, o. Probes: "z", "i", "f", "o", "c".
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        variant: str = "vanilla",
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.variant = as_choice("variant", variant, VARIANTS)
        missing = {"NIG": "i", "NFG": "f", "NOG": "o", "CIFG": "f"}.get(variant, "")
        gates = [k for k in "ifo" if k != missing]
        self.add_gates(dict.fromkeys(["z", *gates], hidden_size))
        if variant != "NP":
            for k in gates:
                setattr(self, f"p_{k}", self.param(hidden_size))
        if variant == "FGR":
            for name in ("W_ii", "W_if", "W_io", "W_fi", "W_ff", "W_fo", "W_oi", "W_of", "W_oo"):
                setattr(self, name, self.param((hidden_size, hidden_size)))

    @property
    def states(self) -> tuple[str, ...]:  # type: ignore[override]  # of the variant
        return ("y", "c", "i", "f", "o") if self.variant == "FGR" else ("y", "c")

    @property
    def memory_gates(self) -> dict[str, int]:
        """b_f keeps, b_i writes; one of them may be missing."""
        gates = {"b_f": 1, "b_i": -1}
        return {name: sign for name, sign in gates.items() if name in vars(self)}

    def step(self, x: Tensor, y: Tensor, c: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        v = self.variant
        z = self.gate("z", identity if v == "NIAF" else tanh, x, y)
        i = None if v == "NIG" else self._gate("i", x, y, c, before)
        f = None if v in ("NFG", "CIFG") else self._gate("f", x, y, c, before)
        if v == "CIFG" and i is not None:
            f = probe("f", 1 - i)
        c = probe("c", (z if i is None else i * z) + (c if f is None else f * c))
        o = None if v == "NOG" else self._gate("o", x, y, c, before)
        shown = c if v == "NOAF" else tanh(c)
        y = shown if o is None else shown * o
        if v == "FGR" and i is not None and f is not None and o is not None:
            return y, c, i, f, o
        return y, c

    def _gate(self, k: str, x: Tensor, y: Tensor, c: Tensor, before: tuple[Tensor, ...]) -> Tensor:
        """σ(x W_xk + y W_hk + p_k * c + b_k), and for "FGR" what the gates before show it."""
        peephole = None if self.variant == "NP" else getattr(self, f"p_{k}") * c
        gates = (gate @ getattr(self, f"W_{name}{k}") for name, gate in zip("ifo", before, strict=False))
        return self.gate(k, sigmoid, x, y, peephole, *gates)
