"""Models of three usage patterns: acceptors, which label a sequence, and a transducer, which labels its steps.

Notation: T steps, B rows, I features a step, E the width of an embedding, H that of a state, V ids, C classes.
Every pass over time is the call of `sequence` in `_run`, whichever way over time that names.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn import nn, ops
from tinyrnn._core.tape import Tensor
from tinyrnn.cells import GRU, LSTM, Elman
from tinyrnn.loop import scan as sequence
from tinyrnn.module import Cell, Module

Array = npt.NDArray[Any]
State = tuple[Tensor, ...]

CELLS: dict[str, type[Cell]] = {"lstm": LSTM, "gru": GRU, "elman": Elman}


def _run(
    cell: Cell, xs: Tensor | Array, state: State | None = None, lengths: Array | None = None, reverse: bool = False
) -> tuple[Tensor, State]:
    return sequence(cell, xs, state, lengths=lengths, reverse=reverse)


def _cell(name: str, width: int, hidden: int, rng: np.random.Generator, memory: int = 0) -> Cell:
    """A cell by its name. memory: about how many steps a new LSTM or GRU keeps its state for; 0: its own default.

    A gate that starts at σ(log(memory)) forgets 1/memory a step (Tallec & Ollivier 2018, without their spread).
    """
    cell = CELLS[name](width, hidden, rng=rng)
    if memory:
        for gate, sign in (("b_f", 1), ("b_z", -1)):
            bias = getattr(cell, gate, None)
            if bias is not None:
                bias.data = np.full(hidden, sign * np.log(memory))
    return cell


class Classifier(Module):
    """Ids (T, B), lengths (B,) -> one logit a row (B,): embedding, a cell in one or both directions, the largest value
    over time of each unit, a linear readout.

    In training, each id is replaced by `unknown` with probability `word_dropout`, and `dropout` acts on the embedded
    words and before the readout. The embedding starts normal(0, 0.1): from normal(0, 1) a few thousand
    sentences do not move it far enough.
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
        super().__init__()
        self.rng, self.word_dropout, self.unknown = rng, word_dropout, unknown
        self.embedding = nn.Embedding(num, embed, rng=rng)
        self.embedding.W.data = 0.1 * self.embedding.W.data
        self.dropout = nn.Dropout(dropout, rng=rng)
        self.forwards = _cell(cell, embed, hidden, rng)
        self.backwards = _cell(cell, embed, hidden, rng) if bidirectional else None
        self.readout = nn.Linear(hidden * (1 + bidirectional), 1, rng=rng)

    def forward(self, ids: Array, lengths: Array) -> Tensor:
        if self.training and self.word_dropout:
            ids = np.where(self.rng.random(ids.shape) < self.word_dropout, self.unknown, ids)
        xs = self.dropout(self.embedding(ids))
        inside = (np.arange(len(ids))[:, None] < lengths)[..., None]
        peaks = []
        for cell, reverse in ((self.forwards, False), (self.backwards, True)):
            if cell is not None:
                ys, _ = _run(cell, xs, lengths=lengths, reverse=reverse)
                peaks.append(ops.where(inside, ys, -1e9).max(axis=0))
        return self.readout(self.dropout(ops.concat(peaks, axis=1))).reshape(-1)


class Regressor(Module):
    """Numbers (T, B, I), lengths (B,) -> one number a row (B,), read from the last state."""

    def __init__(
        self, width: int, *, hidden: int, cell: str = "lstm", memory: int = 0, rng: np.random.Generator
    ) -> None:
        super().__init__()
        self.cell = _cell(cell, width, hidden, rng, memory)
        self.readout = nn.Linear(hidden, 1, rng=rng)

    def forward(self, xs: Array, lengths: Array | None = None) -> Tensor:
        _, state = _run(self.cell, xs, lengths=lengths)
        return self.readout(state[0]).reshape(-1)


class Transducer(Module):
    """Ids (T, B) -> logits (T, B, C) and the last state, from which a next call goes on."""

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
        super().__init__()
        self.embedding = nn.Embedding(num, embed, rng=rng)
        self.cell = _cell(cell, embed, hidden, rng, memory)
        self.dropout = nn.Dropout(dropout, rng=rng)
        self.readout = nn.Linear(hidden, classes, rng=rng)

    def forward(self, ids: Array, state: State | None = None) -> tuple[Tensor, State]:
        ys, state = _run(self.cell, self.embedding(ids), state)
        return self.readout(self.dropout(ys)), state
