"""Checkpoints: a model, its optimiser and its random state in one safetensors file.

A file is written beside its place, fsynced and renamed, so that under the name stands either what was there before or
the whole new checkpoint, at whatever moment the process or the machine dies. Reading one never runs code: it holds
arrays and one JSON text. Names inside: `model/<parameter>`, `optimiser/<array>`, `extra/<array>`.

    tr.files.save("last.safetensors", model, optimiser, meta={"epoch": 3})
    checkpoint = tr.files.load("last.safetensors")
    checkpoint.restore(model, optimiser)
    checkpoint.meta["epoch"]
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from tinyrnn.module import Module
from tinyrnn.optim import Optimizer

Array = npt.NDArray[Any]
Rngs = Mapping[str, np.random.Generator]

FORMAT = "tinyrnn checkpoint"
VERSION = 1


class CheckpointError(ValueError):
    """A file that is not a whole checkpoint of this library, or does not fit what it is to be restored into."""


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
    Raises TypeError for meta that JSON cannot hold, OSError if the file cannot be written; the old file then stays.
    """
    arrays = {f"model/{name}": array for name, array in model.state_dict().items()}
    numbers: dict[str, float] = {}
    if optimiser is not None:
        for name, value in optimiser.state_dict().items():
            if isinstance(value, np.ndarray):
                arrays[f"optimiser/{name}"] = value
            else:
                numbers[name] = value
    arrays.update({f"extra/{name}": np.asarray(array) for name, array in (extra or {}).items()})
    states = {name: generator.bit_generator.state for name, generator in _generators(model, rngs).items()}
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "content": json.dumps(
            {"meta": dict(meta or {}), "rngs": states, "optimiser": None if optimiser is None else numbers},
            default=_plain,
        ),
    }
    whole = {name: np.array(array, order="C") for name, array in arrays.items()}  # safetensors wants C order
    write(path, safetensors.numpy.save(whole, header))


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the checkpoint at `path`.

    Raises FileNotFoundError or another OSError that names the path, and CheckpointError for a file that is cut short,
    damaged, of another kind, or of a newer version of this library.
    """
    place = Path(path)
    with place.open("rb"):  # safetensors' own errors do not name the file
        pass
    try:
        with safetensors.safe_open(place, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{place} is cut short, damaged or no safetensors file ({error})") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{place} is a safetensors file, but no checkpoint of tinyrnn")
    if header.get("version") != str(VERSION):
        raise CheckpointError(
            f"{place} is a checkpoint of version {header.get('version')}; this tinyrnn reads version {VERSION}"
        )
    try:
        content = json.loads(header["content"])
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


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file at `path` by `data`: first to a temporary file beside it, fsynced, then renamed, then the
    folder fsynced. Raises OSError; the old file then stays."""
    place = Path(path)
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _generators(model: Module, others: Rngs | None) -> dict[str, np.random.Generator]:
    """Every random generator once: those of the model by their paths, then `others` by theirs."""
    found: dict[str, np.random.Generator] = {}
    seen: set[int] = set()
    for name, generator in (*_inside(model), *(others or {}).items()):
        if not isinstance(generator, np.random.Generator):
            raise TypeError(f"rngs[{name!r}] must be a numpy.random.Generator, got {type(generator).__name__}")
        if id(generator) not in seen:
            seen.add(id(generator))
            found[name] = generator
    return found


def _inside(model: Module) -> Iterator[tuple[str, np.random.Generator]]:
    for path, module in model.named_modules("model"):
        for name, value in vars(module).items():
            if isinstance(value, np.random.Generator):
                yield f"{path}.{name}", value


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


def _plain(value: Any) -> Any:
    """What JSON writes for NumPy's scalars and arrays (an MT19937 holds its key in one)."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"meta must hold what JSON can hold, got a {type(value).__name__}")
