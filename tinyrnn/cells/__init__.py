"""Cells: pure step functions written with ops. Each has its equations and their source in its docstring.

Notation: a step sees B rows; x is (B, I), a state (B, H); `*` is the Hadamard product, σ the logistic sigmoid. `W_xk`
(I, H) carries the input into gate k, `W_hk` (H, H) the previous hidden state, `b_k` (H,) is the bias.
"""

from tinyrnn.cells.elman import Elman
from tinyrnn.cells.gru import GRU
from tinyrnn.cells.lstm import LSTM

__all__ = ["GRU", "LSTM", "Elman"]
