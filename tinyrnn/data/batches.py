"""Batches: sequences of different lengths, side by side, padded at their ends.

Everything is time-major: T steps, B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Batch(NamedTuple):
    """What a training step sees."""

    inputs: Array
    """(T, B) ids, or (T, B, I) numbers."""
    targets: Array
    """(B,), one a sequence, or (T, B), one a step."""
    lengths: Array | None = None
    """(B,) ints, how many steps of each row count; None: all."""
    goes_on: bool = False
    """Whether row b carries on the text of row b of the batch before, so that the state is kept."""

    @property
    def tokens(self) -> int:
        """The steps that count, over all rows."""
        return int(self.inputs.shape[0] * self.inputs.shape[1] if self.lengths is None else self.lengths.sum())


def pad(sequences: Sequence[Array], value: float = 0) -> tuple[Array, Array]:
    """Sequences (L_b, ...) of one dtype side by side: (T, B, ...) filled up by `value`, and their lengths (B,)."""
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    first = np.asarray(sequences[0])
    padded = np.full((lengths.max(), len(sequences), *first.shape[1:]), value, first.dtype)
    for b, sequence in enumerate(sequences):
        padded[: len(sequence), b] = sequence
    return padded, lengths


def bucket(lengths: Sequence[int], size: int, rng: np.random.Generator | None = None, *, pool: int = 50) -> list[Array]:
    """Indices of up to `size` sequences a batch, those of one batch about equally long.

    With rng: sequences are mixed, sorted by length within pools of `pool` batches, cut into batches, and these mixed.
    Without: sorted by length and cut. Every index comes exactly once. Raises ValueError if size < 1.
    """
    if size < 1:
        raise ValueError(f"size must be >= 1, got {size}")
    long = np.asarray(lengths)
    if rng is None:
        order = np.argsort(long, kind="stable")
        return [order[k : k + size] for k in range(0, len(order), size)]
    mixed = rng.permutation(len(long))
    batches = []
    for start in range(0, len(mixed), size * pool):
        part = mixed[start : start + size * pool]
        part = part[np.argsort(long[part], kind="stable")]
        batches += [part[k : k + size] for k in range(0, len(part), size)]
    return [batches[k] for k in rng.permutation(len(batches))]
