"""Cells as people write them, drawn at random and given as the text of a step: a failure shows what one can run.

A step has gates, that is activations of sums of products, biases, peepholes and the like, some of them columns of one
sum, and then makes every state from gates and states in one of the ways that are in use, or in an odd one. Random
cells of `tinyrnn.search` have all ops in any order; these lean on what plans do: products that add themselves to what
is there, values that two read, columns, several biases, states that are another's value.
"""

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from scan_cells import OddCell

import tinyrnn as tr

ACTIVATIONS = {
    "tr.sigmoid({})": 5, "tr.tanh({})": 5, "tr.softplus({})": 2, "tr.softmax({})": 1, "tr.layer_norm({}, eps=0.1)": 1,
    "tr.tanh(tr.layer_norm({}, eps=0.1) * {gain} + {bias})": 2, "tr.sqrt(1.0 + {} * {})": 1, "tr.exp(0.3 * {})": 1,
    "tr.square({}) * 0.2": 1, "{} - {}.mean(axis=1, keepdims=True)": 1, "{}": 1, "{}[:, ::-1]": 1,
    "tr.stop_gradient({}) * 0.5 + {}": 1, "tr.maximum({}, 0.3 * {})": 1,
    "tr.softmax({}.reshape(-1, 2, {half})).reshape(-1, {n})": 1,
}  # fmt: skip

# With h the state, g another gate or value, u and v gates; {a} and {b} are new gates.
UPDATES = {
    "{u} * {h} + (1 - {u}) * {v}": 3, "(1 - {u}) * {h} + {u} * {v}": 3, "{h} + {u} * ({v} - {h})": 3,
    "{h} - {u} * ({h} - {v})": 2, "{u} * {h} + {a} * {v}": 4, "{h} - {u} * {h} + {a} * {v}": 2, "{u} * {v}": 3,
    "{u} * tr.tanh({h})": 2, "{u} * {v} + {a}": 2, "{u} * {v} - {a}": 1, "tr.tanh({u} * {h} + {v})": 2,
    "{u} * {v} + {a} * {b}": 1, "{bias} * {h} + {v}": 1, "{sum}": 2, "{input}": 1, "{value}": 1, "{again}": 2,
    "{chain}": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A step: its text, the widths of its inputs and states, the shapes of its parameters."""

    text: str
    inputs: tuple[int, ...]
    states: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]

    def cell(self, dtype="float64"):
        namespace = {"tr": tr}
        exec(self.text, namespace)
        names = [f"h{k}" for k in range(len(self.states))]
        made = OddCell(namespace["step"], self.shapes, names, self.states, self.inputs[0], dtype=dtype, rng=0)
        rng = np.random.default_rng(5)
        for name, shape in self.shapes.items():
            size = 0.8 / math.sqrt(shape[0]) if len(shape) == 2 else 0.7
            getattr(made, name).data[...] = rng.normal(size=shape) * size
        return made

    def _repr_pretty_(self, printer, cycle):  # what Hypothesis shows
        printer.text(str(self))

    def __str__(self):
        return f"{self.text}\n# inputs {self.inputs}, states {self.states}, {self.shapes}\n"


def drawn_cells(sizes=(4, 1, 2, 3, 5, 8, 9, 16, 17)):
    """The strategy. sizes: of states, the simplest first."""

    @st.composite
    def drawn(draw):
        return _Writer(lambda n: draw(st.integers(0, n - 1)) if n > 1 else 0, sizes).step()

    return drawn()


class _Writer:
    """Writes a step line by line; choose(n) is a number below n, the smaller, the simpler."""

    def __init__(self, choose, sizes):
        self.choose = choose
        size = self.of(sizes)
        inputs = [self.of((3, 1, 2, size))] + [self.of((2, 1, size))] * (choose(3) == 2)
        states = [size if choose(5) < 4 else 1 + choose(size + 1) for _ in range(1 + choose(3))]
        self.inputs = {f"x{k}": n for k, n in enumerate(inputs)}
        self.states = {f"h{k}": n for k, n in enumerate(states)}
        self.width = self.inputs | self.states  # of every value
        self.size, self.lines, self.shapes = size, [], {}
        self.gates, self.sums = [], []

    def of(self, values):
        values = list(values)
        return values[self.choose(len(values))]

    def weighted(self, table):
        return self.of([key for key, weight in table.items() for _ in range(weight)])

    def value(self, expression, width):
        """The name of a new value; one that is only a name stays that."""
        if expression in self.width:
            return expression
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        self.width[name] = width
        return name

    def param(self, *shape):
        """A parameter of this shape: a new one, or now and then one that is there."""
        there = [name for name, other in self.shapes.items() if other == shape]
        if there and self.choose(4) == 3:
            return "p." + self.of(there)
        name = f"{'W' if len(shape) == 2 else 'b'}{len(self.shapes)}"
        self.shapes[name] = shape
        return "p." + name

    def some(self, width=None):
        """A value, of this width if there is one."""
        fits = [v for v, n in self.width.items() if width in (None, n)]
        return self.of(reversed(fits)) if fits else None

    def product(self, value, n):
        inner, kind = self.width[value], self.choose(16)
        turned = [name for name, shape in self.shapes.items() if shape == (n, inner)]
        if kind == 15 and turned:
            return f"{value} @ p.{self.of(turned)}.T"
        if kind >= 13:
            at = n * self.choose(2)
            return f"{value} @ {self.param(inner, 2 * n)}[:, {at}:{at + n}]"
        if kind == 12:
            return f"{value} @ ({self.param(inner, n)} * {self.param(n)})"
        return f"{value} @ {self.param(inner, n)}"

    def term(self, n):
        """Something of n columns, or of one that is repeated, for a sum."""
        kind = self.choose(22)
        state = self.of(self.states)
        wide = self.width[state]
        if kind < 4:
            return self.product(self.of(self.inputs), n)
        if kind < 8:
            return self.product(state, n)
        if kind < 10 and (gates := [g for g in self.gates if self.width[g] == wide]):
            pair = [self.of(gates), state]
            return self.product(self.value(" * ".join(pair[:: 1 - 2 * self.choose(2)]), wide), n)
        if kind == 10:
            return self.product(self.value(self.of(("tr.tanh({})", "tr.square({})")).format(state), wide), n)
        if kind == 11:
            parts = [self.of(self.inputs), state, *([self.some()] * self.choose(2))]
            parts = [parts.pop(self.choose(len(parts))) for _ in range(len(parts))]
            joined = self.value(f"tr.concat([{', '.join(parts)}], 1)", sum(self.width[p] for p in parts))
            return self.product(joined, n)
        if kind in (12, 13) and (value := self.some(n)):
            return f"{self.param(n)} * {value}" if kind == 12 else value
        if kind == 14 and (sums := [s for s in self.sums if self.width[s] == n]):
            return self.of(sums)
        if kind == 15:
            return f"{self.some()}.{self.of(('mean', 'max'))}(axis=1, keepdims=True)"
        if kind == 16 and (pair := [v for v in (self.some(n), self.some(n)) if v]):
            return " * ".join(pair)
        if kind == 17:
            return f"tr.broadcast_to({self.param(n)}, (x0.shape[0], {n}))"
        if kind == 18:
            value = self.some()
            if self.width[value] > n:
                at = self.choose(self.width[value] - n + 1)
                return f"{value}[:, {at}:{at + n}]"
        return self.product(self.some(), n)

    def summed(self, n):
        terms = [self.term(n) for _ in range(1 + self.weighted({1: 2, 0: 1, 2: 2, 3: 1}))]
        if "keepdims" in terms[0]:
            terms[0] = f"tr.broadcast_to({terms[0]}, (x0.shape[0], {n}))"
        value = terms[0]
        for k, term in enumerate(terms[1:]):
            value += (" + ", " + ", " + ", " - ")[self.choose(4)] + term
            if k + 2 < len(terms) and self.choose(8) == 7:
                value = self.value(value, n)
                self.sums.append(value)
        value += "".join(f" + {self.param(n)}" for _ in range((0, 1, 1, 2)[self.choose(4)]))
        self.sums.append(self.value(value, n))
        return self.sums[-1]

    def activation(self, value):
        n = self.width[value]
        fits = {text: weight for text, weight in ACTIVATIONS.items() if n % 2 == 0 or "{half}" not in text}
        text = self.weighted(fits)
        fields = {name: self.param(n) for name in ("gain", "bias") if f"{{{name}}}" in text}
        return self.value(text.format(value, *[value] * (text.count("{}") - 1), **fields, half=n // 2, n=n), n)

    def gate(self, n):
        self.gates.append(self.activation(self.summed(n)))
        return self.gates[-1]

    def gates_of_one_sum(self, n, count):
        whole = self.summed(n * count)
        if self.choose(5) == 4:
            whole = self.activation(whole)
        for k in range(count):
            part = self.value(f"{whole}[:, {k * n}:{(k + 1) * n}]", n)
            if self.choose(8) == 7:
                part = self.value(f"{part} + {self.term(n)}", n)
            self.gates.append(self.activation(part))

    def some_gate(self, n):
        gates = [g for g in self.gates if self.width[g] == n]
        return self.of(gates) if gates and self.choose(6) < 5 else self.gate(n)

    def next_state(self, state):
        n, text = self.width[state], self.weighted(UPDATES)
        fields = {"h": state}
        makers = {
            "u": self.some_gate, "v": self.some_gate, "a": self.some_gate, "b": self.some_gate, "bias": self.param,
            "sum": self.summed, "value": self.some, "input": lambda n: self.product(self.of(self.inputs), n),
            "again": lambda n: self.read_twice(state), "chain": lambda n: self.chain(state),
        }  # fmt: skip
        for name, make in makers.items():
            if f"{{{name}}}" in text:
                fields[name] = make(n)
        return self.value(text.format(**fields), n)

    def read_twice(self, state):
        """A sum that a gate reads, and to which a product of that gate is added."""
        n = self.width[state]
        before = self.summed(n)
        gate = self.activation(before)
        more = self.product(self.value(f"{gate} * {state}", n), n)
        after = self.value(self.of((f"{before} + {more}", f"{more} + {before}", f"{before} + {more} + {before}")), n)
        self.sums.append(after)
        return f"{gate} * {self.activation(after)}"

    def chain(self, state):
        n, value = self.width[state], state
        weight = self.param(n, n)
        for _ in range(2 + self.choose(2)):
            value = self.activation(self.value(f"{value} @ {weight}", n))
        return value

    def step(self):
        for _ in range(self.choose(4)):
            self.gate(self.size)
        if self.choose(3) == 2:
            self.gates_of_one_sum(self.size, 2 + self.choose(3))
        nexts = {}
        names = list(self.states)
        for name in names[:: 1 - 2 * self.choose(2)]:
            n = self.width[name]
            made = [v for v in nexts.values() if self.width[v] == n]
            if made and self.choose(4) == 3:  # as an LSTM's output is made of its new cell state
                nexts[name] = self.value(f"{self.some_gate(n)} * {self.activation(self.of(made))}", n)
            else:
                nexts[name] = self.next_state(name)
        lines = [*self.lines, f"return {', '.join(nexts[name] for name in names)}"]
        text = "\n".join([f"def step(p, {', '.join((*self.inputs, *self.states))}):", *(f"    {at}" for at in lines)])
        return Drawn(text, (*self.inputs.values(),), (*self.states.values(),), dict(self.shapes))
