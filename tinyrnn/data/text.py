"""Text for a character language model, as parallel streams cut into segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinyrnn.checks import as_array, as_path, check_ints
from tinyrnn.data.batches import Batch


def read_text(path: Path | None = None) -> str:
    """The text of a UTF-8 file, or by default Python's own help topics (the standard library's pydoc_data.topics).

    Raises OSError, or ValueError for a file that is not UTF-8 or holds no text; both name the file.
    """
    if path is None:
        from pydoc_data import topics

        return "\n".join(text for _, text in sorted(topics.topics.items()))
    path = as_path("path", path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text (byte {error.start})") from None
    if not text.strip():
        raise ValueError(f"{path} holds no text")
    return text


def stream_batches(ids: npt.NDArray[np.int64], rows: int, steps: int) -> list[Batch]:
    """Cut `ids` into `rows` streams of equal length and these into segments of `steps`, for truncated BPTT.

    Row b of every batch carries on row b of the one before. inputs (T, rows), targets the same one character on;
    the last segment may be shorter, and up to `rows` ids at the end are left over.
    Raises ValueError if there are not two ids for each row, TypeError for ids that are no (n,) integers.
    """
    check_ints(rows=rows, steps=steps)
    ids = as_array("ids", ids)
    if ids.ndim != 1:
        raise ValueError(f"ids must be (n,), one a character, got shape {ids.shape}")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids must be integers, got {ids.dtype}")
    if rows < 1 or steps < 1:
        raise ValueError(f"needs rows >= 1 and steps >= 1, got rows={rows}, steps={steps}")
    long = (len(ids) - 1) // rows
    if long < 1:
        raise ValueError(f"{rows} streams need a text of {2 * rows} characters or more, got {len(ids)}")
    inputs = ids[: rows * long].reshape(rows, long).T
    targets = ids[1 : rows * long + 1].reshape(rows, long).T
    return [Batch(inputs[k : k + steps], targets[k : k + steps], goes_on=k > 0) for k in range(0, long, steps)]
