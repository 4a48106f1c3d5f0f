"""Running a plan: what was hoisted as ordinary ops over the rows of all steps, the loop as one node of the tape, and
what sank behind it as ordinary ops again.

The loop's vjp is made here too. The body of the loop is reversed on shapes, by the same sweep that differentiates any
tape; what the reverse reads of the forward values is kept or recomputed; the reversed body is again a step, planned by
the same passes and run over the same rows in the other direction. So it has a vjp of its own: second derivatives need
nothing more. Where the tape frees its graph on the way, gradients take the place of kept values that have been read:
that saves their memory, and writing from the caches what would have to be fetched first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyrnn import backend
from tinyrnn._core import tape
from tinyrnn._core.tape import Frame, Op, Tape, Tensor, abstract
from tinyrnn.autograd import recording
from tinyrnn.ops import add, broadcast_to, exp, relu, sigmoid, split, sqrt, tanh
from tinyrnn.plan.columns import OPS, SUMS
from tinyrnn.plan.frontier import VIEWS, frontier_of, is_product, is_sum, made_inside, source_of
from tinyrnn.plan.kept import choose_kept, side_by_side
from tinyrnn.plan.layout import Layout
from tinyrnn.plan.lower import Program, lower
from tinyrnn.plan.rewrite import rewrite
from tinyrnn.plan.step import (
    STATE,
    Script,
    Step,
    consumers,
    is_repeated,
    is_rowed,
    levels,
    named,
    replay,
    topological,
    width,
)

Array = NDArray[Any]


class Plan:
    """A step, rewritten and cut into what comes before the loop, the loop, and what comes behind it.

    hoists: whether products that need no state are done before the loop, for all steps at once; else those of inputs,
    but for what is wanted for whole sequences anyway, are done in the loop, on rows at hand. Results have the same
    bits, and so have gradients, but for those of inputs if `reads_inputs_twice`.
    ending: inputs that may be written over, if a run says so (see `run`).

    recorded, step      the step as it was recorded, and rewritten
    hoisted, weights    what the loop reads of inputs, with rows, and of parameters alone
    body                what is left in the loop
    read_before, read_after, read_values    what the results read of the loop: the numbers of states before and after
                        a step, and values in between
    read_sums           values of which they read nothing but the sum over all rows and steps
    """

    def __init__(self, step: Step, hoists: bool = True, ending: Sequence[Tensor] = ()) -> None:
        self.recorded = step
        with recording():
            self.step = step = rewrite(step)
            level = levels(step)
            inner = {t for t in topological(step.nexts) if level[t] == STATE}.union(step.states)
            # The results that are wanted for the whole sequence, but for products, are made where their parts are.
            behind = [t for t in topological([*step.emits, *step.totals]) if level[t] == STATE and t not in inner]
            inner.update(made_inside(behind, inner, level))
            outer = [t for t in behind if t not in inner]
            others = {s for t in outer for s in t.inputs or ()}.union(step.emits, step.totals) - inner - {*outer}
            frontier = frontier_of([*step.nexts, *(s for t in inner for s in t.inputs or ())], inner, others, hoists)
            self.hoisted = sorted((t for t in frontier if is_rowed(t)), key=lambda t: t.order)
            self.weights = sorted((t for t in frontier if not is_rowed(t)), key=lambda t: t.order)
            # What the results read of the loop: its states before or after a step, and values in between.
            reads = {source_of(s) for t in outer for s in t.inputs or () if s in inner}
            reads |= {source_of(t) for t in (*step.emits, *step.totals) if t in inner}
            self.read_before = [k for k, s in enumerate(step.states) if s in reads]
            self.read_after = [k for k, t in enumerate(step.nexts) if t in reads and t not in step.states]
            wanted = reads - {*step.states, *step.nexts}
            whole = {source_of(t) for t in (*step.emits, *step.totals)}
            whole |= {source_of(s) for t in outer for s in t.inputs or () if not is_sum(t) or source_of(s) is not s}
            self.read_values = sorted(wanted & whole, key=lambda t: t.order)
            self.read_sums = sorted(wanted - whole, key=lambda t: t.order)
            known: dict[Tensor, Tensor] = {}
            for t in (*self.hoisted, *self.weights, *step.states):
                known[t] = abstract(t.shape, t.dtype, t.name, requires_grad=True)
            nexts = replay(step.nexts, known)
            values, sums = replay(self.read_values, known), replay(self.read_sums, known)
        self.body = Body(
            Step(
                tuple(known[t] for t in self.hoisted),
                tuple(known[s] for s in step.states),
                tuple(known[w] for w in self.weights),
                tuple(nexts),
                tuple(values),
                tuple(sums),
            ),
            self._read_inside(lambda t: t.op in FRESH),
            self._read_inside(lambda t: t in ending),
            {known[t] for t in self.hoisted if is_product(source_of(t))},
            hoists,
        )
        self.records = tuple(k in (*self.read_before, *self.read_after) for k in range(len(step.states)))
        script = Script((*step.seqs, *step.params))
        self._merge, self._ahead = script.part((*self.hoisted, *self.weights)).cut(range(len(step.seqs)))
        # Views are not held: their parameter would look as if somebody else held its array.
        fresh = (*FRESH, OPS["sum"])
        self._holds_merged = all(op is not None and (op.code >= 0 or op in fresh) for op, *_ in self._merge.actions)
        # The parameters of the last run without gradients, their stamp, what was made of them; a number for the values.
        self._known: tuple[list[Tensor], int, list[Tensor] | None] | None = None
        self._serial = 0
        arriving = (
            *(step.states[k] for k in self.read_before),
            *(step.nexts[k] for k in self.read_after),
            *self.read_values,
            *self.read_sums,
        )
        self._arriving = script.leaves(arriving)
        self._behind = script.part((*step.emits, *step.totals))
        self._slot_of = script.slot
        self._dropped: list[int] | None = None
        self._slots = script.slots[len(step.seqs) + len(step.params) :]
        self._slots_on: dict[str, list[Tensor | None]] = {"cpu": self._slots}

    def run(
        self,
        seqs: Sequence[Tensor],
        params: Sequence[Tensor],
        initial: Sequence[Tensor],
        layout: Layout,
        ends: bool = False,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """(emits (rows, ..) each, totals, final states (batch, w)) for a whole sequence.

        seqs: (rows, ..) each; params as the step's; initial: (batch, w) each. ends: nobody reads the `ending` inputs
        any more, and their memory may hold results.
        """
        n, rows = len(self.hoisted), layout.rows
        slots = [*seqs, *params, *self._constants(initial[0])]
        serial = self._merge_into(slots, params)
        ahead = self._ahead.run(slots, rows)
        values, sums, states, afters, finals = self.body.run(
            ahead[:n], ahead[n:], initial, layout, self.records, ends, serial
        )
        if tape.mode() != tape.OFF and any(t.op is not None for t in ahead):
            self._drop(slots)
        slots[self._arriving] = [
            *map(layout.before, tape.chosen(states, self.read_before)),
            *tape.chosen(afters, self.read_after),
            *values,
            *sums,
        ]
        results = self._behind.run(slots, rows)
        n = len(self.step.emits)
        return results[:n], results[n:], finals

    def _merge_into(self, slots: list[Any], params: Sequence[Tensor]) -> int:
        """Fill the slots of what is made of parameters alone; returns a number for these values of them, -1 with
        gradients, or where somebody else might change a parameter unseen.

        Without gradients, what is small is made once for the same values: it would take a tenth of a short run.
        """
        stamp = tape.stamp(params) if tape.mode() == tape.OFF else -1
        if stamp < 0:
            self._merge.run(slots, 0)
            return -1
        known = self._known
        if known is None or known[1] != stamp or not tape.are_same(params, known[0]):
            self._serial += 1
        elif known[2] is not None:
            for slot, value in zip(self._merge.results, known[2], strict=True):
                slots[slot] = value
            return self._serial
        made = self._merge.run(slots, 0)
        holds = self._holds_merged and sum(t.size for t in made) <= MERGED
        self._known = [*params], stamp, made if holds else None
        return self._serial

    def _constants(self, like: Tensor) -> list[Tensor | None]:
        """The slots behind those of seqs and params, with the step's own numbers on the device of a tensor."""
        device = like.device
        if device not in self._slots_on:
            self._slots_on[device] = [None if t is None else tape.wrap(t._array, like) for t in self._slots]
        return self._slots_on[device]

    @cached_property
    def reads_inputs_twice(self) -> bool:
        """Whether an input that is multiplied is read elsewhere, too. Its gradient is a sum then, which a loop that
        does the product adds up in another order than the tape does where that is hoisted.
        """
        readers = consumers(self.step.results, topological(self.step.results))

        def who(t: Tensor) -> list[Tensor | None]:
            return [q for r in readers.get(t, ()) for q in (who(r) if r is not None and r.op in VIEWS else [r])]

        found = [who(x) for x in self.step.seqs]
        return any(len(rs) > 1 and any(r is not None and r.op is OPS["matmul"] for r in rs) for rs in found)

    def _read_inside(self, fits: Callable[[Tensor], bool]) -> list[bool]:
        """Which hoisted values fit and are read by the loop alone."""
        outside = topological((*self.hoisted, *self.weights, *self.step.emits, *self.step.totals), self._made)
        read = {s for t in outside if t not in self._made for s in t.inputs or ()}
        read |= {*self.step.emits, *self.step.totals}
        return [fits(t) and t not in read for t in self.hoisted]

    @property
    def _made(self) -> set[Tensor]:
        """What the loop makes for what is behind it."""
        afters = (self.step.nexts[k] for k in self.read_after)  # not those that are columns of what is hoisted
        return {*self.step.states, *afters, *self.read_values, *self.read_sums}.difference(self.hoisted)

    @cached_property
    def dropped(self) -> list[Tensor]:
        """What comes before the loop and is not held for the reverse: nothing but the loop reads its values.

        A sum's gradient needs its terms' shapes alone, and a sigmoid's its result, so the tape can do without.
        """
        ahead = topological((*self.hoisted, *self.weights))
        behind = {*topological((*self.step.emits, *self.step.totals), self._made)} - {*ahead} - self._made
        read = {*self.weights, *self.step.emits, *self.step.totals}
        read.update(t for t, leaf in zip(self.hoisted, self.body.step.seqs, strict=True) if leaf in self.body.read)
        read.update(s for t in ahead if t.op not in (*LINEAR, *FROM_RESULT) for s in t.inputs or ())
        read.update(s for t in behind for s in t.inputs or ())
        return [t for t in ahead if t.op in (*LINEAR, OPS["matmul"]) and is_rowed(t) and t not in read]

    def _drop(self, slots: Sequence[Any]) -> None:
        """Let go of the values that the tape would hold for nothing."""
        if self._dropped is None:
            self._dropped = [self._slot_of(t) for t in self.dropped]
        for slot in self._dropped:
            tape.drop(slots[slot])


class Body:
    """What is left in the loop, on leaves of its own, and its reverse.

    step.emits: values wanted as sequences; step.totals: values whose sums over all steps are wanted.
    spare: which seqs nobody else reads, so that the loop may use their memory; ending: which, if a run says so.
    products: the seqs that a loop might make itself. hoists: as its reverse shall.
    """

    def __init__(
        self, step: Step, spare: Sequence[bool], ending: Sequence[bool], products: set[Tensor], hoists: bool
    ) -> None:
        self.step, self.spare, self.ending, self.products, self.hoists = step, spare, ending, products, hoists
        self.everywhere = (True,) * len(step.states)
        self.widths = [width(s) for s in step.states]
        self.programs: dict[Any, Program] = {}
        self.frames: dict[Any, Frame] = {}
        self.reverses: dict[Any, Reverse] = {}

    @cached_property
    def _gradients(self) -> list[Tensor]:
        """The gradients of everything, where one arrives at every result."""
        with recording():
            step = self.step
            wanted = [True] * (len(step.seqs) + len(step.params))
            _, found = self.reversed_on_shapes([True] * len(step.nexts), (*step.emits, *step.totals), wanted)
        return [g for g in found if g is not None]

    @cached_property
    def kept(self) -> list[Tensor]:
        """What the loop keeps for its reverse, beside inputs and states: enough for any gradient of any result."""
        with recording():
            return side_by_side(self.step, choose_kept(self.step, self._gradients, self.products))

    @cached_property
    def emits_and_kept(self) -> tuple[Tensor, ...]:
        """What a run with gradients brings out of the loop, beside states."""
        return (*self.step.emits, *(t for t in self.kept if t not in self.step.emits))

    @cached_property
    def parts(self) -> dict[Tensor, tuple[Tensor, ...]]:
        """What is kept side by side as one value, by that value."""
        there = {*topological(self.step.results)}
        return {t: t.inputs for t in self.kept if t not in there}

    def one_by_one(self, keep: Iterable[Tensor]) -> list[Tensor]:
        """Kept values, with those that are kept side by side each for itself."""
        return [part for t in keep for part in self.parts.get(t, (t,))]

    @cached_property
    def recomputed(self) -> list[Tensor]:
        """What the reverse computes again of the values of the step."""
        step = self.step
        there = {*step.seqs, *step.params, *step.states, *step.nexts, *step.emits, *self.one_by_one(self.kept)}
        own = {*topological(step.results)} - there
        again = own.intersection(topological(self._gradients, there))
        return sorted((t for t in again if t.op not in (None, *VIEWS) and not is_repeated(t)), key=lambda t: t.order)

    @cached_property
    def read(self) -> set[Tensor]:
        """Inputs, states, kept values and results that the reverse may read."""
        step = self.step
        there = {*step.seqs, *step.states, *step.nexts, *step.emits, *self.one_by_one(self.kept)}
        return {*topological(self._gradients, there)} & there

    @cached_property
    def held(self) -> tuple[Tensor, ...]:
        """What is read behind the loop where a reverse may follow: results and kept values, but of inputs, and of
        products that are kept, only the columns that the reverse reads. Sums may take the place of the others.
        """
        step = self.step
        products = {t for t in self.kept if t.op is OPS["matmul"] and t not in step.emits}
        there = {*step.states, *step.nexts, *step.emits, *self.one_by_one(self.kept)}
        again = (t for t in topological(self._gradients, there) if t not in there and t.op not in VIEWS)
        read = {s for t in again for s in t.inputs or ()}.union(self._gradients)
        sources = products.union(step.seqs)
        columns = sorted((t for t in read if source_of(t) in sources), key=lambda t: t.order)
        return tuple(dict.fromkeys((*step.emits, *(t for t in self.kept if t not in products), *columns)))

    def reversed_on_shapes(
        self, states_arrive: Sequence[bool], values: Sequence[Tensor], wanted: Sequence[bool]
    ) -> tuple[tuple[list[Tensor], list[Tensor]], list[Tensor | None]]:
        """The reverse of one step: (its leaves, the gradients of the states and of the wanted seqs and params).

        states_arrive: whether a gradient arrives at the recorded values of each state; values: at which other values
        of the step one arrives. Leaves: the gradients carried from the step after, and those that arrive.
        """
        step = self.step
        carried = [abstract(t.shape, t.dtype, f"d{s.name}", True) for s, t in zip(step.states, step.nexts, strict=True)]
        sources = [*(t for t, here in zip(step.nexts, states_arrive, strict=True) if here), *values]
        arriving = [abstract(t.shape, t.dtype, "g", True) for t in sources]
        pairs = [p for p in zip((*step.nexts, *sources), (*carried, *arriving), strict=True) if p[0].requires_grad]
        leaves = (*step.seqs, *step.params)
        targets = [*step.states, *(t for t, want in zip(leaves, wanted, strict=True) if want)]
        inner = [t for t in topological([t for t, _ in pairs]) if t.name and t.op is not None and t not in step.nexts]
        _, found = Tape([t for t, _ in pairs]).reverse([g for _, g in pairs], [*targets, *inner], True, True)
        for t, g in zip(inner, found[len(targets) :], strict=True):
            if g is not None and g.op is not None and g.name is None:
                g.name = f"d{t.name}"
        return (carried, arriving), found[: len(targets)]

    def program(
        self, record: tuple[bool, ...], keep: tuple[Tensor, ...], chained: bool = True, ends: bool = False
    ) -> Program:
        key = (record, keep, chained, ends)
        found = self.programs.get(key)
        if found is None:
            learns = len(keep) > len(self.step.emits)
            held = self.held if learns else keep
            ending = self.ending if ends else ()
            found = self.programs[key] = lower(self.step, keep, record, held, self.spare, chained, ending)
        return found

    def frame(
        self, record: tuple[bool, ...], keep: tuple[Tensor, ...], chained: bool = True, ends: bool = False
    ) -> Frame:
        """What runs `program`: asked for at every run, so that it has a table of its own."""
        key = (record, keep, chained, ends)
        found = self.frames.get(key)
        if found is None:
            found = self.frames[key] = self._frame(self.program(*key), record, keep)
        return found

    def _frame(self, program: Program, record: tuple[bool, ...], keep: tuple[Tensor, ...]) -> Frame:
        step = self.step
        number = {t: k for k, t in enumerate(step.params)}
        results = []
        for ((kind, k), at, columns), t in zip(program.keeps, keep, strict=True):
            whole = kind == "keep" and columns == program.kept_columns[k]
            shape = t.shape[1:] if t.ndim != 2 else None
            results.append((kind == "keep", k, None if whole else slice(at, at + columns), shape))
        return Frame(
            program,
            step.states[0].dtype,
            seqs=[width(t) for t in step.seqs],
            states=[*zip(self.widths, record, strict=True)],
            kept=program.kept_columns,
            sums=[(width(t), t.shape[1:]) for t in step.totals],
            vectors=[(number.get(t), None if t in number else t, row) for t, row in program.vectors],
            weights=[number[t] for t in program.weights],
            sources=program.sources,
            results=results,
        )

    def alone(self, keep: tuple[Tensor, ...], chained: bool) -> list[bool]:
        """Which of the values that a run keeps have memory that no other one shares, and are not what it emits.

        That is so for chained programs and for others; to be asked of the one that has run.
        """
        sources = [source for source, _, _ in self.program(self.everywhere, keep, chained).keeps]
        return [k >= len(self.step.emits) and sources.count(source) == 1 for k, source in enumerate(sources)]

    def run(
        self,
        seqs: Sequence[Tensor],
        params: Sequence[Tensor],
        initial: Sequence[Tensor],
        layout: Layout,
        record: tuple[bool, ...],
        ends: bool = False,
        serial: int = -1,
    ) -> tuple[list[Any], ...]:
        """(emits, partial sums of totals, all states, those after a step, final states) as Tensors.

        Of a state that `record` does not ask for, there may be None but the final ones.
        """
        inputs = (*seqs, *params, *initial)
        learns, keep = tape.learns(inputs), self.step.emits
        if learns:
            record, keep, ends = self.everywhere, self.emits_and_kept, False
        frame = self.frame(record, keep, layout.uniform, ends)
        found = frame.run(backend.of(initial[0]._array), layout, seqs, params, initial, serial)
        if not learns:
            return tuple(map(tape.wrap_all, found))
        values, sums, states, afters, finals = found
        kept = (*states, *values)
        tensors = tape.bundle(LOOP, inputs, (self, layout, keep, kept), [*kept, *sums, *afters, *finals])
        own, emits, totals, after, last = tape.parted(tensors, map(len, (states, values, sums, afters, finals)))
        return emits[: len(self.step.emits)], totals, own, after, last


MERGED = 1 << 24
"""Elements of merged parameters that a plan holds between runs, at most."""
FROM_RESULT = (sigmoid, tanh, relu, exp, sqrt)  # ops whose gradients are written with their results
FRESH = (*SUMS, OPS["matmul"], OPS["concat"])  # ops whose results are never views
LINEAR = (*SUMS, *VIEWS, *(OPS[name] for name in ("concat", "broadcast_to", "transpose", "sum_to", "scatter")))


class Reverse:
    """The reverse of a body for one choice of what arrives and what is wanted, as a plan on the body's leaves.

    values_arrive: of what the body keeps and of its totals. chained: whether the program that kept it is.
    seqs, kept, before, after: the numbers of the inputs, kept values and states whose forward values it reads.
    """

    def __init__(
        self,
        body: Body,
        keep: tuple[Tensor, ...],
        states_arrive: Sequence[bool],
        values_arrive: Sequence[bool],
        wanted_seqs: Sequence[bool],
        wanted_params: Sequence[bool],
        chained: bool = True,
    ) -> None:
        step = body.step
        values = [t for t, here in zip((*keep, *step.totals), values_arrive, strict=True) if here]
        wanted = [*wanted_seqs, *wanted_params]
        (carried, arriving), found = body.reversed_on_shapes(states_arrive, values, wanted)
        targets = [t for t, want in zip((*step.seqs, *step.params), wanted, strict=True) if want]
        gradients = [
            broadcast_to(Tensor(0.0, dtype=t.dtype), t.shape) if g is None else g
            for g, t in zip(found, (*step.states, *targets), strict=True)
        ]
        # The forward values that it reads become leaves, with those that are kept side by side as columns of one.
        there = [t for t in (*step.seqs, *body.one_by_one(keep), *step.states, *step.nexts) if t not in step.params]
        used = set(topological(gradients, there)) & set(there)
        known: dict[Tensor, Tensor] = {}

        def leaves(sources: Sequence[Tensor]) -> list[int]:
            numbers = []
            for k, t in enumerate(sources):
                columns = body.one_by_one([t])
                if t not in known and any(part in used and part not in known for part in columns):
                    numbers.append(k)
                    known[t] = leaf = abstract(t.shape, t.dtype, t.name, requires_grad=True)
                    cuts = np.cumsum([width(part) for part in columns])[:-1].tolist()
                    if cuts:
                        known.update(zip(columns, map(named, split(leaf, cuts, 1), columns), strict=True))
            return numbers

        self.seqs, self.before = leaves(step.seqs), leaves(step.states)
        self.after, self.kept = leaves(step.nexts), leaves(keep)
        results = replay(gradients, known)
        n_states, n_seqs = len(step.states), len(step.states) + sum(wanted_seqs)
        order = [
            *(step.seqs[k] for k in self.seqs),
            *(step.states[k] for k in self.before),
            *(step.nexts[k] for k in self.after),
            *(keep[k] for k in self.kept),
        ]
        alone = body.alone(keep, chained)
        self.plan = Plan(
            Step(
                (*(known[t] for t in order), *arriving),
                tuple(carried),
                step.params,
                tuple(results[:n_states]),
                tuple(results[n_states:n_seqs]),
                tuple(results[n_seqs:]),
            ),
            body.hoists,
            [known[keep[k]] for k in self.kept if alone[k]],
        )


def _loop_vjp(
    gs: list[Tensor | None],
    hub: Tensor,
    inputs: tuple[Tensor, ...],
    wanted: list[bool],
    body: Body,
    layout: Layout,
    keep: tuple[Tensor, ...],
    arrays: tuple[Array, ...],
) -> list[Tensor | None]:
    """The gradients of the loop's inputs: its reverse, run over the same rows in the other direction."""
    step = body.step
    n_seqs, n_params, n_states = len(step.seqs), len(step.params), len(step.states)
    n_values, n_sums = len(arrays) - n_states, len(step.totals)
    states, values = tape.parted(tape.pick(hub, len(gs), arrays), (n_states, n_values))
    of_all, of_values, of_sums, of_after, of_last = tape.parted(gs, (n_states, n_values, n_sums, n_states, n_states))
    after = [
        g if whole is None else layout.after(whole) if g is None else add(g, layout.after(whole))
        for whole, g in zip(of_all, of_after, strict=True)
    ]
    arrived = tuple([g is not None for g in (*after, *of_values, *of_sums)])
    wanted_seqs, wanted_params = tuple(wanted[:n_seqs]), tuple(wanted[n_seqs : n_seqs + n_params])
    key = (arrived, wanted_seqs, wanted_params, keep)
    reverse = body.reverses.get(key)
    if reverse is None:
        with recording():
            reverse = body.reverses[key] = Reverse(
                body, keep, arrived[:n_states], arrived[n_states:], wanted_seqs, wanted_params, layout.uniform
            )
    seqs = [
        *tape.chosen(inputs, reverse.seqs),
        *map(layout.before, tape.chosen(states, reverse.before)),
        *map(layout.after, tape.chosen(states, reverse.after)),
        *tape.chosen(values, reverse.kept),
        *[g for g in (*after, *of_values) if g is not None],
        *[layout.spread(g) for g in of_sums if g is not None],
    ]
    device = inputs[-1].device
    nothing = tape.zeros(layout.batch, body.widths, inputs[-1].dtype, device)
    carried = [zero if g is None else g for zero, g in zip(nothing, of_last, strict=True)]
    # What was kept for a graph that goes may be written over: on the CPU, where that saves memory's time.
    ends = device == "cpu" and tape.let_go(hub)
    emits, totals, finals = reverse.plan.run(seqs, inputs[n_seqs : n_seqs + n_params], carried, layout.reversed, ends)
    for k, (g, w) in enumerate(zip(of_all, wanted[n_seqs + n_params :], strict=True)):
        if g is not None and w:
            finals[k] = add(finals[k], layout.initial(g))
    flow_seqs, flow_params = iter(emits), iter(totals)
    shares: list[Tensor | None] = [next(flow_seqs) if w else None for w in wanted_seqs]
    shares += [next(flow_params) if w else None for w in wanted_params]
    shares += [g if w else None for g, w in zip(finals, wanted[n_seqs + n_params :], strict=True)]
    return shares


LOOP = Op("loop", -1, _loop_vjp, multi=True)
