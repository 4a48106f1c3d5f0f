"""Measuring: contenders take turns in short slices, so that what disturbs one disturbs the others as well.

A slice is as many runs as last a few milliseconds. In every round each contender gets one slice, beginning with
another one each time; a ratio is taken between slices of one round, and what is reported is the median of those ratios
and their quartiles. A peer that is missing, or computes something else, is left out with the reason.

On one core a slice is measured in the processor's time, which leaves out what the system gave to others meanwhile; on
a quiet machine that is the time of the clock on the wall, and the share it is of it is reported. On several cores the
clock on the wall counts, and what is reported is the share of the cores' time that others did not take.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.environment import busy_seconds, cores, on_cores
from bench.record import OURS, Benchmark, Factory, Result, Run, Spread


@dataclass(frozen=True)
class Budget:
    """How long to measure: seconds a slice, rounds at most and at least, seconds a benchmark."""

    slice: float = 0.02
    most: int = 41
    least: int = 5
    seconds: float = 4.0


WARMED = 0.1
"""Seconds of a slice below which a run that is not measured goes before it: contenders drive each other's data out of
the caches, as no user's loop does."""

QUICK = Budget(slice=0.005, most=11, least=3, seconds=0.5)


def compare(benchmark: Benchmark, budget: Budget) -> Result:
    """Set the contenders up, check that they compute the same, and measure them in turns."""
    if benchmark.threads > max(cores(), 1):
        raise NotEnoughCoresError(f"{benchmark.name} needs {benchmark.threads} cores, this process may use {cores()}")
    with on_cores(benchmark.threads):
        runs: dict[str, Run] = {OURS: benchmark.ours()}
        factories: dict[str, Factory] = {OURS: benchmark.ours}
        skipped: dict[str, str] = {}
        for name, factory in benchmark.peers.items():
            try:
                runs[name] = factory()
                factories[name] = factory
            except ImportError as error:
                skipped[name] = f"{error.name or error} is not installed"
        if benchmark.same is not None:
            skipped |= _disagreeing(runs, benchmark.same)
            runs = {name: run for name, run in runs.items() if name not in skipped}
        gc.collect()
        gc.freeze()  # what was imported and set up; the collector itself stays on, as in a user's loop
        try:
            figures, held = _measure(benchmark, runs, factories, budget)
        finally:
            gc.unfreeze()
    per_unit = {name: [f / benchmark.work for f in column] for name, column in figures.items()}
    ratios = {
        name: Spread.of([theirs / ours for theirs, ours in zip(column, figures[OURS], strict=True)])
        for name, column in figures.items()
        if name != OURS
    }
    spreads = {name: Spread.of(column) for name, column in per_unit.items()}
    return Result(benchmark, spreads, ratios, skipped, len(figures[OURS]), held)


class NotEnoughCoresError(RuntimeError):
    """A benchmark needs more cores than this process may use."""


def _measure(
    benchmark: Benchmark, runs: dict[str, Run], factories: dict[str, Factory], budget: Budget
) -> tuple[dict[str, list[float]], float]:
    """(the figures of each contender by round, the share of the cores' time that others did not take)."""
    if benchmark.measure == "value":
        return {name: [float(run())] for name, run in runs.items()}, 1.0  # type: ignore[arg-type]
    figures: dict[str, list[float]] = {name: [] for name in runs}
    wall = busy = 0.0
    if benchmark.measure == "first":
        calls, lengths, rounds = dict.fromkeys(runs, 1), dict.fromkeys(runs, 0.0), budget.least
    else:
        found = {name: _calibrate(run, benchmark, budget.slice) for name, run in runs.items()}
        calls = {name: n for name, (n, _) in found.items()}
        lengths = {name: seconds for name, (_, seconds) in found.items()}
        rounds = min(max(int(budget.seconds / sum(lengths.values())), budget.least), budget.most)
    names = list(runs)
    start, by_all, by_us = time.perf_counter(), busy_seconds(benchmark.threads), time.process_time()
    for k in range(rounds):
        turn = k % len(names)
        for name in names[turn:] + names[:turn]:
            run, n = runs[name], calls[name]
            if benchmark.measure == "first":
                run = factories[name]()
            elif lengths[name] < WARMED:
                run()  # brings its data back into the caches
                benchmark.synchronise()
            worked, passed = _slice(run, n, benchmark)
            figures[name].append((passed if benchmark.clock == "wall" else worked) / n)
            busy += worked
            wall += passed
    if benchmark.threads == 1:
        return figures, min(busy / wall, 1.0)
    now, all_now, us_now = time.perf_counter(), busy_seconds(benchmark.threads), time.process_time()
    if by_all is None or all_now is None:
        return figures, 1.0
    others = (all_now - by_all) - (us_now - by_us)
    return figures, min(max(1.0 - others / (benchmark.threads * (now - start)), 0.0), 1.0)


def _slice(run: Run, n: int, benchmark: Benchmark) -> tuple[float, float]:
    """Seconds that the processor works for n runs, and seconds that pass."""
    times = range(n)
    start = time.perf_counter_ns()
    busy = time.process_time_ns()
    for _ in times:
        run()
    benchmark.synchronise()
    busy = time.process_time_ns() - busy
    wall = time.perf_counter_ns() - start
    return busy * 1e-9, wall * 1e-9


def _calibrate(run: Run, benchmark: Benchmark, seconds: float) -> tuple[int, float]:
    """How many runs fill a slice of so many seconds, and how long that slice is; also warms the run up."""
    if benchmark.same is None:
        run()  # else the comparison has run it
    benchmark.synchronise()
    n = 1
    while True:
        worked, passed = _slice(run, n, benchmark)
        took = passed if benchmark.clock == "wall" else worked
        if took >= seconds / 4:
            return (n, took) if took >= seconds else (round(n * seconds / took), seconds)
        n *= 4


def _disagreeing(runs: dict[str, Run], tolerance: float) -> dict[str, str]:
    """The peers whose result is not ours, with how far it is from it."""
    ours = as_array(runs[OURS]())
    size = float(np.sqrt(np.mean(np.square(ours)))) or 1.0
    wrong = {}
    for name, run in runs.items():
        theirs = ours if name == OURS else as_array(run())
        if theirs.shape != ours.shape:
            wrong[name] = f"computes something else: shape {theirs.shape}, ours {ours.shape}"
            continue
        off = float(np.sqrt(np.mean(np.square(theirs - ours)))) / size
        if not off <= tolerance:
            wrong[name] = f"computes something else: {off:.1e} off, {tolerance:.0e} allowed"
    return wrong


def as_array(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A result of any of the libraries as a float64 array."""
    return np.asarray(value.detach() if hasattr(value, "detach") else value, dtype=np.float64)
