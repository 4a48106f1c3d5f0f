"""The command `python -m bench`. It restarts itself in a quiet environment before NumPy is imported."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import environment

if TYPE_CHECKING:
    from bench.record import Benchmark, Result

SUITES = {"micro": 1, "scan": 1, "job": 2, "gpu": 1}
"""The suites, and to how many cores each is pinned."""
EXAMPLES = """
examples:
  python -m bench                                  the small parts, about a minute
  python -m bench tanh mul --quick                 those whose name holds "tanh" or "mul", in seconds
  python -m bench scan lstm-train --json out.json  the loop over time, LSTM's training steps, figures to a file
  python -m bench scan --plot scan.png             every cell and size; half an hour
  python -m bench job                              training the sentiment model, on two threads
  python -m bench gpu --quick                      the same on an NVIDIA GPU, beside cuDNN
  TINYRNN_ISA=baseline python -m bench micro       another instruction set
"""


def main() -> int:
    """Run what the command line asks for; 0, or 2 for a command line that can not be run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        usage="python -m bench [SUITE] [NAME ...] [options]",
        description="Measure tinyrnn beside its peers: interleaved in one process, on one pinned core, ratios first.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="SUITE, NAME",
        help="micro (the default), scan, job or gpu; then: only benchmarks whose name holds one of these",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="short slices and few rounds: a first impression")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every figure to this file")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw the ratios (.png, .svg, .pdf) with matplotlib")
    parser.add_argument("--core", type=int, metavar="N", help="the core to pin to; the last one allowed if not given")
    asked = parser.parse_intermixed_args()
    named = bool(asked.words) and asked.words[0] in SUITES
    suite_name, names = (asked.words[0], asked.words[1:]) if named else ("micro", asked.words)
    for path in (asked.json, asked.plot):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"there is no folder {path.parent} to write {path.name} to")
    here = str(Path(__file__).resolve().parent.parent)
    sys.path[:] = [*(p for p in sys.path if p not in ("", here)), here]  # an installed tinyrnn before the source folder
    try:
        environment.settle(asked.core, SUITES[suite_name])
    except ValueError as error:
        parser.error(str(error))
    if asked.plot is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib (pip install matplotlib)")

    suite = importlib.import_module(f"bench.{suite_name}")
    chosen: list[Benchmark] = (suite.quick if asked.quick and hasattr(suite, "quick") else suite.benchmarks)()
    if names:
        chosen = [b for b in chosen if any(name in b.name for name in names)]
        if not chosen:
            parser.error(
                f"no benchmark of {suite_name} has a name that holds {' or '.join(names)}; "
                f"--list names them, and the suites are {', '.join(SUITES)}"
            )
    if asked.list:
        print("\n".join(b.name for b in chosen))
        return 0
    if hasattr(suite, "lacking") and (lacking := suite.lacking()):
        parser.error(f"{suite_name} can not run here: {lacking}")
    return _run(chosen, asked, suite)


def _run(chosen: Sequence[Benchmark], asked: argparse.Namespace, suite: Any) -> int:
    from rich.console import Console
    from rich.progress import track

    from bench import report, timing

    console = Console() if sys.stdout.isatty() else Console(width=200)
    progress = Console(stderr=True)
    about = environment.machine()
    if hasattr(suite, "machine"):
        about |= suite.machine()
    if any(b.flops for b in chosen):
        about["peak"] = suite.peak()
    report.show_machine(console, about)
    results: list[Result] = []
    budget = timing.QUICK if asked.quick else timing.Budget()
    try:
        for benchmark in track(chosen, "measuring", console=progress, transient=True, disable=not progress.is_terminal):
            try:
                results.append(timing.compare(benchmark, budget))
                if hasattr(suite, "note"):
                    about |= suite.note(results)
                if asked.json is not None:  # now, so that a long run that is killed has left something
                    report.write_json(asked.json, results, about)
            except timing.NotEnoughCoresError as error:
                console.print(f"Skipped: {error}")
            except MemoryError as error:  # of a device
                console.print(f"Skipped: {benchmark.name} needs more memory than there is ({error})")
    except KeyboardInterrupt:
        console.print(f"\nInterrupted: {len(results)} of {len(chosen)} benchmarks were measured.")
    if results:
        report.show_table(console, results, about)
        if hasattr(suite, "show"):
            suite.show(console, about)
        report.show_summary(console, results, about)
    if asked.json is not None and results:
        console.print(f"Figures: {asked.json}")
    if asked.plot is not None and results:
        report.draw(asked.plot, results, about)
        console.print(f"Picture: {asked.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
