"""The cells as the lectures build them up, from selective writing to the LSTM and the GRU, in the lectures' letters.

`s` is the state, `s̃` (probe "g") the candidate, `φ` what a state passes on its way out, o, i, f the gates: what is
written out, read in, and not forgotten.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.cells.parts import Activation, OptionCell, as_activation, as_choice, masked
from tinyrnn.module import probe
from tinyrnn.ops import concat, sigmoid, tanh


class SelectiveWrite(OptionCell):
    """Selective write: an output gate decides which parts of the state the next step reads (lectures 000, 001).

        h = o * φ(s)                            o was computed one step earlier, and is carried as a state
        s' = σ(x W_x + h W_h + b)
        o' = σ(x W_xo + h W_ho + b_o)

    phi: φ, tr.sigmoid, tr.tanh or tr.cells.identity. Parameters W_x, W_xo (I, H), W_h, W_ho (H, H), b, b_o (H,),
    uniform in ±1/sqrt(H). States s, o (B, H); zeros for o at the start mean that nothing is read. Probes: "h", "o".
    """

    states = ("s", "o")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        phi: Activation = sigmoid,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.phi = as_activation("phi", phi)
        self.W_x, self.W_xo = (self.param((input_size, hidden_size)) for _ in range(2))
        self.W_h, self.W_ho = (self.param((hidden_size, hidden_size)) for _ in range(2))
        self.b, self.b_o = (self.param(hidden_size) for _ in range(2))

    def step(self, x: Tensor, s: Tensor, o: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = masked(probe("h", o * self.phi(s)), mask)
        new = sigmoid(x @ self.W_x + h @ self.W_h + self.b)
        return new, probe("o", sigmoid(x @ self.W_xo + h @ self.W_ho + self.b_o))


class SelectiveRead(OptionCell):
    """Selective read: the LSTM of 1997, which reads and writes selectively but never forgets (lectures 000, 001, 003).

        o = σ(x W_xo + h W_ho + b_o)
        i = σ(x W_xi + h W_hi + b_i)
        s̃ = σ(x W_x + h W_h + b)
        s' = s + i * s̃
        h' = o * φ(s')

    phi: φ, tr.sigmoid, tr.tanh or tr.cells.identity. Parameters W_xk (I, H), W_hk (H, H), b_k (H,) for o, i and the
    candidate, uniform in ±1/sqrt(H). States h, s (B, H). Probes: "o", "i", "g", "s". Hochreiter & Schmidhuber 1997.
    """

    states = ("h", "s")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        phi: Activation = sigmoid,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.phi = as_activation("phi", phi)
        self.W_xo, self.W_xi, self.W_x = (self.param((input_size, hidden_size)) for _ in range(3))
        self.W_ho, self.W_hi, self.W_h = (self.param((hidden_size, hidden_size)) for _ in range(3))
        self.b_o, self.b_i, self.b = (self.param(hidden_size) for _ in range(3))

    @property
    def memory_gates(self) -> dict[str, int]:
        """b_i writes."""
        return {"b_i": -1}

    def step(self, x: Tensor, h: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        o = probe("o", sigmoid(x @ self.W_xo + h @ self.W_ho + self.b_o))
        i = probe("i", sigmoid(x @ self.W_xi + h @ self.W_hi + self.b_i))
        g = probe("g", sigmoid(x @ self.W_x + h @ self.W_h + self.b))
        s = probe("s", s + i * g)
        return o * self.phi(s), s


class LectureLSTM(OptionCell):
    """The LSTM as the lectures arrive at it: selective write, read and forget (lectures 000, 001).

        o = σ(x W_xo + h W_ho + b_o)
        i = σ(x W_xi + h W_hi + b_i)
        f = σ(x W_xf + h W_hf + b_f)
        s̃ = σ(x W_x + h W_h + b)
        s' = f * s + i * s̃
        h' = o * φ(s')

    phi: φ, tr.sigmoid as in the notes, tr.cells.identity or tr.tanh, which the transcript leaves open.
    reads="s": gates and candidate read s in place of h, which is the output alone (lecture 001). Parameters W_xk
    (I, H), W_hk (H, H), b_k (H,) for the gates and the candidate, uniform in ±1/sqrt(H). States h, s (B, H).
    Probes: "o", "i", "f", "g", "s". Gates that are tied are an option of `tr.cells.LSTM`.
    """

    states = ("h", "s")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        phi: Activation = sigmoid,
        reads: str = "h",
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.phi = as_activation("phi", phi)
        self.reads = as_choice("reads", reads, ("h", "s"))
        self.W_xo, self.W_xi, self.W_xf, self.W_x = (self.param((input_size, hidden_size)) for _ in range(4))
        self.W_ho, self.W_hi, self.W_hf, self.W_h = (self.param((hidden_size, hidden_size)) for _ in range(4))
        self.b_o, self.b_i, self.b_f, self.b = (self.param(hidden_size) for _ in range(4))

    @property
    def memory_gates(self) -> dict[str, int]:
        """b_f keeps, b_i writes."""
        return {"b_f": 1, "b_i": -1}

    def step(self, x: Tensor, h: Tensor, s: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = masked(s if self.reads == "s" else h, mask)
        o = probe("o", sigmoid(x @ self.W_xo + h @ self.W_ho + self.b_o))
        i = probe("i", sigmoid(x @ self.W_xi + h @ self.W_hi + self.b_i))
        f = probe("f", sigmoid(x @ self.W_xf + h @ self.W_hf + self.b_f))
        g = probe("g", sigmoid(x @ self.W_x + h @ self.W_h + self.b))
        s = probe("s", f * s + i * g)
        return o * self.phi(s), s


class ConcatenatedLSTM(OptionCell):
    """The LSTM on input and output side by side, one matrix a gate and no bias (lecture 003).

        z = [x, y]
        f = σ(z W_f)
        g = σ(z W_g)                     input gate
        h = tanh(z W_h)                  candidate
        c' = f * c + g * h
        o = σ(z W_o)
        y' = o * tanh(c')

    Parameters W_f, W_g, W_h, W_o (I + H, H), uniform in ±1/sqrt(H). States y, c (B, H). Probes: "f", "g", "h", "o",
    "c". Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000. Its plan is that of `tr.cells.LSTM`.
    """

    states = ("y", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        shape = (input_size + hidden_size, hidden_size)
        self.W_f, self.W_g, self.W_h, self.W_o = (self.param(shape) for _ in range(4))

    def step(self, x: Tensor, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z = concat([x, y], axis=1)
        f, g = probe("f", sigmoid(z @ self.W_f)), probe("g", sigmoid(z @ self.W_g))
        h = probe("h", tanh(z @ self.W_h))
        c = probe("c", f * c + g * h)
        o = probe("o", sigmoid(z @ self.W_o))
        return o * tanh(c), c


class LectureGRU(OptionCell):
    """The GRU as the lectures arrive at it: one gate reads and forgets, the other writes (lectures 000, 001).

        o = σ(x W_xo + s W_ho + b_o)
        i = σ(x W_xi + s W_hi + b_i)
        s̃ = φ(x W_x + (o * s) W_h + b)
        s' = (1 - i) * s + i * s̃

    phi: φ, tr.sigmoid as written; tr.tanh is usual. Parameters W_xk (I, H), W_hk (H, H), b_k (H,) for o, i and the
    candidate, uniform in ±1/sqrt(H). State s (B, H). Probes: "o", "i", "g". Cho et al. 2014.
    """

    states = ("s",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        phi: Activation = sigmoid,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.phi = as_activation("phi", phi)
        self.W_xo, self.W_xi, self.W_x = (self.param((input_size, hidden_size)) for _ in range(3))
        self.W_ho, self.W_hi, self.W_h = (self.param((hidden_size, hidden_size)) for _ in range(3))
        self.b_o, self.b_i, self.b = (self.param(hidden_size) for _ in range(3))

    @property
    def memory_gates(self) -> dict[str, int]:
        """b_i writes."""
        return {"b_i": -1}

    def step(self, x: Tensor, s: Tensor, *, mask: Tensor | None = None) -> Tensor:
        read = masked(s, mask)
        o = probe("o", sigmoid(x @ self.W_xo + read @ self.W_ho + self.b_o))
        i = probe("i", sigmoid(x @ self.W_xi + read @ self.W_hi + self.b_i))
        g = probe("g", self.phi(x @ self.W_x + (o * read) @ self.W_h + self.b))
        return (1 - i) * s + i * g
