"""Making descriptions: op by op, drawn from a generator of random numbers or by Hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyrnn.search.description import Description, Node
from tinyrnn.search.kinds import KINDS, SINGLE, Bound, Kind, Width, magnitude

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Choose = Callable[[int], int]
"""choose(n): a number in 0..n-1; the smaller, the simpler what is made of it."""

LARGEST = 8.0
"""No value of a step is expected to be larger than this."""

WEIGHTS = {
    "tanh": 2, "sigmoid": 4, "product": 8, "mul": 4, "add": 3, "bias": 2, "mix": 12, "concat": 2, "slice": 2, "sqrt": 3,
    "log": 3, "div": 4, "relu": 3, "abs": 3, "max": 3, "maximum": 4, "minimum": 4, "where": 4,
}  # fmt: skip
"""How much more often than others a kind is drawn."""


def random_description(
    rng: np.random.Generator,
    *,
    inputs: int = 1,
    states: tuple[int, int] = (1, 3),
    ops: tuple[int, int] = (3, 20),
    kinks: bool = True,
) -> Description:
    """A description drawn from rng. states, ops: the least and the largest number of them.

    kinks: also ops whose slope jumps (relu, maximum, where, ..), which finite differences can not follow.
    """
    return _Maker(lambda n: int(rng.integers(n)), inputs, states, ops, kinks).description()


def descriptions(
    *,
    inputs: tuple[int, int] = (1, 2),
    states: tuple[int, int] = (1, 3),
    ops: tuple[int, int] = (3, 20),
    kinks: bool = True,
) -> SearchStrategy[Description]:
    """The Hypothesis strategy of `random_description`; needs Hypothesis, which the package itself does not."""
    from hypothesis import strategies as st

    @st.composite
    def description(draw: Callable[[Any], Any]) -> Description:
        def choose(n: int) -> int:
            return int(draw(st.integers(0, n - 1))) if n > 1 else 0

        taken = inputs[0] + choose(inputs[1] - inputs[0] + 1)
        return _Maker(choose, taken, states, ops, kinks).description()

    return description()


class _Maker:
    """Adds nodes one by one; each reads values whose width and bound fit it, unread ones by preference."""

    def __init__(
        self, choose: Choose, inputs: int, states: tuple[int, int], counts: tuple[int, int], kinks: bool
    ) -> None:
        self.choose, self.inputs = choose, inputs
        self.kinds = [name for name, kind in KINDS.items() if kinks or not kind.kink]
        number = states[0] + choose(states[1] - states[0] + 1)
        self.states = tuple(1 + choose(3) for _ in range(number))
        self.least, self.most = counts[0], counts[0] + choose(counts[1] - counts[0] + 1)
        self.nodes: list[Node] = []
        self.widths = [Width(inputs=1)] * inputs + [Width(units=n) for n in self.states]
        self.bounds: list[Bound] = [(-3.0, 3.0)] * inputs + [(-1.0, 1.0)] * number
        self.parameters: dict[tuple[Any, ...], list[int]] = {}
        self.count = dict.fromkeys("Wbg", 0)
        self.unread = [*range(inputs, len(self.widths)), *range(inputs)]  # the inputs shall be read first

    def description(self) -> Description:
        ends = 3 * len(self.states)
        for _ in range(2 * self.most):
            # What nothing reads has to be brought into the next states.
            if len(self.nodes) + max(ends, len(self.unread) + len(self.states)) >= self.most:
                break
            self.grow()
        nexts = [self.next_state(n, len(self.states) - k - 1) for k, n in enumerate(self.states)]
        while len((made := self.made(nexts)).nodes) < self.least:
            if self.least - len(made.nodes) > 1:
                nexts[0] = self.product(nexts[0], self.states[0])
            nexts[0] = self.add("tanh", [nexts[0]])
        return made

    def made(self, nexts: Sequence[int]) -> Description:
        return _without_unread(Description(self.inputs, self.states, tuple(self.nodes), tuple(nexts)))

    def pick(self, fits: Callable[[int], bool]) -> int | None:
        """A value that fits; what is not read yet, and what was made last, is more likely."""
        others = [v for v in range(len(self.widths)) if v not in self.unread]
        found = [v for v in (*reversed(self.unread), *reversed(others)) if fits(v)]
        return found[self.choose(1 + self.choose(len(found)))] if found else None

    def grow(self) -> None:
        """Add a node to a value, of a kind that fits it; or what a gate begins with."""
        if self.choose(4) == 3:
            self.begin_gate(1 + self.choose(3))
            return
        first = self.pick(lambda v: True)
        assert first is not None
        kinds = [name for name in self.kinds if self.fits(KINDS[name], [first])]
        kinds = [name for name in kinds for _ in range(WEIGHTS.get(name, 1))]
        name = kinds[self.choose(len(kinds))]
        kind = KINDS[name]
        args = [first]
        for _ in range((kind.args if kind.args > 0 else 2 + self.choose(2)) - 1):
            one = self.pick(lambda v: self.fits(kind, [*args, v]))
            if one is None:
                return
            args.append(one)
        attrs: tuple[float, ...] = ()
        if name == "product":
            self.product(first, 1 + self.choose(3))
            return
        if name == "slice":
            start = self.choose(self.widths[first].units)
            attrs = (start, start + 1 + self.choose(self.widths[first].units - start))
        elif kind.parameter:
            attrs = (self.numbered(kind.parameter, self.widths[first]),)
        elif kind.choices:
            attrs = (kind.choices[self.choose(len(kind.choices))],)
        self.add(name, args, attrs)

    def fits(self, kind: Kind, args: Sequence[int], attrs: Sequence[float] = ()) -> bool:
        """Whether these can be the first arguments of a node of this kind."""
        if kind.kink:  # rounding may not decide between two sides, so they are products, and different ones
            sides = args[:2]
            if len(set(sides)) < len(sides) or not all(self.is_product(a) for a in sides):
                return False
        args = [*args, *[args[-1]] * (kind.args - len(args))]
        attrs = attrs or (kind.choices[0] if kind.choices else 0, 1)
        if kind.width([self.widths[a] for a in args], attrs) is None:
            return False
        bound = kind.bound([self.bounds[a] for a in args], attrs)
        return bound is not None and magnitude(bound) <= LARGEST

    def is_product(self, value: int) -> bool:
        k = value - self.inputs - len(self.states)
        return k >= 0 and self.nodes[k].op == "product"

    def add(self, name: str, args: Sequence[int], attrs: Sequence[float] = ()) -> int:
        """The number of the new value; the first argument itself if its bound does not allow for the node."""
        kind = KINDS[name]
        if not self.fits(kind, args, attrs):
            return args[0]
        bound = kind.bound([self.bounds[a] for a in args], attrs)
        width = kind.width([self.widths[a] for a in args], attrs)
        assert bound is not None
        assert width is not None
        self.nodes.append(Node(name, tuple(args), tuple(attrs)))
        self.widths.append(width)
        self.bounds.append(bound)
        self.unread = [v for v in self.unread if v not in args] + [len(self.widths) - 1]
        return len(self.widths) - 1

    def numbered(self, parameter: str, *shape: Any) -> int:
        """The number of a parameter of this shape: a new one, or now and then one that is there."""
        there = self.parameters.setdefault((parameter, *shape), [])
        if there and self.choose(4) == 3:
            return there[self.choose(len(there))]
        there.append(self.count[parameter])
        self.count[parameter] += 1
        return there[-1]

    def product(self, value: int, units: float) -> int:
        if not self.fits(KINDS["product"], [value]):
            value = self.add("tanh", [value])
        return self.add("product", [value], (self.numbered("W", self.widths[value], units), units))

    def begin_gate(self, units: int) -> None:
        """Add the product of an input or state, mostly that of a state to it, and biases: a cell has several."""
        value = self.product(self.choose(self.inputs + len(self.states)), units)
        if self.choose(4):
            value = self.add("add", [value, self.product(self.inputs + self.choose(len(self.states)), units)])
        for _ in range(self.choose(3)):
            value = self.add("bias", [value], (self.numbered("b", self.widths[value]),))

    def next_state(self, units: int, to_come: int) -> int:
        """A value of this width, with what nothing reads brought into it where there is room for more nodes.

        to_come: how many states are still without one; each may need three nodes.
        """

        def room() -> int:
            return self.most - len(self.nodes) - 3 * to_come

        wide = Width(units=units)
        if room() < 3:
            value = self.pick(lambda v: self.widths[v] == wide and magnitude(self.bounds[v]) <= 1.0)
        elif self.choose(4) == 3:
            value = None
        else:
            value = self.pick(lambda v: self.widths[v] == wide)
        if value is None:
            value = self.pick(lambda v: True)
            assert value is not None
            value = self.product(value, units)
        for v in self.unread:
            if v != value and room() >= 2 and (to_come == 0 or self.choose(2)):
                if self.widths[v] not in (wide, SINGLE) and room() >= 4:
                    v = self.product(v, units)
                if self.widths[v] in (wide, SINGLE):
                    value = self.add(("mul", "add")[self.choose(2)], [value, v])
        return self.bounded(value)

    def bounded(self, value: int) -> int:
        """value, or its tanh if it may be larger than 1."""
        if magnitude(self.bounds[value]) > 1.0:
            value = self.add("tanh", [value])
        self.unread = [v for v in self.unread if v != value]
        return value


def _without_unread(made: Description) -> Description:
    """The same cell without the nodes that no next state depends on; parameters numbered as they come."""
    first = made.inputs + len(made.states)
    read, stack = set(range(first)), list(made.nexts)
    while stack:
        v = stack.pop()
        if v not in read:
            read.add(v)
            stack += made.nodes[v - first].args
    number = {v: k for k, v in enumerate(sorted(read))}
    again: dict[tuple[str, float], int] = {}
    count = dict.fromkeys("Wbg", 0)
    nodes = []
    for v in sorted(read)[first:]:
        node = made.nodes[v - first]
        attrs, parameter = node.attrs, KINDS[node.op].parameter
        if parameter:
            if (parameter, attrs[0]) not in again:
                again[parameter, attrs[0]] = count[parameter]
                count[parameter] += 1
            attrs = (again[parameter, attrs[0]], *attrs[1:])
        nodes.append(Node(node.op, tuple(number[a] for a in node.args), attrs))
    return Description(made.inputs, made.states, tuple(nodes), tuple(number[n] for n in made.nexts))
