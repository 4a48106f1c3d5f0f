"""The nodes of an ONNX graph that can be run: the recurrent operators, and what moves their inputs and outputs about.

A value is a Tensor where ONNX has floats and a NumPy array where it has integers (shapes, lengths, axes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyrnn import ops
from tinyrnn._core.tape import Tensor, wrap
from tinyrnn.interop.onnx_cells import DEFAULTS, GATES, Activation, make_cell
from tinyrnn.loop import scan
from tinyrnn.module import Cell

Array = npt.NDArray[Any]
Value: TypeAlias = Tensor | Array
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
"""What the inputs of a recurrent operator are called, in order; RNN and GRU end with initial_h."""


class Node:
    """A node: what it reads and writes, and its attributes. `label` is what errors call it."""

    def __init__(
        self, op: str, name: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, Any]
    ) -> None:
        self.op, self.name, self.attributes = op, name, dict(attributes)
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.label = f"node {name!r} ({op})" if name else f"the {op} node that makes {', '.join(filter(None, outputs))}"

    def run(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Its outputs by their names. values: those of the graph so far."""
        raise NotImplementedError


# -- recurrent operators -----------------------------------------------------------------------------------------------


class Recurrent(Node):
    """RNN, LSTM or GRU, as of opset 7, 14 or 22: a cell a direction, run by `scan`.

    Weights that the graph holds become cells at once, which `cells` lists; others at every run.
    Raises ValueError for attributes and weights that do not fit each other.
    """

    def __init__(self, *about: Any, constants: Mapping[str, Array]) -> None:
        super().__init__(*about)
        self.given = dict(zip(INPUTS, self.inputs, strict=False))
        for k in ("X", "W", "R"):
            if not self.given.get(k):
                raise ValueError(f"{self.label} needs an input {k}")
        self.directions = self._directions()
        self.layout = self._choice("layout", 0, (0, 1))
        self.flags = {k: bool(self.attributes.get(k, 0)) for k in ("input_forget", "linear_before_reset")}
        self.activations = self._activations()
        names = [self.given.get(k) for k in ("W", "R", "B", "P")]
        self.cells: list[Cell] | None = None
        if all(name in constants for name in names if name):
            self.cells = self._make([constants[name] if name else None for name in names])

    def _choice(self, name: str, default: Any, choices: Sequence[Any]) -> Any:
        value = self.attributes.get(name, default)
        if value not in choices:
            raise ValueError(f"{name} of {self.label} must be {' or '.join(map(str, choices))}, got {value!r}")
        return value

    def _directions(self) -> tuple[bool, ...]:
        """For each direction, whether it runs in reverse."""
        return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[
            self._choice("direction", "forward", ("forward", "reverse", "bidirectional"))
        ]

    def _activations(self) -> list[list[Activation]]:
        """The activations of each direction.

        alpha and beta are lists whose values those activations consume in order that have such a parameter.
        """
        count = len(DEFAULTS[self.op])
        needed = count * len(self.directions)
        names = list(self.attributes.get("activations") or DEFAULTS[self.op] * len(self.directions))
        if self.op == "RNN" and needed == 1 and len(names) == 2:
            names = names[:1]  # the schema's own default is two, whatever the direction
        if len(names) != needed:
            raise ValueError(f"activations of {self.label} must be {needed}, got {len(names)}: {', '.join(names)}")
        found, left = [], {k: list(self.attributes.get(f"activation_{k}") or ()) for k in ("alpha", "beta")}
        for k, values in left.items():
            if len(values) > needed:
                raise ValueError(
                    f"activation_{k} of {self.label} must be at most {needed} numbers, one an activation, got {values}"
                )
        for name in names:
            try:
                scales = {k: values[0] if values else None for k, values in left.items()}
                found.append(Activation(name, **scales, clip=self.attributes.get("clip")))
            except ValueError as error:
                raise ValueError(f"{self.label}: {error}") from None
            for k, values in left.items():
                if values and getattr(found[-1], k) is not None:
                    del values[0]
        if self.op == "LSTM":  # the clip is for what enters the gates; onnxruntime, too, leaves c as it is
            found = [Activation(a.name, a.alpha, a.beta, None if k % 3 == 2 else a.clip) for k, a in enumerate(found)]
        return [found[k : k + count] for k in range(0, needed, count)]

    def _make(self, weights: Sequence[Array | None]) -> list[Cell]:
        """The cells of W, R, B and P, all directions in one array each."""
        W, R, B, P = weights
        assert W is not None
        assert R is not None
        count, gates = len(self.directions), len(GATES[self.op])
        if R.ndim != 3:
            raise ValueError(f"R of {self.label} must have 3 axes, got shape {R.shape}")
        H: Any = self.attributes.get("hidden_size", R.shape[2])
        inputs = W.shape[-1] if W.ndim else 0
        shapes: dict[str, tuple[int, ...]] = {"W": (count, gates * H, inputs), "R": (count, gates * H, H)}
        shapes |= {"B": (count, 2 * gates * H), "P": (count, 3 * H)}
        if H < 1 or inputs < 1:
            raise ValueError(f"{self.label} needs a hidden_size and an input_size of 1 or more, got {H} and {inputs}")
        for (k, shape), array in zip(shapes.items(), weights, strict=True):
            if array is None:
                continue
            if array.dtype not in (np.float32, np.float64) or array.dtype != W.dtype:
                raise TypeError(
                    f"{k} of {self.label} must be float32 or float64 like W, which is {W.dtype}, got {array.dtype}"
                )
            if array.shape != shape:
                raise ValueError(
                    f"{k} of {self.label} must be of shape {shape} for {count} direction{'s' * (count > 1)}, "
                    f"hidden_size {H} and input_size {inputs}, got {array.shape}"
                )
        return [
            make_cell(
                self.op, W[d], R[d], None if B is None else B[d], None if P is None else P[d],
                self.activations[d], self.flags,
            )
            for d in range(count)
        ]  # fmt: skip

    def run(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Y (T, D, B, H), 0 behind a row's end; Y_h and Y_c (D, B, H) of each row's last step, 0 if it has none."""
        found = {k: values[name] for k, name in self.given.items() if name}
        cells = self.cells
        if cells is None:
            cells = self._make([None if k not in found else _array(found[k]) for k in ("W", "R", "B", "P")])
        X = self._floats("X", found["X"], cells[0], 3)
        if self.layout:
            X = ops.transpose(X, (1, 0, 2))
        steps, rows, inputs = X.shape
        if inputs != cells[0].input_size:
            order = "batch, time" if self.layout else "time, batch"
            got = tuple(found["X"].shape)
            raise ValueError(f"X of {self.label} must be of shape ({order}, {cells[0].input_size}), got {got}")
        lengths = self._lengths(found.get("sequence_lens"), steps, rows)
        first = [self._initial(k, found.get(k), cells[0], rows) for k in ("initial_h", "initial_c")]
        ys, finals = [], []
        for d, (cell, reverse) in enumerate(zip(cells, self.directions, strict=True)):
            zeros = cell.initial_state(rows)
            state = [z if s is None else s[d] for s, z in zip(first, zeros, strict=False)]
            y, last = scan(cell, X, tuple(state), lengths=lengths, reverse=reverse)
            ys.append(y)
            finals.append(last if steps else zeros)
        results = [ops.stack(ys, axis=1), *(ops.stack(s) for s in zip(*finals, strict=True))]
        if lengths is not None:  # a row of no steps has no last output; onnxruntime gives 0 for it
            alive = (lengths > 0)[:, None]
            results[1:] = [ops.where(alive, s, 0.0) for s in results[1:]]
        if self.layout:
            results = [ops.transpose(results[0], (2, 0, 1, 3)), *(ops.transpose(s, (1, 0, 2)) for s in results[1:])]
        return {name: value for name, value in zip(self.outputs, results, strict=False) if name}

    def _floats(self, k: str, value: Value, cell: Cell, axes: int) -> Tensor:
        if not isinstance(value, Tensor) or value.dtype != cell.dtype:
            raise TypeError(f"{k} of {self.label} must be {cell.dtype} like its weights, got {value.dtype}")
        if value.ndim != axes:
            raise ValueError(f"{k} of {self.label} must have {axes} axes, got shape {value.shape}")
        return value

    def _initial(self, k: str, value: Value | None, cell: Cell, rows: int) -> Tensor | None:
        """An initial state as (directions, rows, H)."""
        if value is None:
            return None
        state, count = self._floats(k, value, cell, 3), len(self.directions)
        shape = (rows, count, cell.hidden_size) if self.layout else (count, rows, cell.hidden_size)
        if state.shape != shape:
            raise ValueError(f"{k} of {self.label} must be of shape {shape}, got {state.shape}")
        return ops.transpose(state, (1, 0, 2)) if self.layout else state

    def _lengths(self, value: Value | None, steps: int, rows: int) -> Array | None:
        if value is None:
            return None
        lengths = _array(value)
        if lengths.dtype.kind not in "iu":
            raise TypeError(f"sequence_lens of {self.label} must be integers, got {lengths.dtype}")
        if lengths.shape != (rows,):
            raise ValueError(f"sequence_lens of {self.label} must be of shape ({rows},), got {lengths.shape}")
        wrong = lengths[(lengths < 0) | (lengths > steps)]
        if wrong.size:
            raise ValueError(f"sequence_lens of {self.label} must lie in 0..{steps}, the steps of X, got {wrong[0]}")
        return lengths


# -- what moves values about -------------------------------------------------------------------------------------------


class Move(Node):
    """A node that moves, repeats or adds values, by a function of them and its attributes."""

    def run(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Its one output. Raises ValueError with the function's complaint."""
        given = [values[name] if name else None for name in self.inputs]
        try:
            return {self.outputs[0]: MOVES[self.op](self.attributes, *given)}
        except (ValueError, IndexError, TypeError) as error:
            shapes = ", ".join(f"{name} {v.shape}" for name, v in zip(self.inputs, given, strict=True) if v is not None)
            raise ValueError(f"{self.label} can not be run on {shapes}: {error}") from None


def _array(value: Value) -> Array:
    return value.data if isinstance(value, Tensor) else value


def _ints(value: Value) -> list[int]:
    array = _array(value)
    if array.dtype.kind not in "iu":
        raise TypeError(f"shapes, axes and indices must be integers, got {array.dtype}")
    return [int(n) for n in np.ravel(array)]


def _axes(attributes: Mapping[str, Any], axes: Value | None, rank: int) -> list[int] | None:
    """The axes, an attribute before opset 13 and an input since; None if there are none."""
    found = _ints(axes) if axes is not None else attributes.get("axes")
    if found is None:
        return None
    wrong = [a for a in found if not -rank <= a < rank]
    if wrong:
        raise ValueError(f"axes must lie in {-rank}..{rank - 1}, got {wrong[0]}")
    return sorted(a % rank for a in found)


def _shaped(x: Value, shape: Sequence[int]) -> Value:
    return ops.reshape(x, shape) if isinstance(x, Tensor) else x.reshape(shape)


def _squeeze(attributes: Mapping[str, Any], x: Value, axes: Value | None = None) -> Value:
    gone = _axes(attributes, axes, x.ndim)
    if gone is None:
        gone = [k for k, n in enumerate(x.shape) if n == 1]
    if any(x.shape[k] != 1 for k in gone):
        raise ValueError(f"axes {gone} must be of size 1")
    return _shaped(x, [n for k, n in enumerate(x.shape) if k not in gone])


def _unsqueeze(attributes: Mapping[str, Any], x: Value, axes: Value | None = None) -> Value:
    count = len(_ints(axes) if axes is not None else attributes.get("axes", ()))
    new, sizes = _axes(attributes, axes, x.ndim + count) or [], iter(x.shape)
    return _shaped(x, [1 if k in new else next(sizes) for k in range(x.ndim + count)])


def _transpose(attributes: Mapping[str, Any], x: Value) -> Value:
    axes = attributes.get("perm") or list(range(x.ndim))[::-1]
    return ops.transpose(x, axes) if isinstance(x, Tensor) else x.transpose(axes)


def _reshape(attributes: Mapping[str, Any], x: Value, shape: Value) -> Value:
    wanted = _ints(shape)
    if not attributes.get("allowzero"):
        if any(n == 0 and k >= x.ndim for k, n in enumerate(wanted)):
            raise ValueError(f"a 0 in the shape {wanted} stands for an axis that there is not")
        wanted = [x.shape[k] if n == 0 else n for k, n in enumerate(wanted)]
    return _shaped(x, wanted)


def _concat(attributes: Mapping[str, Any], *parts: Value) -> Value:
    if any(isinstance(part, Tensor) for part in parts):
        return ops.concat(parts, attributes["axis"])
    return np.concatenate(parts, attributes["axis"])


def _slice(
    attributes: Mapping[str, Any],
    x: Value,
    starts: Value | None = None,
    ends: Value | None = None,
    axes: Value | None = None,
    steps: Value | None = None,
) -> Value:
    first = attributes["starts"] if starts is None else _ints(starts)
    last = attributes["ends"] if ends is None else _ints(ends)
    which = attributes.get("axes", range(len(first))) if axes is None else _ints(axes)
    by = [1] * len(first) if steps is None else _ints(steps)
    cuts: list[Any] = [slice(None)] * x.ndim
    for axis, a, b, step in zip(which, first, last, by, strict=True):
        n = x.shape[axis]
        if step < 0:  # an end before the first element is no end to Python, which counts from behind there
            cuts[axis] = slice(a, None if b < -n else b, step)
        else:
            cuts[axis] = slice(a, b, step)
    return x[tuple(cuts)]


def _shape_of(attributes: Mapping[str, Any], x: Value) -> Value:
    return np.array(x.shape[slice(attributes.get("start", 0), attributes.get("end"))], np.int64)


def _gather(attributes: Mapping[str, Any], x: Value, indices: Value) -> Value:
    axis = attributes.get("axis", 0) % x.ndim
    if _array(indices).dtype.kind not in "iu":
        raise TypeError(f"indices must be integers, got {indices.dtype}")
    index: Any = (*[slice(None)] * axis, _array(indices))
    found: Value = x[index]
    return found if isinstance(found, Tensor) else np.asarray(found)


def _constant_of_shape(attributes: Mapping[str, Any], shape: Value) -> Value:
    value = attributes.get("value", np.zeros(1, np.float32))
    return as_value(np.full(_ints(shape), value.item(), value.dtype))


def _expand(attributes: Mapping[str, Any], x: Value, shape: Value) -> Value:
    wanted = np.broadcast_shapes(tuple(x.shape), tuple(_ints(shape)))
    return ops.broadcast_to(x, wanted) if isinstance(x, Tensor) else np.broadcast_to(x, wanted)


def _reduce_sum(attributes: Mapping[str, Any], x: Value, axes: Value | None = None) -> Value:
    over, keep = _axes(attributes, axes, x.ndim), bool(attributes.get("keepdims", 1))
    if not over:
        if attributes.get("noop_with_empty_axes"):
            return x
        over = list(range(x.ndim))
    return ops.sum(x, over, keepdims=keep) if isinstance(x, Tensor) else x.sum(tuple(over), keepdims=keep)


MOVES: dict[str, Callable[..., Value]] = {
    "Add": lambda attributes, a, b: a + b,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Gather": _gather,
    "Identity": lambda attributes, x: x,
    "ReduceSum": _reduce_sum,
    "Reshape": _reshape,
    "Shape": _shape_of,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def as_value(array: Array) -> Value:
    """A Tensor of floats that the library has, other arrays as they are."""
    return wrap(np.ascontiguousarray(array)) if array.dtype in (np.float32, np.float64) else array
