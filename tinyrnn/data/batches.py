"""Batches: sequences of different lengths, side by side, padded at their ends.

Everything is time-major: T steps, B rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinyrnn.checks import as_array, as_generator, check_ints, type_name

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
    """Sequences (L_b, ...) of one dtype side by side: (T, B, ...) filled up by `value`, and their lengths (B,).

    Raises ValueError for no sequences and other shapes behind the first axis, TypeError for other dtypes.
    """
    if not isinstance(sequences, (list, tuple, np.ndarray)) or len(sequences) == 0:
        got = "none" if isinstance(sequences, (list, tuple, np.ndarray)) else type_name(sequences)
        raise ValueError(f"sequences must be a list of one or more arrays, got {got}")
    found = [as_array(f"sequences[{b}]", sequence) for b, sequence in enumerate(sequences)]
    first = found[0]
    for b, sequence in enumerate(found):
        if sequence.dtype.kind not in "fiub":
            raise TypeError(f"sequences[{b}] must be an array of numbers, got {sequence.dtype}")
        if sequence.ndim < 1 or sequence.shape[1:] != first.shape[1:]:
            needs = ", ".join(["steps", *map(str, first.shape[1:])])
            raise ValueError(f"sequences[{b}] must be of shape ({needs}), as the first, got {sequence.shape}")
        if sequence.dtype != first.dtype:
            raise TypeError(f"sequences[{b}] must be {first.dtype}, as the first, got {sequence.dtype}")
    filling = as_array("value", value)
    if filling.ndim or filling.dtype.kind not in "fiub":
        raise TypeError(f"value must be a number, got {value!r}")
    if first.dtype.kind in "iu" and value != int(value):
        raise ValueError(f"value must be an integer for sequences of {first.dtype}, got {value}")
    lengths = np.array([len(s) for s in found], dtype=np.int64)
    padded = np.full((lengths.max(), len(found), *first.shape[1:]), value, first.dtype)
    for b, sequence in enumerate(found):
        padded[: len(sequence), b] = sequence
    return padded, lengths


def bucket(lengths: Sequence[int], size: int, rng: np.random.Generator | None = None, *, pool: int = 50) -> list[Array]:
    """Indices of up to `size` sequences a batch, those of one batch about equally long.

    With rng: sequences are mixed, sorted by length within pools of `pool` batches, cut into batches, and these mixed.
    Without: sorted by length and cut. Every index comes exactly once; no lengths give no batches. Raises ValueError or
    TypeError for a size or pool that is no int >= 1 and lengths that are not (n,) ints >= 0.
    """
    check_ints(size=size, pool=pool)
    for name, number in (("size", size), ("pool", pool)):
        if number < 1:
            raise ValueError(f"{name} must be >= 1, got {number}")
    if rng is not None:
        as_generator(rng)
    long = as_array("lengths", lengths)
    if long.ndim != 1:
        raise ValueError(f"lengths must be (n,), one a sequence, got shape {long.shape}")
    if long.dtype.kind not in "iu" and long.size:
        raise TypeError(f"lengths must be ints, got {long.dtype}")
    if (long < 0).any():
        raise ValueError(f"lengths must be ints >= 0, got {long.min()}")
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
