"""Cells: pure step functions written with ops. Each has its equations and their source in its docstring.

Notation: a step sees B rows; x is (B, I), a state (B, H); `*` is the Hadamard product, σ the logistic sigmoid. `W_xk`
(I, H) carries the input into gate k, `W_hk` (H, H) the previous hidden state, `b_k` (H,) is the bias.

    tr.cells.LSTM(8, 16, peephole="diagonal", rng=0)       # a cell
    tr.cells.by_name("lstm", peephole="diagonal")(8, 16)   # the same by its name, from a configuration, say
    tr.cells.Zoneout(tr.cells.GRU(8, 16), 0.1)             # a cell around any cell, also one of your own

A cell of your own needs no place in this list: whatever takes a cell takes any subclass of `tr.Cell`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from tinyrnn.cells.elman import IRNN, Additive, Elman, IndRNN
from tinyrnn.cells.gru import GRU, MGU
from tinyrnn.cells.lectures import ConcatenatedLSTM, LectureGRU, LectureLSTM, SelectiveRead, SelectiveWrite
from tinyrnn.cells.lstm import LSTM
from tinyrnn.cells.mut import MUT1, MUT2, MUT3
from tinyrnn.cells.normed import LayerNormGRU, LayerNormLSTM
from tinyrnn.cells.odyssey import Odyssey
from tinyrnn.cells.parts import identity
from tinyrnn.cells.wrappers import LearnedState, RecurrentDropout, Wrapper, Zoneout
from tinyrnn.module import Cell

__all__ = [
    "GRU", "IRNN", "LSTM", "MGU", "MUT1", "MUT2", "MUT3", "Additive", "ConcatenatedLSTM", "Elman", "IndRNN",
    "LayerNormGRU", "LayerNormLSTM", "LearnedState", "LectureGRU", "LectureLSTM", "Odyssey", "RecurrentDropout",
    "SelectiveRead", "SelectiveWrite", "Wrapper", "Zoneout", "by_name", "identity", "names",
]  # fmt: skip


def names() -> list[str]:
    """The names of the cells that are made of an input_size and a hidden_size: all but the wrappers."""
    return sorted(_classes(), key=str.lower)


def by_name(name: str, **options: Any) -> Callable[..., Cell]:
    """The cell class of that name, or with options a factory of such cells: (input_size, hidden_size, ...) -> Cell.

    name: as in `names()`; capitals, "-" and "_" do not count: "lstm", "layer-norm-lstm". Raises ValueError that lists
    the names if there is no such cell, and TypeError that lists the options if it does not take one of them.
    """
    found = {_plain(known): kind for known, kind in _classes().items()}
    if not isinstance(name, str) or _plain(name) not in found:
        raise ValueError(f"there is no cell {name!r}; there are {', '.join(names())}")
    kind = found[_plain(name)]
    known = [k for k in inspect.signature(kind).parameters if k not in ("input_size", "hidden_size")]
    for option in options:
        if option not in known:
            raise TypeError(f"{kind.__name__} takes no option {option!r}; it takes {', '.join(known)}")
    return partial(kind, **options) if options else kind


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def _classes() -> dict[str, type[Cell]]:
    """Every cell class that stands in this module, by the name it has here."""
    return {
        name: value
        for name, value in globals().items()
        if isinstance(value, type) and issubclass(value, Cell) and value is not Cell and not issubclass(value, Wrapper)
    }
