"""Checkpoints: a model, its optimiser and its random state in one file, from which a killed run goes on.

Names inside: `model/<parameter>`, `optimiser/<array>`, `extra/<array>`.

    tr.files.save("last.safetensors", model, optimiser, meta={"epoch": 3})
    checkpoint = tr.files.load("last.safetensors")
    checkpoint.restore(model, optimiser)
    checkpoint.meta["epoch"]
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn.checks import as_array, type_name
from tinyrnn.files.container import CheckpointError, pack, unpack
from tinyrnn.module import Module
from tinyrnn.optim import Optimizer

Array = npt.NDArray[Any]
Rngs = Mapping[str, np.random.Generator]

FORMAT = "tinyrnn checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """What a file held. `load` makes it; `restore` puts it into a model."""

    path: Path
    meta: dict[str, Any] = field(default_factory=dict)
    """The plain values given to `save`."""
    extra: dict[str, Array] = field(default_factory=dict)
    """The arrays given to `save` as `extra`."""
    model: dict[str, Array] = field(default_factory=dict)
    """The parameters' values, as `Module.state_dict` gives them."""
    optimiser: dict[str, Array | float] | None = None
    """The optimiser's state, or None if none was saved."""
    rngs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The states of the random generators, by name."""

    def restore(self, model: Module, optimiser: Optimizer | None = None, *, rngs: Rngs | None = None) -> None:
        """Put the saved values into `model`, its generators, `optimiser` and `rngs`.

        An optimiser's state in the file is passed over if no optimiser is given. Raises CheckpointError that names the
        file and everything that does not fit; then nothing was changed.
        """
        _check(model, optimiser, rngs=rngs)
        if optimiser is not None and self.optimiser is None:
            raise CheckpointError(f"{self.path} holds no optimiser state")
        generators = _generators(model, rngs)
        if wrong := _misfits(generators, self.rngs):
            raise CheckpointError(f"{self.path} does not fit, nothing was restored: " + "; ".join(wrong))
        before = model.state_dict()
        try:
            model.load_state_dict(self.model)
            try:
                if optimiser is not None and self.optimiser is not None:
                    optimiser.load_state_dict(self.optimiser)
            except (ValueError, TypeError):
                model.load_state_dict(before)
                raise
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{self.path} does not fit: {error}") from error
        for name, generator in generators.items():
            generator.bit_generator.state = self.rngs[name]


def save(
    path: str | os.PathLike[str],
    model: Module,
    optimiser: Optimizer | None = None,
    *,
    rngs: Rngs | None = None,
    extra: Mapping[str, Array] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint to `path`, all of it or nothing.

    The random generators inside `model` (of its dropout layers, say) are saved with it. rngs: others, by name.
    extra: more arrays, by name. meta: values that JSON can hold (NumPy scalars too); a float keeps all its bits.
    Raises TypeError for arguments of other kinds, meta that JSON cannot hold and arrays that are no numbers, OSError if
    the file cannot be written; the old file then stays.
    """
    _check(model, optimiser, rngs=rngs, extra=extra, meta=meta)
    arrays = {f"model/{name}": array for name, array in model.state_dict().items()}
    numbers: dict[str, float] = {}
    if optimiser is not None:
        for name, value in optimiser.state_dict().items():
            if isinstance(value, np.ndarray):
                arrays[f"optimiser/{name}"] = value
            else:
                numbers[name] = value
    for name, array in (extra or {}).items():
        arrays[f"extra/{name}"] = found = as_array(f"extra[{name!r}]", array)
        if found.dtype.kind in "OSUMm":
            raise TypeError(f"extra[{name!r}] must be an array of numbers, got {found.dtype}")
    states = {name: generator.bit_generator.state for name, generator in _generators(model, rngs).items()}
    content = {"meta": dict(meta or {}), "rngs": states, "optimiser": None if optimiser is None else numbers}
    pack(path, FORMAT, content, arrays)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the checkpoint at `path`.

    Raises FileNotFoundError or another OSError that names the path, and CheckpointError for a file that is cut short,
    damaged, of another kind, or of a newer version of this library.
    """
    place, content, arrays = unpack(path, FORMAT)
    try:
        meta, rngs, numbers = content["meta"], content["rngs"], content["optimiser"]
        groups: dict[str, dict[str, Any]] = {"model": {}, "optimiser": dict(numbers or {}), "extra": {}}
        for name, array in arrays.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = array
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{place} is a damaged checkpoint: {error!r} in its header") from error
    return Checkpoint(
        place,
        meta,
        groups["extra"],
        groups["model"],
        None if numbers is None else groups["optimiser"],
        rngs,
    )


def _check(model: Any, optimiser: Any, **mappings: Any) -> None:
    if not isinstance(model, Module):
        raise TypeError(f"model must be a tr.Module, got {type_name(model)}")
    if optimiser is not None and not isinstance(optimiser, Optimizer):
        raise TypeError(f"optimiser must be of tr.optim or None, got {type_name(optimiser)}")
    for name, value in mappings.items():
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a dict or None, got {type_name(value)}")
        for key in value or ():
            if not isinstance(key, str):
                raise TypeError(f"{name} must have names for keys, each a str, got {key!r}")


def _generators(model: Module, others: Rngs | None) -> dict[str, np.random.Generator]:
    """Every random generator once: those of the model by their paths, then `others` by theirs."""
    found: dict[str, np.random.Generator] = {}
    seen: set[int] = set()
    for name, generator in (*model.named_generators("model"), *(others or {}).items()):
        if not isinstance(generator, np.random.Generator):
            raise TypeError(f"rngs[{name!r}] must be a numpy.random.Generator, got {type(generator).__name__}")
        if id(generator) not in seen:
            seen.add(id(generator))
            found[name] = generator
    return found


def _misfits(generators: Rngs, states: Mapping[str, Mapping[str, Any]]) -> list[str]:
    wrong = [f"missing generator: {name}" for name in generators if name not in states]
    wrong += [f"unexpected generator: {name}" for name in states if name not in generators]
    for name in sorted(generators.keys() & states.keys()):
        trial = type(generators[name].bit_generator)()
        try:
            trial.state = states[name]
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            wrong.append(f"generator {name}: {error}")
    return wrong
