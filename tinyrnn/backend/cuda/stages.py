"""A loop's program (`_core/program.h`) cut into what many blocks of threads do between two waits for each other.

The columns of a loop's buffers are seen as *units*: with P units (the width of a state, as a rule), column c belongs to
unit c % P, and to the block that owns it, with all its gates. What an elementwise instruction reads and writes then
stays in one thread, in registers. What crosses blocks is a product's left side, and a sum over a row: there all blocks
of the same rows wait, once for everything that can be made ready together. The instructions between two waits are a
*level*; a level runs in the order of the program, as segments of one kind.

How an instruction is run, its form:

  units     elementwise; one thread has a row's columns of one unit
  row       elementwise over one column; every block computes it for all its rows
  fold      a sum or maximum over the row of a value of units: each block's share, a wait, then the shares together
  row_fold  the same over any columns, from memory: every block for itself
  product   a block computes the columns of its units, or, where columns are no units, as many as the others
  elements  anything else, element by element through memory

Places that several writes share, as tiles do that take turns, are hazards that order the instructions, as reads after
writes do. `wrap` says whether blocks also have to wait for each other between one step and the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tinyrnn._core import kernels

Instruction = dict[str, int]
Location = tuple[int, int]  # a buffer, and the first of some columns that are always read and written together

NAMES = {number: name for name, number in kernels.KINDS.items()}
OPS = {code: (name, arity) for name, (code, arity) in kernels.POINTWISE.items()}
SOURCES = ("a", "b", "c")
OWN, ROW, CROSS = "own", "row", "cross"


@dataclass(eq=False)
class Action:
    """An instruction with its form. stretches: how many columns of one unit it has; 0 if its columns are no units.

    reads, writes: (location, how it is reached): OWN by the thread or block of the unit, ROW in every block, CROSS
    through memory from anywhere.
    """

    code: Instruction
    form: str
    stretches: int
    reads: list[tuple[Location, str]] = field(default_factory=list)
    writes: list[tuple[Location, str]] = field(default_factory=list)
    level: int = 0
    after: list[Action] = field(default_factory=list)

    @property
    def ready(self) -> int:
        """The level at whose beginning the result is there for those of its own reach."""
        return self.level + (self.form == "fold")


@dataclass(eq=False)
class Segment:
    """Actions of one form (folds are among units) that run one behind the other over some rows."""

    form: str
    actions: list[Action]


def crosses(reach: str, other: str) -> bool:
    """Whether two accesses of one place, of which one writes, may be those of different blocks."""
    return reach != other or reach == CROSS


class Stages:
    """The levels of a program. places: the place of each buffer; columns: its width; units: P.

    persistent: the buffers whose values are wanted behind the step. levels: a list of segments each. wrap: whether a
    wait is needed between steps.
    """

    def __init__(
        self, instructions: Iterable[Instruction], places: list[str], columns: list[int], states: list[tuple[int, int]],
        persistent: Iterable[int] = (),
    ) -> None:  # fmt: skip
        """states: (buffer before, buffer after) the step of each state."""
        self.instructions = list(instructions)
        self.places, self.columns, self.states = places, columns, states
        self.persistent = set(persistent)
        self.units = self._choose_units()
        self.cuts = self._find_cuts()
        self.actions = [self._action(i) for i in self.instructions]
        self._order()
        self.levels = self._segments()
        self.wrap = self._wraps()

    # -- units ---------------------------------------------------------------------------------------------------------

    def _choose_units(self) -> int:
        """The widest of the states' widths of which about as many columns of instructions are multiples as of any."""
        widths = {self.columns[b] for pair in self.states for b in pair}

        def fitting(units: int) -> int:
            forms = ((i, self._form(i, units)) for i in self.instructions)
            return sum(i["width"] for i, form in forms if form in ("units", "product"))

        found = {units: fitting(units) for units in widths}
        return max(units for units in widths if found[units] >= 0.8 * max(found.values()))

    def _find_cuts(self) -> list[list[int]]:
        """For each buffer the columns at which some access or stretch of units begins."""
        cuts = [{0, *(range(0, n, self.units) if n % self.units == 0 else ())} for n in self.columns]
        for i in self.instructions:
            for b, at, width in self._accesses(i):
                cuts[b] |= {at, at + width}
        for before, after in self.states:
            cuts[before] |= cuts[after]
            cuts[after] |= cuts[before]
        return [sorted(c for c in found if c < max(n, 1)) for found, n in zip(cuts, self.columns, strict=True)]

    def _accesses(self, i: Instruction) -> list[tuple[int, int, int]]:
        """(buffer, first column, columns) of what an instruction writes, then of what it reads."""
        kind = NAMES[i["kind"]]
        width = i["inner"] if kind == "scatter_add" else i["width"]
        found = [(i["dst"], i["dst_at"], width)]
        read = {"product": i["inner"], "sum": i["width"] * i["n"], "max": i["width"] * i["n"]}.get(kind, i["width"])
        for k, name in enumerate(self.sources(i)):
            b, at = i[name], i[f"{name}_at"]
            if kind == "gather":  # its index says which columns
                at, read = 0, self.columns[b]
            found.append((b, at, 1 if i["spread"] >> k & 1 else read))
        return found

    @staticmethod
    def sources(i: Instruction) -> tuple[str, ...]:
        return SOURCES[: OPS[i["code"]][1]] if NAMES[i["kind"]] == "map" else SOURCES[:1]

    def _is_row(self, buffer: int, units: int) -> bool:
        return units > 1 and self.columns[buffer] == 1

    def _is_aligned(self, buffer: int, at: int, units: int) -> bool:
        return self.columns[buffer] % units == 0 and at % units == 0

    def _form(self, i: Instruction, units: int) -> str:
        kind = NAMES[i["kind"]]
        if kind == "product":
            return "product"
        to, at = i["dst"], i["dst_at"]
        if kind in ("map", "copy"):
            if i["width"] == 1 and self._is_row(to, units):
                fits = all(self._is_row(i[n], units) or self.places[i[n]] == "vector" for n in self.sources(i))
                return "row" if fits else "elements"
            fits = i["width"] % units == 0 and self._is_aligned(to, at, units)
            for k, name in enumerate(self.sources(i)):
                if i["spread"] >> k & 1:
                    fits = fits and self._is_row(i[name], units)
                elif self.places[i[name]] != "vector":
                    fits = fits and self._is_aligned(i[name], i[f"{name}_at"], units)
            return "units" if fits else "elements"
        if kind in ("sum", "max") and i["width"] == 1 and i["inner"] == 1 and self._is_row(to, units):
            whole = i["n"] % units == 0 and self._is_aligned(i["a"], i["a_at"], units)
            return "fold" if whole and self.places[i["a"]] != "vector" else "row_fold"
        return "elements"

    # -- what each instruction touches ---------------------------------------------------------------------------------

    def _action(self, i: Instruction) -> Action:
        form, units = self._form(i, self.units), self.units
        owned = form == "product" and i["width"] % units == 0 and self._is_aligned(i["dst"], i["dst_at"], units)
        stretches = i["width"] // units if form == "units" or owned else i["n"] // units if form == "fold" else 0
        action = Action(i, form, stretches)
        (to, at, width), *reads = self._accesses(i)
        writes = {"units": OWN, "row": ROW, "fold": ROW, "row_fold": ROW}.get(form, OWN if owned else CROSS)
        action.writes = [(place, writes) for place in self.cut(to, at, width)]
        for b, at, width in reads:
            if self.places[b] != "vector":
                reach = (ROW if self._is_row(b, units) else OWN) if form in ("units", "fold", "row") else CROSS
                action.reads += [(place, reach) for place in self.cut(b, at, width)]
        if form == "product" and i["add"] & kernels.ONTO:
            action.reads += action.writes
        return action

    def cut(self, buffer: int, at: int, width: int) -> list[Location]:
        """The locations of some columns of a buffer."""
        return [(buffer, c) for c in self.cuts[buffer] if at <= c < at + width]

    # -- levels --------------------------------------------------------------------------------------------------------

    def _order(self) -> None:
        """Give every action its level, and what it runs after."""
        written: dict[Location, tuple[Action, str]] = {}
        reading: dict[Location, list[tuple[Action, str]]] = {}
        latest = 0
        for action in self.actions:
            for at, reach in action.reads:
                if at in written:
                    self._put_after(action, reach, *written[at])
                reading.setdefault(at, []).append((action, reach))
            for at, reach in action.writes:
                for other in (*reading.get(at, ()), *([written[at]] if at in written else [])):
                    self._put_after(action, reach, *other)
                written[at] = (action, reach)
                reading[at] = []
            # What the program has behind a product does not run before it: it would have to be stored until then.
            action.level = max(action.level, latest)
            if action.form == "product":
                latest = action.level

    @staticmethod
    def _put_after(action: Action, reach: str, other: Action, their: str) -> None:
        if other is not action:
            action.after.append(other)
            action.level = max(action.level, other.ready + crosses(reach, their))

    def _segments(self) -> list[list[Segment]]:
        """Each level's actions in segments, as few as their order allows."""
        levels: list[list[Segment]] = []
        for level in range(max(a.ready for a in self.actions) + 1):
            waiting = [a for a in self.actions if a.level == level]
            segments: list[Segment] = []
            while waiting:
                for forms in (("product",), ("row",), ("units", "fold"), ("row_fold",), ("elements",)):
                    taken: list[Action] = []
                    for a in waiting:
                        blocked = any(b in a.after for b in waiting if b not in taken and b is not a)
                        if a.form in forms and not blocked:
                            taken.append(a)
                    if taken:
                        segments.append(Segment(forms[0], taken))
                        waiting = [a for a in waiting if a not in taken]
                        break
            levels.append(segments)
        return levels

    def _wraps(self) -> bool:
        """Whether blocks must wait between steps: where else no wait lies between an access in one step and one in the
        next, of which one crosses blocks. (From step to step, a value of rows is what the first block wrote.)"""
        last = len(self.levels) - 1
        before: dict[int, list[int]] = {}
        for b, a in self.states:
            before.setdefault(b, []).append(a)
        accesses = [(a, b, at, reach) for a in self.actions for (b, at), reach in a.reads if b in before]
        results = [(a, b, at, reach) for a in self.actions for (b, at), reach in a.writes]
        return any(
            (last - writer.ready) + reader.level == 0 or (last - reader.level) + writer.level == 0
            for reader, b, at, reach in accesses
            for writer, to, place, how in results
            if (to, place) in [(after, at) for after in before[b]] and (reach, how) != (OWN, OWN)
        )

    # -- what is read where --------------------------------------------------------------------------------------------

    @cached_property
    def segment_of(self) -> dict[Action, Segment]:
        return {a: s for segments in self.levels for s in segments for a in s.actions}

    @cached_property
    def readers(self) -> dict[tuple[Action, Location], list[tuple[Action, str]]]:
        """For what an action writes, who reads it before it is written again."""
        found: dict[tuple[Action, Location], list[tuple[Action, str]]] = {}
        written: dict[Location, Action] = {}
        for action in self.actions:
            for at, reach in action.reads:
                if at in written:
                    found.setdefault((written[at], at), []).append((action, reach))
            for at, _ in action.writes:
                written[at] = action
        return found

    @cached_property
    def writer_of(self) -> dict[tuple[Action, Location], Action]:
        """Who wrote what an action reads, in the same step."""
        return {(reader, at): w for (w, at), found in self.readers.items() for reader, _ in found}

    @cached_property
    def last(self) -> dict[Location, Action]:
        """Who writes a location last."""
        return {at: action for action in self.actions for at, _ in action.writes}

    def is_stored(self, action: Action, at: Location, served: Sequence[Action] = ()) -> bool:
        """Whether what an action writes there has to be in memory: it is wanted later, or read from elsewhere.

        served: products that find their left side otherwise; what they add themselves to is in memory all the same.
        """
        if at[0] in self.persistent and self.last[at] is action:
            return True
        own = self.segment_of[action]
        for reader, reach in self.readers.get((action, at), ()):
            there = self.segment_of[reader]
            adds_to_it = any(place == at for place, _ in reader.writes)
            if reach == CROSS and (reader not in served or adds_to_it):
                return True
            if reach == OWN and there is not own and not self.in_tile(action, reader):
                return True
        return False

    def in_tile(self, action: Action, reader: Action) -> bool:
        """Whether a reader finds a product's result where the product left it, in shared memory."""
        owned = action.form == "product" and action.stretches > 0
        return owned and reader.level == action.level and reader.form in ("units", "fold", "product")

    def row_slots(self) -> Iterator[tuple[Action, Location]]:
        """The values of rows that are read outside their segment: each block has them in shared memory."""
        for action in self.actions:
            for at, reach in action.writes:
                if reach == ROW:
                    others = self.readers.get((action, at), ())
                    own = self.segment_of[action]
                    if action.form == "fold" or any(self.segment_of[r] is not own and how == ROW for r, how in others):
                        yield action, at
