"""Initial values: functions (rng, shape, dtype) -> array, as `Cell.param(shape, init=...)` takes them.

Options are keywords; bind them with functools.partial: `partial(tr.init.uniform, low=-0.1, high=0.1)`.
rng: numpy.random.Generator. shape: tuple of int. dtype: float32 or float64. Values are drawn in float64 and
rounded, so that a seed gives the same numbers in both dtypes.

`apply` gives the parameters of a made cell, or of any module, new values by their names; `chrono` those of its gates:

    cell = tr.cells.LSTM(8, 16, rng=0)
    tr.init.apply(cell, {"W_x*": tr.init.glorot, "W_h*": tr.init.orthogonal, "b_*": 0.0, "b_f": 1.0})
    tr.init.chrono(cell, 100)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import float_dtype
from tinyrnn.checks import as_array, as_generator, as_number, as_rng, is_int, put_back, type_name

if TYPE_CHECKING:
    from tinyrnn.module import Module

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def zeros(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """All zeros."""
    return np.zeros(_shape(shape), float_dtype(dtype))


def constant(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, value: float = 1.0) -> Array:
    """All `value`."""
    return np.full(_shape(shape), as_number("value", value), float_dtype(dtype))


def uniform(
    rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, low: float = -0.1, high: float = 0.1
) -> Array:
    """Uniform in [low, high)."""
    low, high, dtype = as_number("low", low), as_number("high", high), float_dtype(dtype)
    if not low <= high:
        raise ValueError(f"low must be <= high, got low={low}, high={high}")
    return as_generator(rng).uniform(low, high, _shape(shape)).astype(dtype)


def normal(
    rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, mean: float = 0.0, std: float = 1.0
) -> Array:
    """Normal with the given mean and standard deviation."""
    mean, dtype = as_number("mean", mean), float_dtype(dtype)
    if as_number("std", std) < 0:
        raise ValueError(f"std must be >= 0, got {std}")
    return as_generator(rng).normal(mean, std, _shape(shape)).astype(dtype)


def glorot(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, gain: float = 1.0) -> Array:
    """Uniform in ±gain·sqrt(6 / (rows + columns)), for a matrix (Glorot & Bengio 2010, eq. 16)."""
    rows, columns = _matrix("glorot", shape)
    dtype, bound = float_dtype(dtype), as_number("gain", gain) * (6 / max(rows + columns, 1)) ** 0.5
    return as_generator(rng).uniform(-bound, bound, (rows, columns)).astype(dtype)


def orthogonal(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, gain: float = 1.0) -> Array:
    """`gain` times a matrix with orthonormal rows or columns, whichever are fewer (Saxe et al. 2014).

    Uniform over all such matrices: the signs of the QR decomposition's diagonal are divided out.
    """
    rows, columns = _matrix("orthogonal", shape)
    gain, dtype = as_number("gain", gain), float_dtype(dtype)
    q, r = np.linalg.qr(as_generator(rng).normal(size=(max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray(gain * (q if rows >= columns else q.T), dtype=dtype)


def identity(rng: np.random.Generator, shape: Shape, dtype: npt.DTypeLike, *, gain: float = 1.0) -> Array:
    """`gain` times the identity, cut or padded with zeros to the shape of the matrix (Le, Jaitly & Hinton 2015)."""
    rows, columns = _matrix("identity", shape)
    return (as_number("gain", gain) * np.eye(rows, columns)).astype(float_dtype(dtype))


def apply(
    module: Module,
    rules: Mapping[str, Callable[..., npt.ArrayLike] | npt.ArrayLike],
    *,
    rng: np.random.Generator | int | None = None,
) -> None:
    """Give the parameters of a cell, or of any module, new initial values by their names.

    rules: name -> a function (rng, shape, dtype) -> array as above, a number, or an array of the parameter's shape. A
    name may hold "*" for any characters. One without a dot is a parameter's own name, in whatever module it lies:
    "W_h*" stands for every recurrent matrix of every layer; one with dots is the whole path: "cells.0.*.b_f". Where
    several rules fit, the last counts; what none fits stays as it is. rng: a Generator or a seed for what is drawn;
    None: the module's own generator if it has one.

    Raises TypeError or ValueError for what is no module, no rule or no seed, for a rule that fits no parameter or gives
    another shape; then nothing was changed, neither a parameter nor a generator.
    """
    own = _parameters(module, "module")
    if not isinstance(rules, Mapping) or not all(isinstance(pattern, str) for pattern in rules):
        raise TypeError(f"rules must be a dict of rules by names, got {rules!r}")
    chosen: dict[str, Any] = {}
    for pattern, rule in rules.items():
        fits = [n for n in own if fnmatchcase(n if "." in pattern else n.rpartition(".")[2], pattern)]
        if not fits:
            raise ValueError(f"the {type(module).__name__} has no parameter {pattern!r}: it has {_listed(own)}")
        chosen.update(dict.fromkeys(fits, rule))
    generator = _generator(module, rng)
    values = {}
    with put_back(generator):
        for name, p in own.items():
            if name not in chosen:
                continue
            rule = chosen[name]
            value = as_array(f"the rule for {name}", rule(generator, p.shape, p.dtype) if callable(rule) else rule)
            if value.dtype.kind not in "fiub":
                raise TypeError(f"the rule for {name} must give numbers, got {value.dtype.name}")
            if value.shape not in ((), p.shape):
                raise ValueError(f"the rule for {name} must give shape {p.shape}, got {value.shape}")
            values[name] = np.broadcast_to(value, p.shape)
    for name, value in values.items():
        own[name].data = value


def chrono(
    cell: Module,
    longest: int,
    *,
    gates: Mapping[str, int] | None = None,
    rng: np.random.Generator | int | None = None,
) -> None:
    """Start the gates of a cell so that its units keep their state for 1 to `longest` steps (Tallec & Ollivier 2018).

        b_f = log(u), u uniform in [1, longest - 1); b_i = -b_f          of an LSTM; b_z = -log(u) of a GRU

    A gate at σ(log(u)) forgets about 1/u a step. longest: steps of the longest dependency that is expected, at least 2.
    gates: the bias of each gate by its name -> 1 if the gate keeps the state, -1 if it writes over it; all share u.
    None: what the cell says itself, `cell.memory_gates`, as the gated cells of `tr.cells` do. rng: a Generator or a
    seed; None: the cell's own generator.

    Raises ValueError where the cell has no such bias or says nothing of its gates; then nothing was changed.
    """
    if isinstance(longest, bool) or not isinstance(longest, (int, np.integer)):
        raise TypeError(f"longest must be a number of steps, an int, got {longest!r}")
    if longest < 2:
        raise ValueError(f"longest must be at least 2 steps, got {longest}")
    own, name = _parameters(cell, "cell"), type(cell).__name__
    if gates is not None and not isinstance(gates, Mapping):
        raise TypeError(f"gates must be a dict of 1 and -1 by the names of biases, got {gates!r}")
    told = getattr(cell, "memory_gates", None) if gates is None else gates
    if not told:
        raise ValueError(
            f"the {name} does not say which gates keep its state: name their biases, as in "
            'gates={"b_f": 1, "b_i": -1}'
        )
    missing = [b for b in told if b not in own]
    if missing:
        raise ValueError(f"the {name} has no parameter {missing[0]!r}: it has {_listed(own)}")
    if any(sign not in (1, -1) for sign in told.values()):
        raise ValueError(f"gates must be 1 for a gate that keeps and -1 for one that writes, got {dict(told)}")
    shapes = {own[b].shape for b in told}
    if len(shapes) > 1:
        raise ValueError(f"the biases in gates must be of one shape, got {', '.join(map(str, sorted(shapes)))}")
    memory = np.log(_generator(cell, rng).uniform(1.0, longest - 1.0, shapes.pop()))
    for b, sign in told.items():
        own[b].data = sign * memory


def _generator(module: Module, rng: np.random.Generator | int | None) -> np.random.Generator:
    own = getattr(module, "rng", None) if rng is None else rng
    return as_rng(own)


def _parameters(module: Any, name: str) -> dict[str, Any]:
    if not callable(getattr(module, "named_parameters", None)) or isinstance(module, type):
        raise TypeError(f"{name} must be a tr.Module, got {module if isinstance(module, type) else type_name(module)}")
    return dict(module.named_parameters())


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"


def _shape(shape: Shape) -> Shape:
    """`shape` as a tuple of int >= 0."""
    if not isinstance(shape, (tuple, list)) or not all(is_int(n) and n >= 0 for n in shape):
        raise ValueError(f"shape must be a tuple of ints >= 0, got {shape!r}")
    return tuple(map(int, shape))


def _matrix(name: str, shape: Shape) -> tuple[int, int]:
    if len(_shape(shape)) != 2:
        raise ValueError(f"{name} needs the shape of a matrix, got {shape}")
    return shape[0], shape[1]
