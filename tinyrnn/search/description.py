"""What a random cell is: a description, which is plain data, and the cell that runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.checks import as_size
from tinyrnn.module import Cell, Parameter
from tinyrnn.search.kinds import KINDS, Width


@dataclass(frozen=True)
class Node:
    """One op. op: its name in KINDS; args: the numbers of the values that it reads.

    attrs: numbers. The parameter's, for a product with a matrix (and then the units of the result), a bias or a gain;
    the first and the last unit, for a slice; the constant, for a kind that has one.
    """

    op: str
    args: tuple[int, ...]
    attrs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Description:
    """A step. Its values are numbered: the time inputs, the states, then the result of every node, in order.

    inputs: how many time inputs it takes, each of the cell's input_size. states: the width of each state, in units.
    nexts: the numbers of the values that are the next states; the first is the output.
    Matrices, biases and gains are numbered each from 0 in the order of their first use; one used again is shared.
    Raises ValueError for nodes that do not fit together.
    """

    inputs: int
    states: tuple[int, ...]
    nodes: tuple[Node, ...]
    nexts: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.inputs < 1 or not self.states or len(self.nexts) != len(self.states):
            raise ValueError(f"a description needs an input, a state, and a next value for each, got {self!r}")
        for n, units in zip(self.nexts, self.states, strict=True):
            if not 0 <= n < len(self.widths) or self.widths[n] != Width(units=units):
                raise ValueError(f"value {n} can not be the next one of a state of width {units}U in {self!r}")

    @cached_property
    def widths(self) -> tuple[Width, ...]:
        """The width of every value."""
        widths = [Width(inputs=1)] * self.inputs + [Width(units=n) for n in self.states]
        shapes: dict[str, list[Any]] = {"W": [], "b": [], "g": []}
        for node in self.nodes:
            if node.op not in KINDS:
                raise ValueError(f"{node} is of no kind in KINDS")
            found = _width(node, widths, shapes)
            if found is None:
                raise ValueError(f"{node} does not fit the values before it, of width {', '.join(map(str, widths))}")
            widths.append(found)
        return tuple(widths)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every value, as the equations have it."""
        xs = ["x"] if self.inputs == 1 else [f"x{k + 1}" for k in range(self.inputs)]
        return (*xs, *state_names(len(self.states)), *(f"v{k + 1}" for k in range(len(self.nodes))))

    def __str__(self) -> str:
        names, first = self.names, self.inputs + len(self.states)
        sizes = [f"{names[self.inputs + k]} ({n}U)" for k, n in enumerate(self.states)]
        lines = [f"inputs {', '.join(names[: self.inputs])}; states {', '.join(sizes)}"]
        for k, node in enumerate(self.nodes):
            args = [names[a] for a in node.args]
            lines.append(f"{names[first + k]} = {KINDS[node.op].text(args, node.attrs)}")
        lines += [f"{names[self.inputs + k]}' = {names[n]}" for k, n in enumerate(self.nexts)]
        return "\n".join(lines)


def _width(node: Node, widths: Sequence[Width], shapes: dict[str, list[Any]]) -> Width | None:
    """The width of a node's result; None if it does not fit. shapes: of the parameters so far, by letter."""
    kind = KINDS[node.op]
    if not node.args or kind.args not in (len(node.args), -1) or not all(0 <= a < len(widths) for a in node.args):
        return None
    if len(node.attrs) != kind.attrs:
        return None
    here = [widths[a] for a in node.args]
    found = kind.width(here, node.attrs)
    if kind.parameter:
        known, number = shapes[kind.parameter], int(node.attrs[0])
        shape = (here[0], found)
        if number == len(known):
            known.append(shape)
        if not 0 <= number < len(known) or known[number] != shape:
            return None
    return found


def state_names(count: int) -> tuple[str, ...]:
    return ("h", "c", "m", *(f"s{k}" for k in range(4, count + 1)))[:count]


class RandomCell(Cell):
    """The cell of a description. unit: the columns of one unit of width; hidden_size is the first state's columns.

    Matrices are drawn uniform in ±1/sqrt(rows), biases in ±1/2, gains in 1/2..3/2; parameters W, b and g are lists.
    """

    def __init__(
        self,
        description: Description,
        input_size: int,
        unit: int = 1,
        *,
        dtype: npt.DTypeLike = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        self.description, self.unit = description, as_size("unit", unit)
        super().__init__(input_size, description.states[0] * self.unit, dtype=dtype, rng=rng)
        self.W: list[Parameter] = []
        self.b: list[Parameter] = []
        self.g: list[Parameter] = []
        ranges = {"b": (-0.5, 0.5), "g": (0.5, 1.5)}
        for k, node in enumerate(description.nodes):
            letter = KINDS[node.op].parameter
            if letter and node.attrs[0] == len(getattr(self, letter)):
                rows, columns = (self.columns(v) for v in (node.args[0], description.inputs + len(self.states) + k))
                low, high = ranges.get(letter, (-(rows**-0.5), rows**-0.5))
                shape = (rows, columns) if letter == "W" else (columns,)
                getattr(self, letter).append(self.param(shape, self.rng.uniform(low, high, shape)))

    @property
    def states(self) -> tuple[str, ...]:  # type: ignore[override]
        return state_names(len(self.description.states))

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return tuple(n * self.unit for n in self.description.states)

    def columns(self, value: int) -> int:
        """The columns of the value of this number."""
        return self.description.widths[value].columns(self.input_size, self.unit)

    def parameter(self, node: Node) -> Parameter:
        """The parameter that a node reads."""
        found: Parameter = getattr(self, KINDS[node.op].parameter)[int(node.attrs[0])]
        return found

    def step(self, *args: Tensor) -> tuple[Tensor, ...]:
        values = list(args)
        for node in self.description.nodes:
            values.append(KINDS[node.op].run(self, node, *(values[a] for a in node.args)))
        return tuple(values[n] for n in self.description.nexts)
