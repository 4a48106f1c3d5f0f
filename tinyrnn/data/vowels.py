"""Japanese Vowels: 640 recordings of two vowels by nine speakers (Kudo, Toyama & Shimbo 1999), from the package `aeon`.

A recording is 7 to 29 steps of 12 LPC cepstrum coefficients; 270 recordings, 30 a speaker, are given to train on and
370 to test on. aeon brings them as `.ts` files, which are read where pip put them: aeon itself needs pandas and numba
and is never imported, so that `pip install --no-deps aeon` is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tinyrnn.checks import as_path
from tinyrnn.data.installed import installed_file

Array = npt.NDArray[Any]

CHANNELS = 12
SPEAKERS = 9


class Recording(NamedTuple):
    """values: (L, channels) float32, one row a step. label: which of the file's labels, counted from 0."""

    values: Array
    label: int


def read_vowels(part: Literal["train", "test"]) -> list[Recording]:
    """The recordings of one part, in the order of the file; labels 0 to 8 are the speakers.

    Raises data.MissingExtraError if aeon is not installed, ValueError for another part or a damaged file.
    """
    if part not in ("train", "test"):
        raise ValueError(f'part must be "train" or "test", got {part!r}')
    return read_ts(
        installed_file(
            "aeon",
            f"datasets/data/JapaneseVowels/JapaneseVowels_{part.upper()}.ts",
            needed="Japanese Vowels come with the package aeon, none of whose dependencies is needed: "
            "pip install --no-deps aeon",
        )
    )


def read_ts(path: Path) -> list[Recording]:
    """The labelled series of a `.ts` file, the text format of timeseriesclassification.com.

    Lines of `@name value` up to `@data`, then one a series: its channels with a colon between them and the label as the
    last field, each channel numbers with commas between. Lengths may differ from series to series, not from channel to
    channel. Raises OSError, or ValueError that names the file and line.
    """
    path = as_path("path", path)
    labels: list[str] = []
    found: list[Recording] = []
    begun = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        try:
            if not line or line.startswith("#"):
                continue
            if begun:
                found.append(_recording(line, labels))
            elif line.lower().startswith("@classlabel"):
                labels = line.split()[2:]
            begun = begun or line.lower() == "@data"
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not found:
        raise ValueError(f"{path} holds no series: no line comes behind @data")
    widths = {recording.values.shape[1] for recording in found}
    if len(widths) > 1:
        raise ValueError(f"{path}: every series must have as many channels, got {sorted(widths)}")
    return found


def _recording(line: str, labels: Sequence[str]) -> Recording:
    *channels, label = line.split(":")
    if label.strip() not in labels:
        raise ValueError(f"the label must be one of {', '.join(labels) or 'none'}, got {label.strip()[:20]!r}")
    columns = [[float(value) for value in channel.split(",")] for channel in channels]
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"all channels must be as long, got {[len(column) for column in columns]}")
    values = np.array(columns, np.float32).T.copy()
    if not np.isfinite(values).all():
        raise ValueError("every value must be a finite number")
    return Recording(values, labels.index(label.strip()))
