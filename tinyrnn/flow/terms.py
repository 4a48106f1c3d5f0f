"""A state's update read as a sum of products, c' = f * c + i * g, from the tape of the step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from math import prod
from typing import Any, TypeAlias

from tinyrnn._core import tape
from tinyrnn._core.tape import Op, Tensor
from tinyrnn.module import Cell
from tinyrnn.ops import broadcast_to, fma, mul, neg, stop_gradient
from tinyrnn.plan.columns import OPS, SUMS
from tinyrnn.plan.notation import Notation
from tinyrnn.plan.record import Recording
from tinyrnn.plan.step import consumers, is_rowed, resized, topological

VIEWS = (OPS["reshape"], OPS["broadcast_to"])
LONG = 24
"""Characters of an expression, at most, that stands for itself in a label."""
DEEP = 8
"""Ops within ops of an expression, at most."""
After: TypeAlias = tuple[tuple[Op, tuple[Any, ...]], ...]


@dataclass(frozen=True)
class Product:
    """sign * the factors' product, then the ops `after` it, (op, attrs) each: values of the recorded step."""

    sign: int
    factors: tuple[Tensor, ...]
    after: After = ()


@dataclass(frozen=True)
class Term:
    """What one factor of one product does to the derivative: the other factors, times that factor's own derivative."""

    label: str
    product: Product
    factor: int

    def cut(self, known: dict[Tensor, Tensor], shape: tuple[int, ...]) -> Tensor:
        """The product on rows where the factors are `known`, cut off from all factors but one."""
        factors = self.product.factors
        kept = known[factors[self.factor]]
        others = [known[t] for k, t in enumerate(factors) if k != self.factor]
        value = mul(kept, stop_gradient(reduce(mul, others))) if others else kept
        if self.product.sign < 0:
            value = neg(value)
        for op, attrs in self.product.after:
            value = tape.apply(op, (value,), resized(attrs, shape[0]))
        return value if value.shape == shape else broadcast_to(value, shape)


class Update:
    """The update of one state of a recorded step as terms.

    Sums within sums and products within products are laid flat; a factor that is itself a sum is multiplied out where
    the state is a factor of its terms, as in (1 - d) * (f * c + i * g). What the step probes stays in one piece.

    direct    whether the state is itself a factor
    ok        whether there are a sum, a product, or the state itself to be read
    """

    def __init__(self, cell: Cell, recorded: Recording, number: int) -> None:
        step = recorded.step
        self.state, self.root, self.name = step.states[number], step.nexts[number], cell.states[number]
        self._probed = set(recorded.probed.values())
        self._numbered: dict[Tensor, None] = {}
        self._notation = self._named(cell, recorded)
        self._linear = {self.state}  # what the state reaches by sums and products alone
        for t in topological([self.root]):
            if t.op in (*SUMS, mul, fma, OPS["reshape"]) and not self._linear.isdisjoint(t.inputs):
                self._linear.add(t)
        self.products = self._sum(self.root)
        self.direct = any(self._is_state(t) for p in self.products for t in p.factors)
        self.ok = self.direct or len(self.products) > 1 or len(self.products[0].factors) > 1

    @cached_property
    def terms(self) -> list[Term]:
        """Those of the state itself, then the others, each in the order in which the update has them."""
        places = [(p, k) for p in self.products for k in range(len(p.factors))]
        places.sort(key=lambda at: not self._is_state(at[0].factors[at[1]]))  # stable
        taken: dict[str, int] = {}
        found = []
        for p, k in places:
            label = self._label(p, k)
            taken[label] = taken.get(label, 0) + 1
            more = f" ({taken[label]})" if taken[label] > 1 else ""
            found.append(Term(label + more, p, k))
        return found

    # -- in words ------------------------------------------------------------------------------------------------------

    @property
    def equation(self) -> str:
        """The sum of products, as it was read; else what the update is made of."""
        if not self.ok:
            return f"{self.name}' = {self._notation.definition(self.root)}"
        text = ""
        for p in self.products:
            sign = " - " if p.sign < 0 else " + "
            text += (sign if text else sign.strip(" +")) + " * ".join(map(self._called, p.factors))
        return f"{self.name}' = {text}"

    def definitions(self) -> dict[str, str]:
        """v1, v2, .. -> what they are, for those that the equation, or one of these, has."""
        needed: set[Tensor] = set()
        stack = [t for p in self.products for t in p.factors] if self.ok else [*(self.root.inputs or ())]
        while stack:
            t = stack.pop()
            if t in self._numbered and t in needed:
                continue
            if t in self._numbered:
                needed.add(t)
            elif t in self._notation.names:
                continue
            stack += t.inputs or ()
        return {self._notation.names[t]: self._notation.definition(t) for t in self._numbered if t in needed}

    def _named(self, cell: Cell, recorded: Recording) -> Notation:
        """Names of the step's leaves, next states and probed values, and numbers for the others that need one."""
        notation, step = Notation(), recorded.step
        names = {id(p): name for name, p in cell.named_parameters()}
        for t in (*step.seqs, *step.states):
            notation.name(t, str(t.name))
        for t, p in zip(step.params, recorded.params, strict=True):
            notation.name(t, names.get(id(p)) or p.name or "constant")
        for name, t in recorded.probed.items():
            if t not in notation.names and t not in step.nexts:
                notation.name(t, name)
        for name, t in zip(cell.states, step.nexts, strict=True):
            if t not in notation.names:
                notation.name(t, f"{name}'")
        # An equation is not written twice, nor across many levels.
        values = topological(step.nexts)
        readers, depth = consumers(step.nexts, values), dict.fromkeys(notation.names, 0)
        for t in values:
            if t in depth:
                continue
            depth[t] = 1 + max((depth[s] for s in t.inputs or ()), default=-1)
            if depth[t] > DEEP or (len(readers[t]) > 1 and t.op is not None and t.op not in VIEWS):
                self._number(notation, t)
                depth[t] = 0
        return notation

    def _number(self, notation: Notation, t: Tensor) -> str:
        self._numbered[t] = None
        return notation.number(t, "v")

    def _label(self, product: Product, k: int) -> str:
        others = " * ".join(self._called(t) for j, t in enumerate(product.factors) if j != k)
        sign = "-" if product.sign < 0 else ""
        if self._is_state(product.factors[k]):
            return sign + (others or "1")
        own = f"d{self._called(product.factors[k])}/d{self.name}"
        return f"{sign}{others} * {own}" if others else sign + own

    def _called(self, t: Tensor) -> str:
        """A factor's name, or that of what it repeats; else what it is made of, or a number if that is long."""
        names, plain = self._notation.names, t
        while plain not in names and plain.op in VIEWS:
            plain = plain.inputs[0]
        if plain in names:
            return names[plain]
        text = self._notation.factor(t)
        return text if len(text) <= LONG else self._number(self._notation, t)

    # -- reading -------------------------------------------------------------------------------------------------------

    def _is_state(self, t: Tensor) -> bool:
        """Whether t is the state, in whatever shape."""
        while t.op is OPS["reshape"]:
            t = t.inputs[0]
        return t is self.state

    def _opens(self, t: Tensor) -> bool:
        """Whether to look inside a value."""
        return t is not self.state and (t is self.root or t in self._linear or t not in self._probed)

    def _sum(self, whole: Tensor) -> list[Product]:
        found: list[Product] = []
        stack: list[Product] = [Product(1, (whole,))]
        while stack:
            p = stack.pop()
            (t,) = p.factors
            if not self._opens(t):
                found.append(p)
            elif t.op in SUMS:
                last = p.sign if t.op.name == "add" else -p.sign
                stack.append(Product(last, t.inputs[-1:], p.after))
                stack += [Product(p.sign, (s,), p.after) for s in t.inputs[:-1]]
            elif t.op is fma:
                stack.append(Product(p.sign, t.inputs[2:], p.after))
                found += self._product(t.inputs[:2], p.sign, p.after)
            elif t.op is mul:
                found += self._product(t.inputs, p.sign, p.after)
            elif t.op is OPS["reshape"] and is_rowed(t.inputs[0]):
                stack.append(Product(p.sign, t.inputs, ((t.op, t.attrs), *p.after)))
            else:
                found.append(p)
        return found

    def _product(self, values: Sequence[Tensor], sign: int, after: After) -> list[Product]:
        """The products that the product of some values is, multiplied out where the state is in a sum."""
        choices: list[list[Product]] = []
        stack = list(reversed(values))
        while stack:
            t = stack.pop()
            if self._opens(t) and t.op is mul:
                stack += reversed(t.inputs)
                continue
            alone = [Product(1, (t,))]
            inside = self._sum(t) if t in self._linear and self._opens(t) else alone
            choices.append(alone if any(p.after for p in inside) else inside)
        return [
            Product(sign * prod(p.sign for p in some), tuple(f for p in some for f in p.factors), after)
            for some in itertools.product(*choices)
        ]
