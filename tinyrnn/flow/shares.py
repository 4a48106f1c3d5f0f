"""Each step's part of each parameter's gradient: the terms of the sum that backpropagation through time adds up.

Where a parameter meets the rows, the gradient of what they give is at hand for every step, and the op's own rule says
what the parameter's share of it is. Products are multiplied step by step instead of once for the whole sequence; where
only their norms are wanted, products of rows with rows do, of which there are fewer:

    |Σ_b a_b g_bᵀ|² = Σ_bc (a_b · a_c) (g_b · g_c)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core import tape
from tinyrnn._core.tape import Tensor
from tinyrnn.autograd import grad
from tinyrnn.flow.norms import row_norms
from tinyrnn.flow.observed import Entry, Observed
from tinyrnn.flow.runs import over_time
from tinyrnn.plan import Batch
from tinyrnn.plan.columns import OPS, SUMS
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
        self._grams: dict[tuple[str, int | None], Array] = {}
        self._per_row: dict[Entry, Array] = {}

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
        """Fill in the norms of parts from products of rows with rows, if these are fewer; returns the steps left to do.

        A bias has the same ones with every row: its norms come from those of g alone, where a product has made them.
        """
        every, entry = np.arange(self.batch.layout.steps), entries[0]
        sides: tuple[str, ...] = (LEFT, RIGHT)
        if len(entries) > 1:
            return every
        if _is_product(entry):
            i, o = entry.source.shape
            if self.batch.rows * (i + o) >= i * o:
                return every
            left, right = (self._gram(side, entry) for side in sides)
            squares = np.einsum("tbc,tbc->t", left, right)
            sizes = np.sqrt(np.einsum("tbb->tb", left) * np.einsum("tbb->tb", right)).sum(1)
        elif _is_bias(entry) and (RIGHT, entry.nudge) in self._grams:
            right, sides = self._gram(RIGHT, entry), (RIGHT,)
            squares, sizes = right.sum((1, 2)), np.sqrt(np.einsum("tbb->tb", right)).sum(1)
        else:
            return every
        floats = np.finfo(squares.dtype)
        sure = (squares >= CANCELLED * sizes**2) & (squares > floats.tiny * 1e9) & (squares < floats.max)
        norms[:] = np.sqrt(np.where(sure, squares, 0))
        unsure = every[~sure[: len(every)]]
        factors = [self._rows(side, entry) for side in sides]
        return unsure[[all(rows[cut].any() for rows in factors) for cut in self._cuts(unsure)]]  # 0 is right for zeros

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
            return self._products(entry, some)
        if entry.op.code >= 0 or entry.op is OPS["broadcast_to"]:
            return self._sums(entry, some)
        own = self.known[entry.source]._array
        return np.array([self._pulled(entry, own, cut) for cut in self._cuts(some)])  # any op has a rule

    def _products(self, entry: Entry, some: Array) -> Array:
        """aᵀ g of some steps, for a @ W."""
        a, g = self._rows(LEFT, entry), self._rows(RIGHT, entry)
        if self.batch.layout.uniform:
            left, right = (over_time(self.batch, rows)[some] for rows in (a, g))
            return np.matmul(left.transpose(0, 2, 1), right)
        found = np.empty((len(some), a.shape[1], g.shape[1]), a.dtype)
        for k, cut in enumerate(self._cuts(some)):
            np.matmul(a[cut].T, g[cut], out=found[k])
        return found

    def _sums(self, entry: Entry, some: Array) -> Array:
        """For an op that gives each row what a parameter of its own would: the sums of these rows' gradients."""
        if entry not in self._per_row:
            self._per_row[entry] = self._elementwise(entry)
        rows = self._per_row[entry]
        if self.batch.layout.uniform:
            steps = over_time(self.batch, rows)[some].sum(1)
        else:
            steps = np.array([rows[cut].sum(0) for cut in self._cuts(some)])
        shape = entry.source.shape
        lined = (1,) * (entry.ndim - len(shape)) + shape
        repeated = tuple(k for k in range(1, entry.ndim) if lined[k] == 1)
        return np.ascontiguousarray(steps.sum(repeated)).reshape(len(some), *shape)

    def _cuts(self, some: Array) -> list[slice]:
        """Where the rows of some steps lie."""
        starts, counts = self.batch.layout.offset[some], self.batch.layout.count[some]
        return [slice(start, start + count) for start, count in zip(starts.tolist(), counts.tolist(), strict=True)]

    def _rows(self, side: str, entry: Entry) -> Array:
        """Of a product a @ W: a if it is the LEFT, dL/d(a @ W) if the RIGHT."""
        if side == RIGHT:
            return self.gradients[entry.nudge]
        number = entry.operands[0]
        assert number is not None
        return self.values[number]

    def _gram(self, side: str, entry: Entry) -> Array:
        """The products of each step's rows with one another, (T, B, B); several parameters share those of a side."""
        key = (side, entry.operands[0] if side == LEFT else entry.nudge)
        if key not in self._grams:
            a = over_time(self.batch, self._rows(side, entry))
            self._grams[key] = np.matmul(a, a.transpose(0, 2, 1))
        return self._grams[key]

    def _elementwise(self, entry: Entry) -> Array:
        """What each row adds, (rows, ..)."""
        g = self.gradients[entry.nudge]
        if entry.op in SUMS or entry.op is OPS["broadcast_to"]:
            return -g if entry.op.name == "sub" and entry.at == 1 else g
        return self._pulled(entry, np.broadcast_to(self.known[entry.source]._array, g.shape), slice(None))

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


LEFT, RIGHT = "left", "right"


def _is_product(entry: Entry) -> bool:
    return entry.op is OPS["matmul"] and entry.at == 1 and entry.ndim == 2


def _is_bias(entry: Entry) -> bool:
    return entry.op in SUMS and entry.ndim == 2 and entry.source.ndim == 1 and entry.source.size > 1


def leaf_like(array: Array) -> Tensor:
    """A leaf on this array, whose gradient is asked for."""
    leaf = tape.wrap(array)
    leaf.requires_grad = True
    return leaf
