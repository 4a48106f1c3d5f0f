"""Each step's part of each parameter's gradient: the terms of the sum that backpropagation through time adds up.

Where a parameter meets the rows, the gradient of what they give is at hand for every step, and the op's own rule says
what the parameter's share of it is. Products are multiplied step by step instead of once for the whole sequence; where
only their norms are wanted, products of rows with rows do, of which there are fewer:

    |Σ_b a_b g_bᵀ|² = Σ_bc (a_b · a_c) (g_b · g_c)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core import tape
from tinyrnn._core.tape import Tensor
from tinyrnn.autograd import grad
from tinyrnn.flow.norms import row_norms
from tinyrnn.flow.observed import Entry, Observed
from tinyrnn.plan import Batch
from tinyrnn.plan.rewrite import OPS, SUMS
from tinyrnn.plan.step import replay, resized, topological

Array = npt.NDArray[Any]
AT_ONCE = 1 << 20
"""Elements of gradients that are held at a time, about."""
CANCELLED = 1 / 64
"""A squared norm that is less of what it would be if no rows cancelled is not taken from products of rows."""


class Shares:
    """What every step adds to the gradients of parameters.

    values: the emits of the observed plan, (rows, ..) each; gradients: of its nudges, (rows, ..) each.
    """

    def __init__(self, observed: Observed, values: Sequence[Array], gradients: Sequence[Array], batch: Batch) -> None:
        self.values, self.gradients, self.batch = values, gradients, batch
        self.leaf_of = {id(p): leaf for leaf, p in zip(observed.leaves, observed.params, strict=True)}
        self.entries: dict[Tensor, list[Entry]] = {}
        for entry in observed.entries:
            self.entries.setdefault(entry.source, []).append(entry)
        # What is made of parameters, on stand-ins whose gradients nobody else sees.
        self.known = {leaf: leaf_like(p._array) for leaf, p in zip(observed.leaves, observed.params, strict=True)}
        replay([s for entry in observed.entries for s in entry.shared if s is not None], self.known)
        self.derived = [s for s in self.entries if s.op is not None]
        self._factors: dict[tuple[str, int, Callable[[Array], Array]], Array] = {}
        self._summed: dict[Entry, Array] = {}

    def of(self, parameters: Mapping[str, Tensor], whole: bool) -> dict[str, tuple[Array, Array | None]]:
        """name -> (norms (T,), the parts (T, *shape) if they are wanted whole)."""
        steps = self.batch.steps
        found: dict[str, tuple[Array, Array | None]] = {
            name: (np.zeros(steps), np.zeros((steps, *p.shape), p.dtype) if whole else None)
            for name, p in parameters.items()
        }
        leaves = {name: self.leaf_of[id(p)] for name, p in parameters.items() if id(p) in self.leaf_of}
        behind = {leaf for s in self.derived for leaf in topological([s])}
        together = {name: leaf for name, leaf in leaves.items() if leaf in behind}
        alone = [{name: leaf} for name, leaf in leaves.items() if leaf not in behind and leaf in self.entries]
        every = np.arange(self.batch.layout.steps)
        for group in (*alone, together) if self.batch.layout.rows else ():
            asked = every
            if not whole and group is not together:
                ((name, leaf),) = group.items()
                asked = self._by_rows(self.entries[leaf], found[name][0])
            for some, parts in self._parts(group, asked, self.derived if group is together else ()):
                for name, part in parts.items():
                    norms, kept = found[name]
                    norms[some] = row_norms(part.reshape(len(part), -1))
                    if kept is not None:
                        kept[some] = part
        return found

    def _by_rows(self, entries: Sequence[Entry], norms: Array) -> Array:
        """Fill in the norms of a product's parts from products of rows with rows; returns the steps left to do."""
        every = np.arange(self.batch.layout.steps)
        if len(entries) > 1 or not _is_product(entries[0]):
            return every
        i, o = entries[0].source.shape
        if self.batch.rows * (i + o) >= i * o:
            return every
        left, right = (self._per_step(kind, entries[0], rows_by_rows) for kind in (LEFT, RIGHT))
        squares = np.einsum("tbc,tbc->t", left, right)
        sizes = np.sqrt(np.einsum("tbb->tb", left) * np.einsum("tbb->tb", right)).sum(1)
        floats = np.finfo(squares.dtype)
        sure = (squares >= CANCELLED * sizes**2) & (squares > floats.tiny * 1e9) & (squares < floats.max)
        norms[:] = np.sqrt(np.where(sure, squares, 0))
        return every[~sure[: len(every)]]

    def _parts(
        self, group: Mapping[str, Tensor], steps: Array, derived: Sequence[Tensor]
    ) -> Iterator[tuple[Array, dict[str, Array]]]:
        """(some of the steps, name -> (as many, *shape)), a few at a time."""
        stride = max(1, AT_ONCE // sum((s.size for s in (*group.values(), *derived)), 1))
        for first in range(0, len(steps) if group else 0, stride):
            some = steps[first : first + stride]
            parts = {name: self._gathered(leaf, some) for name, leaf in group.items()}
            if derived:
                # Through what is derived from parameters, by its own gradients, one step at a time.
                arriving = [self._gathered(s, some) for s in derived]
                outputs, inputs = [self.known[s] for s in derived], [self.known[leaf] for leaf in group.values()]
                for k in range(len(some)):
                    seeds = [tape.wrap(a[k]) for a in arriving]
                    got = grad(outputs, inputs, seeds, retain_graph=True, allow_unused=True)
                    for part, g in zip(parts.values(), got, strict=True):
                        if g is not None:
                            part[k] += g._array
            yield some, parts

    def _gathered(self, source: Tensor, some: Array) -> Array:
        """The gradient of what is made of parameters alone, from each of some steps, (steps, *shape)."""
        total = np.zeros((len(some), *source.shape), source.dtype)
        for entry in self.entries.get(source, ()):
            total += entry.sign * self._of(entry, some)
        return total

    def _of(self, entry: Entry, some: Array) -> Array:
        if _is_product(entry):
            a, g = (self._per_step(kind, entry, as_it_is) for kind in (LEFT, RIGHT))
            return np.matmul(a[some].transpose(0, 2, 1), g[some])
        if entry not in self._summed:
            elementwise = entry.op.code >= 0 or entry.op is OPS["broadcast_to"]
            self._summed[entry] = self._elementwise(entry) if elementwise else self._step_by_step(entry)
        return self._summed[entry][some]

    def _per_step(self, kind: str, entry: Entry, form: Callable[[Array], Array]) -> Array:
        """A form of the factors of products a @ W, over time: (T, B, ..), zeros where rows have ended.

        kind: LEFT for a, which products by several parameters share, RIGHT for dL/d(a @ W), which sums share.
        """
        number = entry.operands[0] if kind == LEFT else entry.nudge
        assert number is not None
        key = (kind, number, form)
        if key not in self._factors:
            rows = (self.values if kind == LEFT else self.gradients)[number]
            self._factors[key] = form(self.batch.unpack(tape.wrap(rows))._array)
        return self._factors[key]

    def _elementwise(self, entry: Entry) -> Array:
        """The parts of an op that gives each row what its own parameter would: each row's share, then their sum."""
        g = self.gradients[entry.nudge]
        if entry.op in SUMS or entry.op is OPS["broadcast_to"]:
            share = -g if entry.op.name == "sub" and entry.at == 1 else g
        else:
            share = self._pulled(entry, np.broadcast_to(self.known[entry.source]._array, g.shape), slice(None))
        shape = entry.source.shape
        lined = (1,) * (entry.ndim - len(shape)) + shape
        repeated = (1, *(k + 1 for k in range(1, entry.ndim) if lined[k] == 1))  # behind time and rows
        found: Array = self.batch.unpack(tape.wrap(share))._array.sum(repeated)
        return found.reshape(-1, *shape)

    def _step_by_step(self, entry: Entry) -> Array:
        """The parts of any op, by its rule on the rows of one step after another."""
        own, layout = self.known[entry.source]._array, self.batch.layout
        rows = [slice(start, start + n) for start, n in zip(layout.offset, layout.count, strict=True)]
        return np.array([self._pulled(entry, own, cut) for cut in rows])

    def _pulled(self, entry: Entry, own: Array, rows: slice) -> Array:
        """The gradient of one input of an op, by the op's rule, on some rows. own: that input."""
        asked, g = leaf_like(own), self.gradients[entry.nudge][rows]
        inputs: list[Tensor] = []
        for number, s in zip(entry.operands, entry.shared, strict=True):
            if s is None:
                assert number is not None
                inputs.append(tape.wrap(self.values[number][rows]))
            else:
                inputs.append(self.known[s].detach())
        inputs[entry.at] = asked
        result = tape.apply(entry.op, tuple(inputs), resized(entry.attrs, len(g)))
        found = grad(result, [asked], tape.wrap(g), allow_unused=True)[0]
        return np.zeros(own.shape, own.dtype) if found is None else found._array


LEFT, RIGHT = "a", "dL/d(a @ W)"


def _is_product(entry: Entry) -> bool:
    return entry.op is OPS["matmul"] and entry.at == 1 and entry.ndim == 2


def as_it_is(a: Array) -> Array:
    """a."""
    return a


def rows_by_rows(a: Array) -> Array:
    """The products of each step's rows with one another, (T, B, B)."""
    return np.matmul(a, a.transpose(0, 2, 1))


def leaf_like(array: Array) -> Tensor:
    """A leaf on this array, whose gradient is asked for."""
    leaf = tape.wrap(array)
    leaf.requires_grad = True
    return leaf
