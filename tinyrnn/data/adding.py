"""The adding problem of Hochreiter & Schmidhuber 1997, section 5.4."""

from __future__ import annotations

import numpy as np

from tinyrnn.checks import as_generator, check_ints
from tinyrnn.data.batches import Batch, pad

TOLERANCE = 0.04
"""A sequence counts as solved if the answer is off by less than this."""


def adding_batch(rng: np.random.Generator, rows: int, steps: int) -> Batch:
    """`rows` sequences of steps .. steps + steps/10 pairs (value, marker), and the sums of the two marked values.

    Values are uniform in [-1, 1]. One of the first ten pairs is marked by 1, then one of the first steps/2 - 1 still
    unmarked ones; the first and the last pair have marker -1, the others 0. A marked first pair counts as 0.
    inputs (T, rows, 2) float32; targets (rows,) float32: 0.5 + (X1 + X2) / 4, from 0 to 1.
    Raises ValueError for steps < 10 or rows < 1, TypeError for what are no ints or no Generator.
    """
    as_generator(rng)
    check_ints(rows=rows, steps=steps)
    if steps < 10 or rows < 1:
        raise ValueError(f"needs steps >= 10 and rows >= 1, got steps={steps}, rows={rows}")
    sequences, targets = [], np.empty(rows, np.float32)
    for b in range(rows):
        length = int(rng.integers(steps, steps + steps // 10 + 1))
        pairs = np.zeros((length, 2), np.float32)
        pairs[:, 0] = rng.uniform(-1, 1, length)
        first = int(rng.integers(0, min(10, length - 1)))
        second = int(rng.integers(0, steps // 2 - 1))
        second += second >= first
        pairs[[0, -1], 1] = -1
        pairs[[first, second], 1] = 1
        values = [0.0 if k == 0 else float(pairs[k, 0]) for k in (first, second)]
        sequences.append(pairs)
        targets[b] = 0.5 + sum(values) / 4
    inputs, lengths = pad(sequences)
    return Batch(inputs, targets, lengths)
