"""The models of the tasks, on top of the patterns of `tinyrnn.nn`: two acceptors and a transducer.

Notation: T steps, B rows, I features a step, E the width of an embedding, H that of a state, V ids, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn import nn, ops
from tinyrnn._core.tape import Tensor
from tinyrnn.cells import by_name
from tinyrnn.module import Cell

Array = npt.NDArray[Any]
State = tuple[Tensor, ...]


def cell_maker(name: str, hidden: int, rng: np.random.Generator, memory: int = 0) -> Callable[[int], Cell]:
    """input_size -> a cell of `tr.cells`, by its name. memory: about how many steps a new cell with gates keeps its
    state for; 0: its own default.

    A gate that starts at σ(log(memory)) forgets 1/memory a step (Tallec & Ollivier 2018, without their spread). A gate
    that only writes stays as it is where another one keeps.
    """
    kind = by_name(name)

    def make(width: int) -> Cell:
        cell = kind(width, hidden, rng=rng)
        gates: dict[str, int] = getattr(cell, "memory_gates", {}) if memory else {}
        for gate, sign in gates.items():
            if sign > 0 or 1 not in gates.values():
                bias = getattr(cell, gate)
                bias.data = np.full(bias.shape, sign * np.log(memory))
        return cell

    return make


class Words(nn.Embedding):
    """An embedding of words that starts normal(0, 0.1): from normal(0, 1) a few thousand sentences do not move it far
    enough.

    In training, each id is replaced by `unknown` with probability `word_dropout`, and `dropout` acts on the features.
    """

    def __init__(
        self, num: int, dim: int, *, dropout: float, word_dropout: float, unknown: int, rng: np.random.Generator
    ) -> None:
        super().__init__(num, dim, rng=rng)
        self.W.data = 0.1 * self.W.data
        self.dropout, self.word_dropout, self.unknown, self.rng = dropout, word_dropout, unknown, rng

    def forward(self, ids: npt.ArrayLike) -> Tensor:
        ids = np.asarray(ids)
        if self.training and self.word_dropout:
            ids = np.where(self.rng.random(ids.shape) < self.word_dropout, self.unknown, ids)
        return ops.dropout(super().forward(ids), self.dropout, self.rng, training=self.training)


class Classifier(nn.Acceptor):
    """Ids (T, B), lengths (B,) -> one logit a row (B,): words, a cell in one or both directions, the largest value
    over time of each unit, a linear readout. `dropout` acts on the embedded words and before the readout.
    """

    def __init__(
        self,
        num: int,
        *,
        embed: int,
        hidden: int,
        cell: str = "lstm",
        bidirectional: bool = True,
        dropout: float = 0.5,
        word_dropout: float = 0.0,
        unknown: int = 1,
        rng: np.random.Generator,
    ) -> None:
        words = Words(num, embed, dropout=dropout, word_dropout=word_dropout, unknown=unknown, rng=rng)
        rnn = nn.RNN(cell_maker(cell, hidden, rng), input_size=embed, bidirectional=bidirectional)
        super().__init__(rnn, 1, embedding=words, pool="max", dropout=dropout)

    def forward(self, xs: npt.ArrayLike | Tensor, lengths: npt.ArrayLike | None = None) -> Tensor:
        return super().forward(xs, lengths).reshape(-1)


class Regressor(nn.Acceptor):
    """Numbers (T, B, I), lengths (B,) -> one number a row (B,), read from the last state."""

    def __init__(
        self, width: int, *, hidden: int, cell: str = "lstm", memory: int = 0, rng: np.random.Generator
    ) -> None:
        super().__init__(nn.RNN(cell_maker(cell, hidden, rng, memory), input_size=width), 1)

    def forward(self, xs: npt.ArrayLike | Tensor, lengths: npt.ArrayLike | None = None) -> Tensor:
        return super().forward(xs, lengths).reshape(-1)


class Transducer(nn.Transducer):
    """Ids (T, B) -> logits (T, B, C) and the last state, from which a next call goes on: one layer's states."""

    def __init__(
        self,
        num: int,
        classes: int,
        *,
        embed: int,
        hidden: int,
        cell: str = "lstm",
        memory: int = 0,
        dropout: float = 0.0,
        rng: np.random.Generator,
    ) -> None:
        embedding = nn.Embedding(num, embed, rng=rng)
        rnn = nn.RNN(cell_maker(cell, hidden, rng, memory), input_size=embed)
        super().__init__(rnn, classes, embedding=embedding, dropout=dropout)
