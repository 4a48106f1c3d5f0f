"""Long short-term memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.cells.parts import Activation, Gated, as_activation, as_bias, as_choice
from tinyrnn.checks import as_size
from tinyrnn.module import probe
from tinyrnn.ops import broadcast_to, reshape, sigmoid, sum, tanh


class LSTM(Gated):
    """Long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000).

        i = σ(x W_xi + h W_hi + b_i)        input gate: what is written
        f = σ(x W_xf + h W_hf + b_f)        forget gate: what is kept
        o = σ(x W_xo + h W_ho + b_o)        output gate: what is shown
        g = tanh(x W_xg + h W_hg + b_g)     candidate
        c' = f * c + i * g
        h' = o * tanh(c')

    Options, in any combination, and what they change in these equations:

        peephole="diagonal"   i, f also see p_i * c, p_f * c;  o sees p_o * c'   (Gers & Schmidhuber 2000; ONNX's P)
        peephole="full"       k also sees c W_ck, for every gate and the candidate, o too     (lecture 002)
        coupled="input"       i = 1 - f, no parameters for i     (lecture 001)
        coupled="output"      o = 1 - i, no parameters for o     (lecture 001)
        projection=P          h' = (o * tanh(c')) W_p, of width P; W_p (H, P)    (Sak, Senior & Beaufays 2014)
        cells_per_block=n     i, f, o are (B, H/n), each for a block of n adjacent cells      (lecture 003)
        bias=False            without b_i, b_f, b_o, b_g

    A block's diagonal peepholes are summed over its cells. gate_activation, activation and output_activation stand
    for the σ of the gates, the tanh of the candidate and that of c'. forget_bias: b_f at the start, 1 so that a new
    cell remembers (Jozefowicz, Zaremba & Sutskever 2015); None: drawn like the others, uniform in ±1/sqrt(H). LSTM()
    is PyTorch's nn.LSTM, with `projection` its proj_size. States h (B, P or H), c (B, H). Probes: "i", "f", "o", "g",
    "c".
    """

    states = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | None = 1.0,
        bias: bool = True,
        peephole: str | None = None,
        coupled: str | None = None,
        projection: int | None = None,
        cells_per_block: int = 1,
        activation: Activation = tanh,
        output_activation: Activation = tanh,
        gate_activation: Activation = sigmoid,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, dtype=dtype, rng=rng)
        self.forget_bias, self.bias = as_bias("forget_bias", forget_bias), bool(bias)
        self.peephole = as_choice("peephole", peephole, (None, "diagonal", "full"))
        self.coupled = as_choice("coupled", coupled, (None, "input", "output"))
        self.projection = None if projection is None else as_size("projection", projection)
        self.cells_per_block = as_size("cells_per_block", cells_per_block)
        if hidden_size % cells_per_block:
            raise ValueError(f"cells_per_block must divide hidden_size, {hidden_size}, got {cells_per_block}")
        self.activation = as_activation("activation", activation)
        self.output_activation = as_activation("output_activation", output_activation)
        self.gate_activation = as_activation("gate_activation", gate_activation)

        gates = {"input": "fog", "output": "ifg"}.get(coupled or "", "ifog")
        widths = {k: hidden_size if k == "g" else hidden_size // cells_per_block for k in gates}
        self.add_gates(widths, read=projection, bias=bias, starts={"f": forget_bias})
        if peephole == "diagonal":
            for k in gates.replace("g", ""):
                setattr(self, f"p_{k}", self.param(hidden_size))
        elif peephole == "full":
            for k, n in widths.items():
                setattr(self, f"W_c{k}", self.param((hidden_size, n)))
        if projection is not None:
            self.W_p = self.param((hidden_size, projection))

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """(P or H, H)."""
        return (self.projection or self.hidden_size, self.hidden_size)

    @property
    def memory_gates(self) -> dict[str, int]:
        """b_f keeps, b_i writes."""
        return {"b_f": 1} if self.coupled == "input" else {"b_f": 1, "b_i": -1}

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        σ, gate, see, spread = self.gate_activation, self.gate, self._seen, self._spread
        if self.coupled == "input":
            f = gate("f", σ, x, h, see("f", c))
            i = probe("i", 1 - f)
        else:
            i = gate("i", σ, x, h, see("i", c))
            f = gate("f", σ, x, h, see("f", c))
        if self.coupled == "output":
            o = probe("o", 1 - i)
        elif self.peephole != "diagonal":
            o = gate("o", σ, x, h, see("o", c))
        g = gate("g", self.activation, x, h, see("g", c))
        c = probe("c", spread(f) * c + spread(i) * g)
        if self.coupled != "output" and self.peephole == "diagonal":
            o = gate("o", σ, x, h, see("o", c))  # the new c
        h = spread(o) * self.output_activation(c)
        return h if self.projection is None else h @ self.W_p, c

    def _seen(self, k: str, c: Tensor) -> Tensor | None:
        """What peepholes show gate k of c."""
        if self.peephole is None or (self.peephole == "diagonal" and k == "g"):
            return None
        if self.peephole == "full":
            return c @ getattr(self, f"W_c{k}")
        seen: Tensor = getattr(self, f"p_{k}") * c
        return seen if self.cells_per_block == 1 else sum(reshape(seen, (-1, *self._blocks)), axis=2)

    def _spread(self, gate: Tensor) -> Tensor:
        """A gate of blocks (B, H/n) for every cell (B, H)."""
        if self.cells_per_block == 1:
            return gate
        rows, (blocks, n) = gate.shape[0], self._blocks
        return reshape(broadcast_to(reshape(gate, (rows, blocks, 1)), (rows, blocks, n)), (rows, blocks * n))

    @property
    def _blocks(self) -> tuple[int, int]:
        return self.hidden_size // self.cells_per_block, self.cells_per_block
