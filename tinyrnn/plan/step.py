"""A step as a program on shapes: recording it, walking it, replaying it.

A `Step` is a tape of abstract tensors. Its leaves are per-row values read from sequences, states carried from step to
step, and parameters; its results are the next states, per-row values wanted for the whole sequence (`emits`), and
values summed over all rows and steps (`totals`, the gradients of parameters). The number of rows is not known when it
is recorded: `ROWS` stands for it, and rows do not depend on one another. Therefore what a step does with a few rows can
be done with the rows of all steps at once: that is how work leaves the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from tinyrnn import backend
from tinyrnn._core import tape
from tinyrnn._core.tape import Abstract, Tensor
from tinyrnn.ops.arrays import MATMUL, TRANSPOSE

ROWS = 1_000_003
"""The number of rows of an abstract step: a number that no feature size will ever be."""

# How much of the loop a value depends on.
PARAMETER, INPUT, STATE = 0, 1, 2


@dataclass(frozen=True)
class Step:
    """seqs, states, params: abstract leaves. nexts, emits, totals: results. nexts follow the order of states.

    totals have no rows; in a loop's body they are the values with rows whose sums over all steps are wanted.
    """

    seqs: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    params: tuple[Tensor, ...]
    nexts: tuple[Tensor, ...]
    emits: tuple[Tensor, ...] = ()
    totals: tuple[Tensor, ...] = ()

    @property
    def results(self) -> tuple[Tensor, ...]:
        return (*self.nexts, *self.emits, *self.totals)

    def with_results(self, results: Sequence[Tensor]) -> Step:
        """The same leaves with other results, in the order of `results`."""
        n, m = len(self.nexts), len(self.nexts) + len(self.emits)
        return Step(self.seqs, self.states, self.params, tuple(results[:n]), tuple(results[n:m]), tuple(results[m:]))


def is_rowed(t: Tensor) -> bool:
    """Whether t has a row for each example."""
    return t.shape[:1] == (ROWS,)


def width(t: Tensor) -> int:
    """Columns of a rowed value, its other axes laid flat."""
    n = 1
    for d in t.shape[1:]:
        n *= d
    return n


def is_abstract(t: Tensor) -> bool:
    return isinstance(t._array, Abstract)


def is_number(t: Tensor) -> bool:
    """Whether t is a constant number of the step itself."""
    return t.op is None and t.size == 1 and not t.requires_grad and not is_abstract(t)


def is_repeated(t: Tensor) -> bool:
    """Whether t only repeats its input."""
    return t.op is not None and t.op.name == "broadcast_to"


def named(new: Tensor, old: Tensor) -> Tensor:
    """`new`, called as the value that it stands for was, if it has no name."""
    if new.name is None and old.name is not None:
        new.name = old.name
    return new


def topological(results: Iterable[Tensor], stop: Iterable[Tensor] = ()) -> list[Tensor]:
    """What the results are computed from, inputs before results; nothing behind a tensor of `stop`."""
    ends = set(stop)
    found: set[Tensor] = set()
    stack = list(results)
    while stack:
        t = stack.pop()
        if t in found:
            continue
        found.add(t)
        if t.inputs is not None and t not in ends:
            stack.extend(t.inputs)
    return sorted(found, key=lambda t: t.order)


def levels(step: Step) -> dict[Tensor, int]:
    """For every value of the step: PARAMETER, INPUT or STATE, the most that it depends on."""
    level: dict[Tensor, int] = dict.fromkeys(step.seqs, INPUT)
    level.update(dict.fromkeys(step.states, STATE))
    for t in topological(step.results):
        if t not in level:
            level[t] = max((level[s] for s in t.inputs or ()), default=PARAMETER)
            if level[t] == PARAMETER and is_rowed(t) and not is_repeated(t):
                level[t] = INPUT  # the same for every row, but computed as if it were not
    return level


def consumers(results: Sequence[Tensor], nodes: Iterable[Tensor]) -> dict[Tensor, list[Tensor | None]]:
    """For every node, who reads it; None stands for being a result."""
    readers: dict[Tensor, list[Tensor | None]] = {t: [] for t in nodes}
    for t in readers:
        for s in t.inputs or ():
            if s in readers:
                readers[s].append(t)
    for t in results:
        if t in readers:
            readers[t].append(None)
    return readers


def resized(attr: Any, rows: int) -> Any:
    """A static attribute with ROWS, and its multiples, replaced by a number of rows."""
    if isinstance(attr, tuple):
        return tuple(resized(a, rows) for a in attr)
    if isinstance(attr, slice):
        return slice(resized(attr.start, rows), resized(attr.stop, rows), attr.step)
    return attr // ROWS * rows if type(attr) is int and attr and attr % ROWS == 0 else attr


def replay(results: Sequence[Tensor], known: dict[Tensor, Tensor], rows: int = ROWS) -> list[Tensor]:
    """Apply the ops that lead to `results` again, starting from `known`, which is filled with all that is computed."""
    for t in topological([r for r in results if r not in known], known):
        if t in known:
            continue
        if t.op is None:
            known[t] = t
            continue
        attrs = t.attrs if rows == ROWS else tuple(resized(a, rows) for a in t.attrs)
        known[t] = named(tape.apply(t.op, tuple(known[s] for s in t.inputs), attrs), t)
    return [known[r] for r in results]


class Script:
    """A step as lists that run without looking anything up: each value has a slot, each op the slots of its inputs."""

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self.slots: list[Tensor | None] = []
        self._slot: dict[Tensor, int] = {}
        self.leaves(leaves)

    def slot(self, t: Tensor) -> int:
        return self._slot[t]

    def leaves(self, tensors: Sequence[Tensor]) -> slice:
        """Slots, side by side, for values that come from outside."""
        start = len(self.slots)
        for t in tensors:
            self._slot[t] = len(self.slots)
            self.slots.append(None)
        return slice(start, len(self.slots))

    def part(self, results: Sequence[Tensor]) -> Part:
        """What leads from the slots there are to these results."""
        actions = []
        for t in topological([r for r in results if r not in self._slot], self._slot):
            if t in self._slot:
                continue
            self._slot[t] = len(self.slots)
            self.slots.append(t if t.op is None else None)
            if t.op is not None:
                inputs = tuple(self._slot[s] for s in t.inputs)
                actions.append((t.op, inputs, t.attrs, resized(t.attrs, ROWS - 1) != t.attrs, self._slot[t]))
        return Part(_joined(actions), [self._slot[r] for r in results])


Action: TypeAlias = tuple[Any, tuple[Any, ...], tuple[Any, ...], bool, int]


def _joined(actions: list[Action]) -> list[Action]:
    """The actions with products of transposed inputs that have their right side in common made together.

    They are what is deferred: the gradients of the weights behind several sequences from one sequence of gradients.
    """
    made = {out for *_, out in actions}
    turned = {a[-1]: a for a in actions if a[0] is TRANSPOSE and a[1][0] not in made}
    sides: dict[int, list[Action]] = {}
    for action in actions:
        op, inputs, *_ = action
        if op is MATMUL and inputs[0] in turned:
            sides.setdefault(inputs[1], []).append(action)
    joined = {several[0][-1]: several for several in sides.values() if len(several) > 1}
    if not joined:
        return actions
    gone = {a[-1] for several in joined.values() for a in several} | turned.keys()
    found = [*turned.values()]
    for action in actions:
        if several := joined.get(action[-1]):
            found.append((None, tuple(several), (), False, several[0][-1]))
        elif action[-1] not in gone:
            found.append(action)
    return found


@dataclass(frozen=True)
class Part:
    """actions: (op, slots of its inputs, its attributes, whether ROWS is among them, slot of its result).

    Where the op is None, instead of slots there are products, actions themselves, that are made together.
    """

    actions: list[Action]
    results: list[int]

    def cut(self, later: range) -> tuple[Part, Part]:
        """(what can be made without the values in these slots, and the rest, with the results)."""
        missing, first, rest, made = {*later}, [], [], []
        for action in self.actions:
            op, inputs, _, sized, _ = action
            single = [action] if op is not None else inputs
            if sized or any(not missing.isdisjoint(read) for _, read, *_ in single):
                missing.update(out for *_, out in single)
                rest.append(action)
            else:
                made += [out for *_, out in single]
                first.append(action)
        return Part(first, made), Part(rest, self.results)

    def run(self, slots: list[Any], rows: int) -> list[Tensor]:
        """Apply the ops with this many rows; fills slots."""
        for op, inputs, attrs, sized, out in self.actions:
            if op is None:
                _multiply(slots, inputs)
            else:
                slots[out] = tape.apply_at(op, slots, inputs, resized(attrs, rows) if sized else attrs)
        return tape.chosen(slots, self.results)


def _multiply(slots: list[Any], products: Sequence[Action]) -> None:
    """Make products that have their right side in common: by one kernel where nothing records them."""
    lefts, right = [slots[inputs[0]] for _, inputs, *_ in products], slots[products[0][1][1]]
    device = backend.of(right._array)
    if tape.mode() == tape.OFF and device is backend.cpu:
        found = [tape.wrap(a) for a in device.products([t._array for t in lefts], right._array)]
    else:
        found = [tape.apply(MATMUL, (t, right), ()) for t in lefts]
    for (*_, out), t in zip(products, found, strict=True):
        slots[out] = t
