"""What is shown of the results: a table with the ratios first, the goals that are not met, JSON and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.record import OURS, QUIET, Benchmark, Goal, Result

MET, MISSED, OPEN = "met", "NOT MET", "not judged"


def judge(result: Result, goal: Goal, about: dict[str, Any]) -> str:
    """The verdict on one goal in words: "≥ 3x: met (3.21x)"."""
    met, got = result.verdict(goal, about["isa"], about.get("peak"))
    word = OPEN if met is None else MET if met else MISSED
    shown = got if isinstance(got, str) else _quantity(goal, got, result.benchmark)
    return f"{'≤' if goal.kind == 'limit' else '≥'} {_quantity(goal, goal.value, result.benchmark)}: {word} ({shown})"


def _quantity(goal: Goal, value: float, benchmark: Benchmark) -> str:
    """A figure of the goal's kind in words."""
    if goal.kind == "ratio":
        return f"{value:.3g}x"
    return f"{value:.0%} of peak" if goal.kind == "share" else _figure(value, benchmark)


def _figure(value: float, benchmark: Benchmark) -> str:
    """A figure with three digits and its unit."""
    if benchmark.measure == "value" or not math.isfinite(value):
        return f"{value:.3g}"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 0.9995:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def show_machine(console: Console, about: dict[str, Any]) -> None:
    for name, value in about.items():
        if name == "isa":
            continue
        shown = f"{value / 1e9:.0f} GFLOP/s (the best sgemm at hand)" if name == "peak" else value
        console.print(f"[bold]{name:>16}[/]  {escape(str(shown))}", highlight=False, soft_wrap=True)


def show_table(console: Console, results: Sequence[Result], about: dict[str, Any]) -> None:
    """One table a group, one row a pair. The goals stand in the first row, in red where they are not met."""
    console.print("\nratio = peer's time / ours, paired in one run: above 1, tinyrnn is faster", highlight=False)
    rates = any(r.benchmark.flops for r in results)
    longest = max(len(r.benchmark.name) for r in results)
    for group in dict.fromkeys(r.benchmark.group for r in results):
        table = Table(title=group, title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False)
        for name, side, width in COLUMNS:
            if name != "GFLOP/s" or rates:
                table.add_column(name, justify=side, min_width=width or longest, no_wrap=True)
        for result in (r for r in results if r.benchmark.group == group):
            for row in _rows(result, about, rates):
                table.add_row(*row)
        console.print(table)


COLUMNS: list[tuple[str, Literal["left", "right"], int]] = [
    ("benchmark", "left", 0), ("ratio", "right", 6), ("quartiles", "right", 12), ("against", "left", 13),
    ("theirs", "right", 8), ("ours", "right", 8), ("per", "left", 9), ("GFLOP/s", "right", 10), ("goal", "left", 26),
]  # fmt: skip


def _rows(result: Result, about: dict[str, Any], rates: bool) -> Iterator[list[str]]:
    b = result.benchmark
    goals = "\n".join(_goal_markup(judge(result, goal, about)) for goal in b.goals)
    rate = [_rate(result, about.get("peak"))] if rates else []
    tail = [_figure(result.figures[OURS].median, b), b.unit, *rate, goals]
    if not result.ratios:
        yield [b.name, "-", "", "nobody", "", *tail]
    for k, (name, ratio) in enumerate(result.ratios.items()):
        head = [b.name if k == 0 else "", f"[bold]{ratio.median:.2f}[/]", f"{ratio.low:.2f}-{ratio.high:.2f}", name]
        yield [*head, _figure(result.figures[name].median, b), *(tail if k == 0 else [])]


def _rate(result: Result, peak: float | None) -> str:
    rate = result.rate()
    if rate is None:
        return ""
    return f"{rate / 1e9:.0f}" + (f" ({rate / peak:.0%})" if peak else "")


def _goal_markup(verdict: str) -> str:
    if MISSED in verdict:
        return f"[bold red]{escape(verdict)}[/]"
    return f"[green]{escape(verdict)}[/]" if f": {MET}" in verdict else f"[dim]{escape(verdict)}[/]"


def show_summary(console: Console, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Which goals are not met, what was skipped and why, and how quiet the machine was."""
    verdicts = [(r.benchmark.name, judge(r, goal, about)) for r in results for goal in r.benchmark.goals]
    missed = [(name, text) for name, text in verdicts if MISSED in text]
    opened = sum(f": {OPEN}" in text for _, text in verdicts)
    met = len(verdicts) - len(missed) - opened
    console.print(f"Goals: {met} met, {len(missed)} not met, {opened} not judged.", highlight=False)
    for name, text in missed:
        console.print(f"  [bold red]{escape(name)}  {escape(text)}[/]", highlight=False, soft_wrap=True)
    skipped: dict[str, list[str]] = {}
    for r in results:
        for peer, why in r.skipped.items():
            key = why if "not installed" in why else f"{r.benchmark.name}: {peer} {why}"
            skipped.setdefault(key, []).append(r.benchmark.name)
    for why, names in skipped.items():
        count = f" ({len(names)} benchmarks without it)" if "not installed" in why else ""
        console.print(f"Skipped: {escape(why)}{count}", highlight=False, soft_wrap=True)
    held = [r.held for r in results]
    if held and min(held) < QUIET:
        console.print(
            f"Not a quiet machine: the core was this process's for {min(held):.0%} to {max(held):.0%} of the time; "
            "what others did in between also emptied its caches. Repeat the run before trusting a digit.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def as_json(results: Sequence[Result], about: dict[str, Any]) -> dict[str, Any]:
    """Everything measured, in plain numbers: seconds (or values) for one unit of work, and ratios."""
    return {"machine": about, "results": [_one(result, about) for result in results]}


def _one(result: Result, about: dict[str, Any]) -> dict[str, Any]:
    b = result.benchmark
    goals = []
    for goal in b.goals:
        met, _ = result.verdict(goal, about["isa"], about.get("peak"))
        goals.append({"kind": goal.kind, "value": goal.value, "met": met, "verdict": judge(result, goal, about)})
    return {
        "name": b.name,
        "group": b.group,
        "unit": b.unit,
        "measure": b.measure,
        "ratios": {name: vars(spread) for name, spread in result.ratios.items()},
        "figures": {name: vars(spread) for name, spread in result.figures.items()},
        "goals": goals,
        "flops_per_second": result.rate(),
        "skipped": result.skipped,
        "slices": result.slices,
        "core_held": result.held,
    }


def write_json(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    path.write_text(json.dumps(as_json(results, about), indent=1) + "\n")


def draw(path: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Ratios as bars on a logarithmic scale, quartiles as whiskers, a goal as a black stroke. Needs matplotlib.

    Benchmarks whose names differ in the last part alone, the size, share a panel.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels: dict[str, list[tuple[str, Result]]] = {}
    for r in results:
        family, dash, size = r.benchmark.name.rpartition("-")
        several = dash and size[:1].isdigit()
        panels.setdefault(family if several else r.benchmark.group, []).append(
            (size if several else r.benchmark.name, r)
        )
    panels = {name: rows for name, rows in panels.items() if any(r.ratios for _, r in rows)}
    peers = list(dict.fromkeys(name for r in results for name in r.ratios))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    tallest = max(sum(len(r.ratios) for _, r in rows) for rows in panels.values())
    where = f"{about['processor']}, {about['isa']}, {about['pinned to']}"
    heading = fill(f"peer's time / tinyrnn's; black: the goal. {where}", 48 * columns)
    titles = {name: fill(name, 44) for name in panels}
    title = max(text.count("\n") for text in titles.values())
    inches = (4 * columns, 1 + 0.17 * heading.count("\n") + lines * (0.6 + 0.16 * tallest + 0.17 * title))
    figure, grid = plt.subplots(lines, columns, figsize=inches, layout="constrained", squeeze=False)
    for axes, (family, rows) in zip(grid.flat, panels.items(), strict=False):
        ticks: dict[float, str] = {}
        at = 0.0
        for label, r in rows:
            ticks[at - 0.5 * (len(r.ratios) - 1)] = label
            for name, ratio in r.ratios.items():
                whiskers = [[ratio.median - ratio.low], [ratio.high - ratio.median]]
                axes.barh(at, ratio.median - 1, left=1, height=0.9, color=f"C{peers.index(name)}", xerr=whiskers)
                aims = [g.value for g in r.benchmark.goals if g.kind == "ratio" and name in (g.against or [name])]
                if aims:
                    axes.plot([max(aims)] * 2, [at - 0.5, at + 0.5], color="black", linewidth=2)
                at -= 1
            at -= 0.5
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        numbers = [n for n in (0.2, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 50) if low <= n <= high]
        axes.set_xticks(numbers, [f"{n:g}" for n in numbers])
        axes.set_xticks([], minor=True)
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.set_title(titles[family], fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    handles = [plt.Rectangle((0, 0), 1, 1, color=f"C{k}") for k in range(len(peers))]
    figure.legend(handles, peers, loc="outside lower center", ncols=max(len(peers), 1), fontsize=8)
    figure.suptitle(heading, fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)
