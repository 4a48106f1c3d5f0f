"""Finite differences: whether the tape's gradients are the derivatives of what was computed.

The numeric side is central differences in float64, (f(x + h) - f(x - h)) / 2h. Its truncation error is h² f‴ / 6 and
its rounding error ε |f| / h, which the step h = ε^(1/3) max(1, |x|) balances; about ten digits remain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn.autograd import Tensor, enable_grad, grad, tensor
from tinyrnn.backend import move, to_host
from tinyrnn.module import Module

__all__ = ["Comparison", "GradcheckError", "GradcheckReport", "gradcheck"]

Array = npt.NDArray[np.float64]
Named = list[tuple[str, Tensor]]

EPSILON = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
LARGEST_JACOBIAN = 50_000_000  # elements


@dataclass(frozen=True)
class Comparison:
    """One input's gradient against finite differences. The largest errors, and the values where it misses by most."""

    name: str
    shape: tuple[int, ...]
    order: int
    """1: the gradient of fn; 2: the gradient of its gradient."""
    max_abs_error: float
    max_rel_error: float
    """Relative to the larger of the two values, or to atol / rtol where both are below it."""
    miss: float
    """The worst error in units of what is tolerated; above 1 is wrong."""
    index: tuple[int, ...] | None
    """The worst element of the input; None if it has none, or if only a projection was compared."""
    output: str
    """The element of fn's result whose derivative it is, or "projection"."""
    analytic: float
    numeric: float
    note: str = ""
    """What is known of the reason, where something is wrong."""

    @property
    def ok(self) -> bool:
        return self.miss <= 1.0

    def __str__(self) -> str:
        kind = "gradient" if self.order == 1 else "second derivative"
        where = f"{self.name}{list(self.index)}" if self.index else self.name
        return f"{kind} of {self.output} by {where}: analytic {self.analytic:.8g}, numeric {self.numeric:.8g}"


@dataclass(frozen=True)
class GradcheckReport:
    """What `gradcheck` found: one row an input and order. True if all is well; prints as a table."""

    rows: tuple[Comparison, ...] = ()
    problem: str = ""
    """Why nothing could be compared, if so."""
    eps: float = 0.0
    atol: float = 0.0
    rtol: float = 0.0
    directions: int | None = None

    @property
    def ok(self) -> bool:
        """Whether every gradient agrees with the finite differences."""
        return not self.problem and all(row.ok for row in self.rows)

    @property
    def worst(self) -> Comparison | None:
        """The row furthest from agreement; None if there is no row."""
        return max(self.rows, key=lambda row: row.miss, default=None)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if self.problem:
            return f"gradcheck failed: {self.problem}"
        how = "the full Jacobian" if self.directions is None else f"{self.directions} random projections an input"
        lines = [f"gradcheck {'passed' if self.ok else 'failed'}: {how} by central differences of step {self.eps:.1e}"]
        if not self.ok:
            lines.append(f"worst: {self.worst}")
        table = [("input", "shape", "order", "abs error", "rel error", "worst element", "analytic", "numeric", "")]
        table += [
            (
                row.name, str(row.shape), str(row.order), f"{row.max_abs_error:.1e}", f"{row.max_rel_error:.1e}",
                "-" if row.index is None else str(list(row.index)), f"{row.analytic:.8g}", f"{row.numeric:.8g}",
                "ok" if row.ok else "WRONG",
            )
            for row in self.rows
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += ["  ".join(f"{cell:<{w}}" for cell, w in zip(cells, widths, strict=True)).rstrip() for cells in table]
        lines += [f"{row.name}: {row.note}" for row in self.rows if row.note]
        return "\n".join(lines)


class GradcheckError(RuntimeError):
    """A gradient differs from the differences, or could not be compared; `.report` says where and by how much."""

    def __init__(self, report: GradcheckReport) -> None:
        super().__init__(report)
        self.report = report

    def __str__(self) -> str:
        return str(self.report)


def gradcheck(
    fn: Callable[..., Any] | Module,
    inputs: Any,
    *,
    eps: float | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    order: int = 1,
    directions: int | None = None,
    raise_exception: bool = True,
) -> GradcheckReport:
    """Compare the gradients of fn(*inputs) with central differences in float64.

    fn: returns a Tensor, or a tuple (nested if need be) of them. The parameters of a Module are checked too, by name.
    inputs: one input or a tuple of them. Tensors are float64; leaves among them are moved in place and put back
        exactly, so that fn may also reach them by closure. Float arrays of any precision become float64 Tensors.
        Integer and boolean arrays are handed to fn as they are and not differentiated.
    eps: the step, relative to max(1, |x|); 6e-6, which is ε^(1/3), by default.
    atol, rtol: what is right: |analytic - numeric| <= atol + rtol * |numeric|. By default 1e-6 for rtol, and for atol
        1e-8 and what rounding fn's results can make of the differences.
    order: 2 checks the gradient and then the gradient of the gradient, projected on a random fixed vector.
    directions: None compares every element of the Jacobian, at two calls of fn an element of the inputs and one
        backward pass an element of the outputs. k compares k random projections an input: two calls and one pass each.
    raise_exception: raise GradcheckError, which carries the report, where something is wrong.

    fn is first called twice, to see that it is deterministic. No `.grad` is touched, and an input that fn does not
    depend on has gradient 0. Raises TypeError and ValueError for arguments that can not be checked, float32 among them.
    """
    _check_settings(fn, eps, atol, rtol, order, directions)
    step = EPSILON ** (1 / 3) if eps is None else float(eps)
    args, leaves = _leaves(fn, inputs)
    wanted = [t.requires_grad for _, t in leaves]
    settings = _Settings(step, atol, 1e-6 if rtol is None else float(rtol), directions)

    under_test = _Map(lambda: list(_flatten("output", fn(*args))), leaves, 1)
    with enable_grad():
        try:
            for _, t in leaves:
                t.requires_grad = True
            report = _compare(under_test, settings)
            if order == 2 and not report.problem:
                second = _compare(under_test.derivative(), settings)
                report = replace(report, rows=report.rows + second.rows, problem=second.problem)
        finally:
            for (_, t), before in zip(leaves, wanted, strict=True):
                t.requires_grad = before
    if raise_exception and not report.ok:
        raise GradcheckError(report)
    return report


# -- arguments ---------------------------------------------------------------------------------------------------------


@dataclass
class _Settings:
    eps: float
    atol: float | None
    rtol: float
    directions: int | None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


def _check_settings(
    fn: object, eps: float | None, atol: float | None, rtol: float | None, order: int, directions: int | None
) -> None:
    if not callable(fn):
        raise TypeError(f"fn must be a function or a Module, got {type(fn).__name__}")
    for name, value in (("eps", eps), ("atol", atol), ("rtol", rtol)):
        if value is None:
            continue
        needs = f"{name} must be a {'positive' if name == 'eps' else 'non-negative'} number"
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(f"{needs}, got {value!r}")
        if not (isfinite(value) and value >= 0 and (value > 0 or name != "eps")):
            raise ValueError(f"{needs}, got {value}")
    if isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if directions is not None:
        if isinstance(directions, bool) or not isinstance(directions, int | np.integer):
            raise TypeError(f"directions must be a positive int or None, got {directions!r}")
        if directions < 1:
            raise ValueError(f"directions must be a positive int or None, got {directions}")


def _leaves(fn: object, inputs: Any) -> tuple[list[Any], Named]:
    """fn's arguments, and what is to be differentiated: the float arguments and a module's parameters, by name."""
    args: list[Any] = []
    leaves: Named = []
    for i, given in enumerate(inputs if isinstance(inputs, tuple | list) else [inputs]):
        label = f"inputs[{i}]"
        if isinstance(given, Tensor):
            value = given if given.is_leaf else given.detach()
            value = value if getattr(value.data.flags, "writeable", True) else tensor(value)  # CuPy's are
            label = given.name or label
        elif isinstance(given, np.ndarray | np.generic | float | int):
            if np.asarray(given).dtype.kind in "iub":
                args.append(given)
                continue
            if np.asarray(given).dtype.kind != "f":
                raise TypeError(f"{label} must be a Tensor or an array of real numbers, got {np.asarray(given).dtype}")
            value = tensor(np.asarray(given), dtype=np.float64)
        else:
            raise TypeError(f"{label} must be a Tensor or an array of numbers, got {type(given).__name__}")
        args.append(value)
        leaves.append((label, value))
    if isinstance(fn, Module):
        leaves += [(name, p) for name, p in fn.named_parameters() if p.requires_grad]
    if not leaves:
        raise ValueError("gradcheck needs an input of real numbers or a module with parameters; there is neither")
    for name, t in leaves:
        if t.dtype != np.float64:
            how = 'make the module with dtype="float64"' if isinstance(fn, Module) else 'use .astype("float64")'
            raise TypeError(f"gradcheck needs float64, whose differences keep ten digits; {name} is {t.dtype}: {how}")
    return args, leaves


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors that fn returned, each with its place in the tuple."""
    if isinstance(value, Tensor):
        if value.dtype != np.float64:
            raise TypeError(
                f"fn's {name} is {value.dtype}, but gradcheck needs float64 all the way; something inside is float32"
            )
        yield name, value
    elif isinstance(value, tuple | list):
        for k, item in enumerate(value):
            yield from _flatten(f"{name}[{k}]", item)
    else:
        raise TypeError(f"fn must return a Tensor or a tuple of Tensors; its {name} is {type(value).__name__}")


# -- the function under test -------------------------------------------------------------------------------------------


@dataclass
class _Map:
    """A function from the elements of `leaves` to those of the tensors that `call` returns."""

    call: Callable[[], Named]
    leaves: Named
    order: int

    def values_at(self, t: Tensor, place: Array) -> Array:
        """All results, in one array, where t has the values `place`; t is put back."""
        home = t._array.copy()
        try:
            t._array[...] = move(place, t.device)
            t._bump()
            return _joint(self.call())
        finally:
            t._array[...] = home
            t._bump()

    def gradient(self, seeds: Sequence[Array]) -> Named:
        """The recorded gradient of sum(seed * result) by each leaf."""
        found = _pull([y for _, y in self.call()], [t for _, t in self.leaves], seeds, create_graph=True)
        return [
            (f"d/d {name}", tensor(np.zeros(t.shape)) if g is None else g)
            for (name, t), g in zip(self.leaves, found, strict=True)
        ]

    def derivative(self) -> _Map:
        """Its gradient under random but fixed seeds, as a map of the same leaves."""
        seeds = [_direction(np.random.default_rng(1), y.shape) for _, y in self.call()]
        return _Map(lambda: self.gradient(seeds), self.leaves, self.order + 1)


def _joint(results: Named) -> Array:
    return np.concatenate([np.zeros(0), *(np.ravel(to_host(y._array)) for _, y in results)])


def _pull(
    ys: Sequence[Tensor], tensors: Sequence[Tensor], seeds: Sequence[Array], create_graph: bool = False
) -> list[Tensor | None]:
    """The gradient of sum(seed * y) by each tensor; None where the tape has no path."""
    reached = [(y, seed) for y, seed in zip(ys, seeds, strict=True) if y.requires_grad]
    if not reached:
        return [None] * len(tensors)
    outputs, grads = zip(*reached, strict=True)
    return list(grad(outputs, tensors, grads, create_graph, retain_graph=True, allow_unused=True))


def _direction(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """A random direction with no small component, behind which a wrong element could hide."""
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape)


def _difference(first: Named, second: Named) -> str:
    """How two calls on the same inputs differ, as a sentence; empty if they do not."""
    lead = "fn is not deterministic: of two calls on the same inputs,"
    hint = "; if it draws random numbers (dropout), call .eval() or make the generator inside fn"
    if [(name, y.shape) for name, y in first] != [(name, y.shape) for name, y in second]:
        return f"{lead} the results had different shapes{hint}"
    a, b = _joint(first), _joint(second)
    for i in np.flatnonzero((a != b) & ~(np.isnan(a) & np.isnan(b)))[:1]:
        return f"{lead} {_place(first, int(i))} was {a[i]:.8g}, then {b[i]:.8g}{hint}"
    return ""


def _place(results: Named, element: int) -> str:
    """The name of one element among all results."""
    for name, y in results:
        if element < y.size:
            return f"{name}{[int(i) for i in np.unravel_index(element, y.shape)]}" if y.shape else name
        element -= y.size
    raise IndexError(element)


# -- the comparison ----------------------------------------------------------------------------------------------------
#
# J is the Jacobian of all outputs by one input. A backward pass gives a row w J, a difference along v a column J v.
# Compared is W J V: W and V are identities for the full Jacobian, else a few random rows and columns.


@dataclass
class _Check:
    """One input's comparison: what stays the same for all directions."""

    f: _Map
    t: Tensor
    here: Array  # fn's results
    weights: Array | None  # W; None for the identity
    pulled: Array  # W J
    settings: _Settings
    atol: float

    def along(self, direction: Array, shrink: float = 1.0) -> tuple[Array, Array, Array, Array]:
        """W J v four times: by the tape, by central differences, and by differences on either side.

        direction: flat. The step is that of the largest element that moves, over `shrink`.
        """
        x = to_host(self.t._array)
        moves = np.flatnonzero(direction)
        h = self.settings.eps / shrink * max(1.0, float(np.abs(x.ravel()[moves]).max(initial=0.0)))
        above, below = x + h * direction.reshape(x.shape), x - h * direction.reshape(x.shape)
        moved = (above - below).ravel()[moves] / (2 * h)  # v as rounded
        if len(moves) == 1:  # by the element itself
            h, moved = h * float(moved[0]), np.ones(1)
        with np.errstate(invalid="ignore", over="ignore"):
            up, down = self.f.values_at(self.t, above) - self.here, self.here - self.f.values_at(self.t, below)
            if self.weights is not None:
                up, down = self.weights @ up, self.weights @ down
            return self.pulled[:, moves] @ moved, (up + down) / (2 * h), down / h, up / h

    def judge(self, analytic: Array, numeric: Array) -> tuple[Array, Array, Array]:
        """Absolute and relative errors, and the error in units of what is tolerated."""
        with np.errstate(invalid="ignore"):
            error = np.abs(analytic - numeric)
            size = np.maximum(np.abs(analytic), np.abs(numeric))
            floor = self.atol / self.settings.rtol if self.settings.rtol else 0.0
            relative = error / np.maximum(np.maximum(size, floor), TINY)
            miss = error / np.maximum(self.atol + self.settings.rtol * np.abs(numeric), TINY)
        finite = np.isfinite(error)
        return np.where(finite, error, inf), np.where(finite, relative, inf), np.where(finite, miss, inf)

    def misses(self, direction: Array) -> float:
        return float(self.judge(*self.along(direction)[:2])[2].max())

    def culprit(self, direction: Array) -> Array:
        """The element behind a wrong projection, found by halving; the direction itself if no element is wrong."""
        block = np.arange(direction.size)
        while len(block) > 1:
            block = max(np.array_split(block, 2), key=lambda half: self.misses(_only(direction, half)))
        unit = np.abs(np.sign(_only(direction, block)))
        return unit if self.misses(unit) > 1.0 else direction

    def explain(self, direction: Array, row: int) -> str:
        """What finer differences at the worst place say of the reason."""
        found = self.along(direction)
        analytic, numeric, left, right = (float(values[row]) for values in found)
        if not np.isfinite(found[1]).all():
            return "fn is not finite here, or not within a step of here"
        if not isfinite(analytic):
            return "the analytic gradient is not finite, though fn is"
        finer = float(self.along(direction, shrink=4.0)[1][row])
        noise = self.atol + 1e-3 * max(abs(left), abs(right), abs(finer))
        if abs(finer - numeric) > noise:
            return (
                f"the numeric slope depends on the step, {numeric:.6g}, but {finer:.6g} at a quarter of it: fn has a "
                "kink or a jump within a step of here; check it elsewhere"
            )
        if abs(right - left) > noise:
            return f"fn has a kink here, of slopes {left:.6g} and {right:.6g} on its two sides; check it elsewhere"
        if not self.pulled.any():
            return "no gradient arrives: it is cut off on the way (.data, .numpy(), no_grad), or a vjp is None"
        return ""


def _only(direction: Array, block: npt.NDArray[np.intp]) -> Array:
    part = np.zeros_like(direction)
    part[block] = direction[block]
    return part


def _compare(f: _Map, settings: _Settings) -> GradcheckReport:
    first = f.call()
    here = _joint(first)
    problem = _difference(first, f.call())
    if problem:
        return GradcheckReport(problem=problem)
    k, size = settings.directions, sum(t.size for _, t in f.leaves)
    if k is None and here.size * size > LARGEST_JACOBIAN:
        raise ValueError(
            f"the Jacobian has {here.size} x {size} elements; compare random projections of it with directions=k"
        )
    weights = None if k is None else _direction(settings.rng, (k, here.size))
    atol = settings.atol
    if atol is None:
        largest = float(np.abs(here[np.isfinite(here)]).max(initial=0.0)) * (1.0 if k is None else here.size**0.5)
        atol = 1e-8 + 64 * EPSILON / settings.eps * largest
    pulled = _rows(f, first, np.eye(here.size) if weights is None else weights)
    rows = []
    for (name, t), wj in zip(f.leaves, pulled, strict=True):
        rows.append(_worst(name, first, _Check(f, t, here, weights, wj, settings, atol)))
    return GradcheckReport(tuple(rows), "", settings.eps, atol, settings.rtol, k)


def _rows(f: _Map, results: Named, weights: Array) -> list[Array]:
    """W J for each leaf, from one backward pass a row of W."""
    pulled = [np.zeros((len(weights), t.size)) for _, t in f.leaves]
    ys, tensors = [y for _, y in results], [t for _, t in f.leaves]
    cuts = np.cumsum([y.size for y in ys])[:-1]
    for row, w in enumerate(weights):
        seeds = [part.reshape(y.shape) for part, y in zip(np.split(w, cuts), ys, strict=True)]
        for into, g in zip(pulled, _pull(ys, tensors, seeds), strict=True):
            if g is not None:
                into[row] = np.ravel(to_host(g._array))
    return pulled


def _worst(name: str, results: Named, check: _Check) -> Comparison:
    """Compare along every direction of one input, and describe the element that misses by most."""
    t, k = check.t, check.settings.directions
    empty = Comparison(name, t.shape, check.f.order, 0.0, 0.0, 0.0, None, "nothing", 0.0, 0.0)
    if not t.size or not len(check.pulled):
        return empty
    directions = _units(t.size) if k is None else iter(_direction(check.settings.rng, (k, t.size)))
    found, abs_error, rel_error = empty, 0.0, 0.0
    at: tuple[Array, int] | None = None
    for direction in directions:
        analytic, numeric, *_ = check.along(direction)
        error, relative, miss = check.judge(analytic, numeric)
        row = int(miss.argmax())
        abs_error, rel_error = max(abs_error, float(error.max())), max(rel_error, float(relative.max()))
        if at is None or miss[row] > found.miss:
            at = direction, row
            found = replace(found, miss=float(miss[row]), analytic=float(analytic[row]), numeric=float(numeric[row]))
    assert at is not None
    direction, row = at
    output = "projection" if k is not None else _place(results, row)
    if not found.ok and k is not None:
        direction = check.culprit(direction)
        analytic, numeric, *_ = check.along(direction)
        row = int(check.judge(analytic, numeric)[2].argmax())
        found = replace(found, analytic=float(analytic[row]), numeric=float(numeric[row]))
    moving = np.flatnonzero(direction)
    index = tuple(int(i) for i in np.unravel_index(moving[0], t.shape)) if len(moving) == 1 else None
    note = "" if found.ok else check.explain(direction, row)
    return replace(found, max_abs_error=abs_error, max_rel_error=rel_error, index=index, output=output, note=note)


def _units(size: int) -> Iterator[Array]:
    for i in range(size):
        unit = np.zeros(size)
        unit[i] = 1.0
        yield unit
