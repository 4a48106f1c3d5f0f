"""The copy problem: keep a few symbols over a long silence, then write them down.

A long time lag after Hochreiter & Schmidhuber 1997 in the form of Arjovsky, Shah & Bengio 2016.
"""

from __future__ import annotations

import numpy as np

from tinyrnn.checks import as_generator, check_ints
from tinyrnn.data.batches import Batch

SYMBOLS = 8
BLANK = SYMBOLS
GO = SYMBOLS + 1


def copy_batch(rng: np.random.Generator, rows: int, *, length: int, lag: int) -> Batch:
    """`rows` sequences: `length` of 8 symbols, `lag` - 1 blanks, the sign to go, `length` blanks.

    inputs and targets (lag + 2 * length, rows) int64; the targets are blank but for the symbols again at the end.
    Without memory the best loss is length * log(8) / (lag + 2 * length) a step, in nats.
    Raises ValueError unless rows, length and lag are >= 1, TypeError for what are no ints or no Generator.
    """
    as_generator(rng)
    check_ints(rows=rows, length=length, lag=lag)
    if min(rows, length, lag) < 1:
        raise ValueError(f"needs rows, length and lag >= 1, got {rows}, {length}, {lag}")
    steps = lag + 2 * length
    symbols = rng.integers(0, SYMBOLS, (length, rows))
    inputs = np.full((steps, rows), BLANK, np.int64)
    inputs[:length] = symbols
    inputs[length + lag - 1] = GO
    targets = np.full((steps, rows), BLANK, np.int64)
    targets[-length:] = symbols
    return Batch(inputs, targets)
