"""`tr.explain`: a cell's plan, made legible.

Everything is read from the plan that `tr.scan` runs: the recorded step, what was hoisted out of it, the program of the
loop, and the reverse that a loss of the outputs leads to.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tinyrnn._core import kernels
from tinyrnn._core.tape import Tape, Tensor, abstract
from tinyrnn.autograd import recording
from tinyrnn.checks import as_size, type_name
from tinyrnn.module import Cell
from tinyrnn.ops import add
from tinyrnn.plan import plan_of
from tinyrnn.plan.columns import OPS
from tinyrnn.plan.costs import floats_moved, flops_of, instruction_flops, is_free, listing, runs_of
from tinyrnn.plan.explanation import Centred, Explanation, Group, Kept, Merged, Pass, Product, Work
from tinyrnn.plan.frontier import source_of
from tinyrnn.plan.instructions import columns_of, columns_written, sources
from tinyrnn.plan.notation import Notation, equations
from tinyrnn.plan.program import BufferSpec, Program
from tinyrnn.plan.rewrite import less_mean
from tinyrnn.plan.run import Body, Plan, Reverse
from tinyrnn.plan.step import ROWS, is_rowed, topological, width


def explain(cell: Cell, batch: int | None = None, *, widths: Sequence[int] | None = None) -> Explanation:
    """Print how `tr.scan` runs a cell, and return it as an object whose attributes say the same.

    The cell's equations as they were recorded (`tr.probe` names values), and for the forward pass and its reverse: what
    was hoisted out of the loop, products and fused groups in it, what sank behind it or was deferred, what is kept or
    computed again, and operations and bytes of a step. The reverse is that of a loss of the outputs, for the gradients
    of parameters and initial states.

    batch   rows to count for; None: one
    widths  of the time inputs, for a cell that takes several: (input_size, ..)

    The object's repr is one line, so that a notebook shows the text once; print(explanation) shows it again. Raises
    what `tr.scan` raises for a step that it can not compile.
    """
    explanation = explanation_of(cell, batch, widths=widths)
    print(explanation)
    return explanation


def explanation_of(cell: Cell, batch: int | None = None, *, widths: Sequence[int] | None = None) -> Explanation:
    """What `explain` prints."""
    if not isinstance(cell, Cell):
        hint = "; make one of the class first" if isinstance(cell, type) else ""
        raise TypeError(f"cell must be a tr.Cell, got {cell if isinstance(cell, type) else type_name(cell)}{hint}")
    rows = None if batch is None else as_size("batch", batch)
    plan, params = plan_of(cell, _widths(cell, widths), rows or 1, cell.device)
    names = {id(p): name for name, p in cell.named_parameters()}
    with recording():
        forward = _Forward(plan, [names.get(id(p)) or p.name for p in params])
        reverse = _Reverse(plan, forward)
    return Explanation(
        f"{type(cell).__name__}({cell.extra_repr()})",
        str(cell.dtype),
        width(plan.step.emits[0]),
        rows,
        _recorded(plan, forward.notation),
        forward.found(),
        reverse.found(),
    )


def _widths(cell: Cell, widths: Sequence[int] | None) -> tuple[int, ...]:
    """Of the time inputs: what the caller gives, and what the cell draws."""
    drawn = tuple(t.shape[2] for t in cell.draws(0, 0))  # no numbers, so the cell's generator stays where it is
    if widths is not None:
        if not isinstance(widths, (tuple, list)):
            raise TypeError(f"widths must be a tuple of ints, ({cell.input_size}, ..), got {widths!r}")
        found = tuple(as_size("every number in widths", n) for n in widths)
        if not found or found[0] != cell.input_size:
            raise ValueError(f"widths must begin with the cell's input_size, {cell.input_size}, got {tuple(widths)}")
        low, high = cell._step_takes()
        if not low <= len(found) + len(drawn) + len(cell.states) <= high:
            needs = f"{low - len(drawn) - len(cell.states)}{'' if low == high else ' or more'}"
            raise ValueError(
                f"widths must be {needs}, one for each time input of {type(cell).__name__}.step, got {widths}"
            )
        return found + drawn
    takes = list(inspect.signature(cell.step).parameters.values())
    inputs = len(takes) - len(cell.states) - len(drawn)
    if inputs > 1 and all(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in takes):
        raise ValueError(
            f"{type(cell).__name__}.step takes {inputs} time inputs: say how wide they are, "
            f"tr.explain(cell, widths=({cell.input_size}, ..))"
        )
    return (cell.input_size, *drawn)


# -- finding -----------------------------------------------------------------------------------------------------------


def _recorded(plan: Plan, names: Notation) -> tuple[str, ...]:
    """The equations of the step before it was rewritten."""
    step, notation = plan.recorded, Notation()
    for t in (*step.seqs, *step.states, *step.params):
        notation.name(t, names.names[t])
    _name_nexts(notation, step.nexts, [f"{s.name}'" for s in step.states])
    values = topological(step.nexts)
    readers = dict.fromkeys(values, 0)
    for t in values:
        for s in t.inputs or ():
            readers[s] += 1
    found = equations(notation, values, lambda t: readers[t] > 1 and not is_free(t))
    return (*found.values(), *_aliases(notation, step.nexts, [f"{s.name}'" for s in step.states]))


def _name_nexts(notation: Notation, nexts: Sequence[Tensor], names: Sequence[str]) -> None:
    for t, name in zip(nexts, names, strict=True):
        if t.op is not None and t not in notation.names:
            notation.name(t, name)


def _aliases(notation: Notation, nexts: Sequence[Tensor], names: Sequence[str]) -> list[str]:
    """Equations for the next states that are another value, by another name."""
    pairs = zip(nexts, names, strict=True)
    return [f"{name} = {notation.of(t)}" for t, name in pairs if notation.names.get(t) != name]


class _Found:
    """One pass: names for its values, and what can be read off its plan."""

    def __init__(self, plan: Plan, notation: Notation) -> None:
        self.plan, self.notation = plan, notation
        self.item = plan.step.states[0].dtype.itemsize

    def name_hoisted(self) -> None:
        """Names for what comes before the loop, and the work it takes."""
        plan, notation = self.plan, self.notation
        self.name_merged()
        unnamed = [t for t in plan.hoisted if t not in notation.names and not t.name and source_of(t) is t]
        for t in plan.hoisted:
            if t in unnamed and len(unnamed) > 1:
                notation.number(t, "u")
            elif t not in notation.names and source_of(t) is t:
                notation.name(t, t.name or "u")
        ahead = [t for t in topological(plan.hoisted) if is_rowed(t)]
        self.hoisted = self.work(ahead)

    def work(self, values: Sequence[Tensor]) -> tuple[Work, ...]:
        """The equations of `values`, with what they cost."""
        read = dict.fromkeys(values, 0)
        for t in values:
            for s in t.inputs or ():
                if s in read:
                    read[s] += 1
        found = equations(self.notation, values, lambda t: read[t] > 1 and not is_free(t))
        return tuple(self.cost(t, text) for t, text in found.items() if not is_free(t))

    def cost(self, t: Tensor, equation: str) -> Work:
        flops = moved = 0
        shape = ""
        stack, seen = [t], {t}
        while stack:
            s = stack.pop()
            flops, moved = flops + flops_of(s), moved + self.item * floats_moved(s)
            if s.op is OPS["matmul"] and flops_of(s):
                a, b = s.inputs
                shape = " x ".join("TB" if n == ROWS else str(n) for n in (*a.shape, b.shape[-1]))
            for i in s.inputs or ():
                if i.op is not None and i not in self.notation.names and i not in seen:
                    seen.add(i)
                    stack.append(i)
        return Work(equation, flops, moved, shape)

    def enter(self, body: Body, nexts: Sequence[str]) -> None:
        """Names for the loop's leaves and results."""
        plan, notation, step = self.plan, self.notation, body.step
        pairs = zip(
            (*plan.hoisted, *plan.weights, *plan.step.states), (*step.seqs, *step.params, *step.states), strict=True
        )
        for outer, inner in pairs:
            notation.names[inner] = notation.of(outer)
            notation.slices[inner] = notation.slices.get(outer, {})
        _name_nexts(notation, body.step.nexts, nexts)

    def loop(self, body: Body, program: Program, keep: Sequence[Tensor], nexts: Sequence[str]) -> None:
        """The phases of a program."""
        runs = list(runs_of(program))
        values = [t for t, _ in program.made]
        ends = [n for _, n in program.made]
        # The run in which a value is made; one that takes no instruction belongs where the last one was.
        place: dict[Tensor, int] = {}
        runs_nothing = set()
        for t, begin, end in zip(values, [0, *ends], ends, strict=False):
            if begin == end and t.op is not add:  # else it is a bias, and the product before adds it
                runs_nothing.add(t)
            at = max(begin - (begin == end), 0)
            place[t] = next((k for k, (_, start, stop) in enumerate(runs) if start <= at < stop), 0)
        readers: dict[Tensor, list[int | None]] = {t: [] for t in values}
        for t in reversed(values):
            for s in t.inputs or ():
                if s in readers:
                    readers[s] += readers[t] if t in runs_nothing else [place[t]]
        kept = {*body.one_by_one(keep), *body.step.totals}

        def needs_name(t: Tensor) -> bool:
            if t in kept:
                return not is_free(t)
            return t not in runs_nothing and (len(readers[t]) > 1 or any(k != place[t] for k in readers[t]))

        found = equations(self.notation, values, needs_name)
        lines: dict[int, list[str]] = {}
        for t, text in found.items():
            lines.setdefault(place[t], []).append(text)
        if runs:
            lines.setdefault(len(runs) - 1, []).extend(_aliases(self.notation, body.step.nexts, nexts))
        phases: list[Product | Group] = []
        for k, (is_product, start, stop) in enumerate(runs):
            here = program.instructions[start:stop]
            if is_product:
                [i] = here
                has_bias = bool(i["add"] & kernels.BIAS)
                phases.append(Product("; ".join(lines.get(k, [])), i["inner"], i["width"], has_bias))
            else:
                phases.append(Group(tuple(lines.get(k, [])), len(here), sum(map(instruction_flops, here))))
        self.phases = tuple(phases)
        self.program = program

    def name_merged(self) -> None:
        """What becomes of parameters before the loop. A name that is made of many others is a short one of its own."""
        found, centred = {}, []
        for t in topological((*self.plan.hoisted, *self.plan.weights)):
            if not is_rowed(t) and (whole := less_mean(t)) is not None:
                of = self.notation.of(whole)
                centred.append(Centred(self.notation.name(t, t.name or f"{of}_centred"), of, t.shape))
            if t.op is OPS["concat"] and not is_rowed(t):
                parts = tuple(map(self.notation.of, t.inputs or ()))
                if len(self.notation.of(t)) > 24:
                    self.notation.number(t, "M")
                found[self.notation.of(t)] = Merged(self.notation.of(t), parts, t.shape)
        self.merged, self.centred = tuple(found.values()), tuple(centred)

    def row_bytes(self) -> int:
        """What a row of the loop reads and writes of its sequences: every column once."""
        touched: set[tuple[int, int]] = set()
        for i in self.program.instructions:
            accesses = [(i["dst"], columns_written(i)), *((i[n], columns_of(i, k)) for k, n in enumerate(sources(i)))]
            for b, columns in accesses:
                if self._is_moved(buffer := self.program.buffers[b]):
                    touched.update((b, c) for c in range(columns.start, min(columns.stop, buffer.columns)))
        return len(touched) * self.item

    def _is_moved(self, buffer: BufferSpec) -> bool:
        """Whether a buffer is a sequence, but for the states before a step: those were written just now."""
        return buffer.place == "sequence" and buffer.source is not None and buffer.source[0] != "before"

    def weight_bytes(self) -> int:
        return sum(w.size for w in self.program.weights) * self.item

    def kept_buffers(self, keep: Sequence[Tensor]) -> list[Kept]:
        """The sequences that the loop fills, each called by what it holds."""
        whole: dict[int, str] = {}
        parts: dict[int, list[str]] = {}
        reused = []
        for t, ((kind, number), _, columns) in zip(keep, self.program.keeps, strict=True):
            side_by_side = self.plan.body.one_by_one([t])
            if kind == "seq" or len(side_by_side) > 1:
                reused += [Kept(self.notation.of(part), width(part), "loop") for part in side_by_side]
                continue
            name = self.notation.of(t)
            if columns == self.program.kept_columns[number]:
                whole[number] = name
            parts.setdefault(number, []).append(name)
        own = [
            Kept(whole.get(k) or ", ".join(parts[k]), n, "loop")
            for k, n in enumerate(self.program.kept_columns)
            if k in parts
        ]
        return [*reused, *own]


class _Forward(_Found):
    def __init__(self, plan: Plan, params: Sequence[str | None]) -> None:
        super().__init__(plan, Notation())
        step, notation = plan.step, self.notation
        for t, name in zip(step.params, params, strict=True):
            if name is not None:
                notation.name(t, name)
        for t in (*step.seqs, *step.states):
            notation.name(t, str(t.name))
        for t in step.params:
            if t not in notation.names:
                notation.number(t, "k")
        self.name_hoisted()
        body = plan.body
        self.keep = body.emits_and_kept
        nexts = [f"{s.name}'" for s in step.states]
        self.enter(body, nexts)
        self.loop(body, body.program(body.everywhere, self.keep), self.keep, nexts)
        # What the outputs are made of behind the loop.
        for outer, inner in zip(plan.read_values, body.step.emits, strict=True):
            notation.names[outer] = notation.of(inner)
        for outer, inner in zip(step.nexts, body.step.nexts, strict=True):
            notation.names.setdefault(outer, notation.of(inner))
        made = {*step.states, *step.nexts, *plan.read_values, *plan.hoisted}
        behind = [t for t in topological(step.emits, made) if t not in made and is_rowed(t)]
        for t in step.emits:
            if t not in notation.names:
                notation.name(t, "y")
        self.sunk = self.work(behind)

    def found(self) -> Pass:
        step = self.plan.body.step
        states = [Kept(f"{s.name}'", width(s), "state") for s in step.states]
        ahead = [t for t in topological(self.plan.hoisted) if is_rowed(t) and not is_free(t)]
        held = [Kept(self.notation.of(t), width(t), "hoisted") for t in ahead if t not in self.plan.dropped]
        return Pass(
            self.merged, self.hoisted, self.phases, self.sunk, (), (*states, *self.kept_buffers(self.keep), *held),
            (), (), listing(self.program), self.row_bytes(), self.weight_bytes(), centred=self.centred,
        )  # fmt: skip


class _Reverse(_Found):
    """The reverse that a loss of the outputs leads to."""

    def __init__(self, plan: Plan, forward: _Forward) -> None:
        self.forward, self.outer = forward, plan
        body, step = plan.body, plan.body.step
        learned = {t for t in plan.step.params if t.requires_grad}
        depends = [t.requires_grad and bool(learned & {*topological([t])}) for t in (*plan.hoisted, *plan.weights)]
        n = len(plan.hoisted)
        arrive = [k in (*plan.read_before, *plan.read_after) for k in range(len(step.states))]
        values = [t in step.emits for t in forward.keep]
        reverse = Reverse(body, forward.keep, arrive, values, depends[:n], depends[n:])
        # The gradients of inputs that the loop multiplies, if they take no more of the loop than is there.
        inputs = []
        for k, t in enumerate(plan.hoisted):
            if t in plan.step.seqs:
                wants = [*depends[:k], True, *depends[k + 1 : n]]
                other = Reverse(body, forward.keep, arrive, values, wants, depends[n:])
                if len(other.plan.read_values) == len(reverse.plan.read_values):
                    reverse, depends = other, [*wants, *depends[n:]]
                    inputs.append(f"d{forward.notation.of(t)}")
        self.reverse = reverse
        super().__init__(reverse.plan, Notation())
        notation, known = self.notation, forward.notation
        names = [
            *(known.of(step.seqs[k]) for k in reverse.seqs),
            *(known.of(step.states[k]) for k in reverse.before),
            *(f"{step.states[k].name}'" for k in reverse.after),
        ]
        inner = reverse.plan.step
        reads = [*names]
        for k, leaf in zip(reverse.kept, inner.seqs[len(names) :], strict=False):
            parts = body.one_by_one([forward.keep[k]])
            side_by_side = [known.of(t) for t in parts]
            reads += side_by_side
            ends = np.cumsum([0, *map(width, parts)]).tolist()
            notation.slices[leaf] = dict(zip(pairwise(ends), side_by_side, strict=True))
            names.append(side_by_side[0] if len(parts) == 1 else f"[{', '.join(side_by_side)}]")
        self.reads = tuple(reads)
        arriving = ["dys"] * (len(inner.seqs) - len(names))
        for t, name in zip(inner.seqs, [*names, *arriving], strict=True):
            notation.name(t, name)
        for t, w in zip(inner.params, step.params, strict=True):
            notation.names[t] = known.of(w)
        for t, s in zip(inner.states, step.states, strict=True):
            notation.name(t, f"d{s.name}'")
        self.name_hoisted()
        nexts = [f"d{s.name}" for s in step.states]
        self.enter(reverse.plan.body, nexts)
        # The gradients of what was hoisted forward, and of the weights.
        seqs = [t for t, want in zip(plan.hoisted, depends[:n], strict=True) if want]
        weights = [t for t, want in zip(plan.weights, depends[n:], strict=True) if want]
        emitted = dict(zip(inner.emits, [f"d{known.of(t)}" for t in seqs], strict=True))
        loop = reverse.plan.body
        for outer, value in zip(reverse.plan.read_values, loop.step.emits, strict=True):
            if outer in emitted and value not in notation.names:
                notation.name(value, emitted[outer])
        self.loop(loop, loop.program(reverse.plan.records, loop.step.emits), loop.step.emits, nexts)
        results = zip(
            (*reverse.plan.read_values, *reverse.plan.read_sums), (*loop.step.emits, *loop.step.totals), strict=True
        )
        for outer, value in results:
            notation.names[outer] = notation.of(value)
        for outer, value in zip(inner.nexts, loop.step.nexts, strict=True):
            notation.names.setdefault(outer, notation.of(value))
        added = {*reverse.plan.read_sums}
        made = {*inner.states, *inner.nexts, *reverse.plan.read_values, *added, *reverse.plan.hoisted, *inner.seqs}
        for t, name in (*emitted.items(), *zip(inner.totals, [f"d{known.of(w)}" for w in weights], strict=True)):
            if t not in notation.names:
                notation.name(t, name)
        behind = [t for t in topological((*inner.emits, *inner.totals), made) if t not in made]
        done = self.work([t for t in behind if any(map(is_rowed, topological([t])))])
        sums = {notation.names[t]: added.isdisjoint(topological([t], made)) for t in inner.totals}
        named = [(w, sums.get(w.equation.split(" = ")[0])) for w in done]
        self.deferred = [w for w, deferred in named if deferred]
        self.summed = tuple(Work(w.equation, 0, 0) for w, deferred in named if deferred is False)
        rest = [w for w, deferred in named if deferred is None]
        self.optional = tuple(w for w in rest if w.equation.split(" = ")[0] in inputs)
        self.sunk = tuple(w for w in rest if w not in self.optional)
        self._before_the_loop(seqs, [notation.of(t) for t in inner.emits])

    def _before_the_loop(self, seqs: Sequence[Tensor], names: Sequence[str]) -> None:
        """The gradients that flow on through what was hoisted forward."""
        plan, notation = self.outer, Notation()
        notation.names.update(self.forward.notation.names)
        notation.taken.update(self.forward.notation.taken)
        ahead = [t for t in topological(seqs) if is_rowed(t) and t.op is not None]
        learned = {t for t in plan.step.params if t.requires_grad}
        inputs = {s for t in ahead for s in t.inputs or () if not is_rowed(s) and learned & {*topological([s])}}
        targets = [*sorted(inputs, key=lambda t: t.order), *plan.step.seqs]
        if not ahead:
            return
        leaves = [abstract(t.shape, t.dtype, None, True) for t in seqs]
        for leaf, name in zip(leaves, names, strict=True):
            notation.names[leaf] = name
        _, found = Tape(seqs).reverse(leaves, targets, True, True)
        for t, g in zip(targets, found, strict=True):
            if g is None or g.op is None:
                continue
            if g not in notation.names:
                notation.name(g, f"d{notation.of(t)}")
            work = self._flow(g, notation)
            if t in plan.step.seqs:
                self.optional += (work,)
            else:
                self.deferred.append(work)

    def _flow(self, g: Tensor, notation: Notation) -> Work:
        mine, self.notation = self.notation, notation
        try:
            return self.cost(g, notation.equation(g))
        finally:
            self.notation = mine

    def found(self) -> Pass:
        body, forward = self.outer.body, self.forward
        return Pass(
            self.merged, self.hoisted, self.phases, self.sunk, tuple(self.deferred),
            tuple(self.kept_buffers(self.plan.body.step.emits)), self.reads,
            tuple(forward.notation.of(t) for t in body.recomputed), listing(self.program), self.row_bytes(),
            self.weight_bytes(), self.optional, self.summed, self.centred,
        )  # fmt: skip
