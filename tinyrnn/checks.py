"""Checks of arguments: each gives the value in the form that is needed, or raises an error that names the argument,
what it got and what it needs.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Abstract, Tensor

Array = npt.NDArray[Any]


def type_name(value: object) -> str:
    """What a message calls the type of a value: "list", "torch.Tensor"."""
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    return kind.__name__ if package in ("builtins", "numpy", "tinyrnn", "__main__") else f"{package}.{kind.__name__}"


def is_int(value: object) -> bool:
    """Whether `value` is a whole number; True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_ints(**values: object) -> None:
    """Raise for what is no whole number, by the names of the arguments."""
    for name, value in values.items():
        if not is_int(value):
            raise TypeError(f"{name} must be an int, got {value!r}")


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


def as_words(name: str, value: Any) -> Any:
    """`value` if it is a list of strings, or one string, whose characters are then meant."""
    if not isinstance(value, Sequence) or not all(isinstance(word, str) for word in value):
        got = type_name(value)
        if isinstance(value, Sequence):
            got += " with " + type_name(next(word for word in value if not isinstance(word, str))) + " in it"
        raise TypeError(f"{name} must be strings, got {got}")
    return value


def check_place(name: str, value: Tensor, device: str, needs: str) -> None:
    """Raise for a Tensor on another device than `needs`, which wants it; while a step is recorded there is none."""
    if value.device != device and not isinstance(value._array, Abstract):
        raise TypeError(
            f"{name} must be on {device} like the {needs}, got a tensor on {value.device}; .to({device!r}) moves it"
        )


@lru_cache(maxsize=1024)
def positional(function: Callable[..., Any]) -> tuple[int, float]:
    """How many positional arguments a function takes, at least and at most."""
    known = list(inspect.signature(function).parameters.values())
    named = [p for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least = sum(p.default is p.empty for p in named)
    return least, inf if any(p.kind is p.VAR_POSITIONAL for p in known) else len(named)


def as_rows(
    names: Sequence[str], values: Sequence[Any], widths: Sequence[int | None], dtype: np.dtype[Any], needs: str,
    device: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    """`values` as Tensors (batch, width) of as many rows, on a device; None is any width. needs: what needs them."""
    found: list[Tensor] = []
    for name, value, width in zip(names, values, widths, strict=True):
        if isinstance(value, Tensor):
            if value.dtype != dtype:
                raise TypeError(f"{name} must be {dtype} like the {needs}, got {value.dtype}")
            check_place(name, value, device, needs)
        elif not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            got = value.dtype if isinstance(value, np.ndarray) else type_name(value)
            raise TypeError(f"{name} must be a Tensor or an array of numbers, got {got}")
        else:
            value = Tensor(value, dtype=dtype, device=device)
        if value.ndim != 2 or width not in (None, value.shape[1]):
            raise ValueError(f"{name} must be (batch, {width or 'features'}) for this {needs}, got shape {value.shape}")
        if found and value.shape[0] != found[0].shape[0]:
            raise ValueError(f"{name} must have the {found[0].shape[0]} rows of {names[0]}, got {value.shape[0]}")
        found.append(value)
    return tuple(found)


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
