"""Checks of arguments: each gives the value in the form that is needed, or raises an error that names the argument, what
it got and what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def type_name(value: object) -> str:
    """What a message calls the type of a value: "list", "torch.Tensor"."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    return kind.__name__ if package in ("builtins", "numpy", "tinyrnn", "__main__") else f"{package}.{kind.__name__}"


def is_int(value: object) -> bool:
    """Whether `value` is a whole number; True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def as_size(name: str, value: int) -> int:
    """`value` as an int >= 1."""
    if not is_int(value):
        raise TypeError(f"{name} must be a positive int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be a positive int, got {value}")
    return int(value)


def as_count(name: str, value: int) -> int:
    """`value` as an int >= 0."""
    if not is_int(value):
        raise TypeError(f"{name} must be an int >= 0, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be an int >= 0, got {value}")
    return int(value)


def as_number(name: str, value: float) -> float:
    """`value` as a finite float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not np.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    return float(value)


def as_rate(name: str, value: float) -> float:
    """`value` as a probability in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number in [0, 1), got {value!r}")
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {value}")
    return float(value)


def as_rng(rng: np.random.Generator | int | None) -> np.random.Generator:
    """`rng` itself, or a Generator seeded by an int >= 0, or one seeded by the system for None."""
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None or (isinstance(rng, (int, np.integer)) and not isinstance(rng, bool) and rng >= 0):
        return np.random.default_rng(rng)
    raise TypeError(f"rng must be a numpy.random.Generator, a seed >= 0 or None, got {rng!r}")


def as_generator(rng: np.random.Generator) -> np.random.Generator:
    """`rng` if it is a Generator: for functions that draw anew at every call, which a seed would repeat."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {rng!r}")
    return rng


def as_array(name: str, value: Any) -> Array:
    """`value` as an array; a nest of lists has to be rectangular."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a rectangular array, got a ragged {type_name(value)}: {error}") from None


def as_path(name: str, value: str | os.PathLike[str]) -> Path:
    """`value` as a Path."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a str or a path, got {type_name(value)}")
    return Path(value)


@contextmanager
def put_back(*generators: np.random.Generator | None) -> Iterator[None]:
    """Where the block fails, its random generators are as they were before."""
    before = [(g, g.bit_generator.state) for g in generators if g is not None]
    try:
        yield
    except BaseException:
        for generator, state in before:
            generator.bit_generator.state = state
        raise
