"""What a benchmark is: a record of what is run, against whom, and what it should reach."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Run = Callable[[], object]
"""One unit of what is measured; returns what can be compared with the other contenders' result, or None."""
Factory = Callable[[], Run]
"""Sets a contender up, untimed. Raises ImportError if its library is missing."""


def on_threads(threads: int, set_threads: Callable[[int], None], run: Run) -> Run:
    """The run on so many threads of its library, which has one again behind it."""

    def with_threads() -> object:
        set_threads(threads)
        result = run()
        set_threads(1)
        return result

    return with_threads


@dataclass(frozen=True)
class Goal:
    """What a benchmark should reach. Make one with `at_least`, `at_most` or `share_of_peak`.

    kind     "ratio": peer's figure / ours, for the best of the peers; "limit": ours, for one unit of work;
             "share": our share of the core's measured peak
    against  the peers that a ratio counts; none: all of the benchmark's. All of them must have run.
    isa      the instruction set under which it is judged; "": under any
    """

    kind: Literal["ratio", "limit", "share"]
    value: float
    against: tuple[str, ...] = ()
    isa: str = ""


def at_least(ratio: float, *against: str) -> Goal:
    """At least `ratio` times better than the best of these peers."""
    return Goal("ratio", ratio, against)


def at_most(limit: float, isa: str = "") -> Goal:
    """At most `limit` (seconds, or the figure itself) for one unit of work."""
    return Goal("limit", limit, isa=isa)


def share_of_peak(share: float) -> Goal:
    """At least this share of the core's peak in floating-point operations a second."""
    return Goal("share", share)


@dataclass(frozen=True)
class Benchmark:
    """One pair or more to be compared.

    name, group   what it is called and where it stands in the table
    ours, peers   factories: of our run, and of each peer's by its name
    goals         what it should reach
    work, unit    how many units of work one run does, and what one is called; figures are shown for one unit
    flops         floating-point operations of one run, if GFLOP/s are of interest
    threads       cores that the process may use while it is measured
    same          how far a peer's result may be from ours: the root of the mean square of the difference, relative to
                  that of our result; None: results are not compared
    measure       "time": seconds of a run, repeated in slices; "first": seconds of the first run of each new set-up;
                  "value": the number that the run returns, of which less is better
    clock         "processor": the time that the core worked for this process, for work on one core alone; "wall": the
                  time that passed, for work on several cores or on another device
    synchronise   called at the end of each slice, and behind a run that is not measured: waits for work that a run has
                  only queued
    """

    name: str
    group: str
    ours: Factory
    peers: Mapping[str, Factory]
    goals: Sequence[Goal] = ()
    work: float = 1.0
    unit: str = "run"
    flops: float = 0.0
    threads: int = 1
    same: float | None = None
    measure: Literal["time", "first", "value"] = "time"
    clock: Literal["processor", "wall"] = "processor"
    synchronise: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True)
class Spread:
    """The median of repeated figures and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        if len(figures) == 1:
            return cls(figures[0], figures[0], figures[0])
        low, median, high = statistics.quantiles(figures, n=4, method="inclusive")
        return cls(median, low, high)


OURS = "tinyrnn"
"""Our name among the contenders."""
QUIET = 0.97
"""The least share of the passed time that a quiet machine gives to the process that is measured."""


@dataclass
class Result:
    """What came out of a benchmark.

    figures  one unit of work, of each contender that ran (ours under OURS): seconds, or values
    ratios   peer's figure / ours, of pairs taken side by side, of each peer
    skipped  why the others did not run
    slices   how many times each contender was measured
    held     the share of the time of the cores in use that others did not take
    """

    benchmark: Benchmark
    figures: dict[str, Spread]
    ratios: dict[str, Spread]
    skipped: dict[str, str]
    slices: int
    held: float

    def rate(self) -> float | None:
        """Our floating-point operations a second."""
        b = self.benchmark
        return b.flops / (self.figures[OURS].median * b.work) if b.flops else None

    def verdict(self, goal: Goal, isa: str, peak: float | None) -> tuple[bool | None, float | str]:
        """(met or not, the figure that decided); (None, why) for a goal that can not be judged in this run."""
        if goal.isa and goal.isa != isa:
            return None, f"{goal.isa} only"
        if goal.kind == "limit":
            ours = self.figures[OURS].median
            return ours <= goal.value, ours
        if goal.kind == "share":
            rate = self.rate()
            if rate is None or peak is None:
                return None, "the core's peak is unknown"
            return rate >= goal.value * peak, rate / peak
        if self.benchmark.threads > 1 and self.held < QUIET:
            return None, "others used the cores"
        against = goal.against or tuple(self.benchmark.peers)
        missing = [name for name in against if name not in self.ratios]
        if missing or not against:
            return None, f"without {', '.join(missing) or 'a peer'}"
        ratio = min(self.ratios[name].median for name in against)
        return ratio >= goal.value, ratio
