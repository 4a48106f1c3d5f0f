"""`tinyrnn agreement`: cells compared by how far a verb may be from its subject."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tinyrnn import files
from tinyrnn.cells import by_name
from tinyrnn.cli.show import Bar, UserError, console
from tinyrnn.cli.train import Resume, stopping
from tinyrnn.train import AgreementOptions, Speaker, Tally, Trainer, Watcher, agreement_task, read_model
from tinyrnn.train.agreement import accuracy_by_distance, bands
from tinyrnn.train.loop import CHECKPOINT

DEFAULT = AgreementOptions()
CELLS = ["elman", "additive", "gru", "lstm"]


def agreement(
    cell: Annotated[list[str], typer.Option(metavar="NAME", help="A cell to compare; may be given again.")] = CELLS,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Runs a cell, over which is averaged.")] = 3,
    hidden: Annotated[int, typer.Option(min=1, metavar="N", help="Units of a state, of every cell.")] = DEFAULT.hidden,
    equal_parameters: Annotated[
        bool, typer.Option("--equal-parameters", help="More units for cells of fewer parameters a unit.")
    ] = False,
    longest: Annotated[
        int, typer.Option(min=8, metavar="N", help="Largest distance in training; the test adds a half.")
    ] = DEFAULT.longest,
    sentences: Annotated[int, typer.Option(min=1, metavar="N", help="New sentences an epoch.")] = DEFAULT.sentences,
    epochs: Annotated[int, typer.Option(min=1, metavar="N", help="Epochs of each run.")] = DEFAULT.epochs,
    run: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the runs and the table are kept.")] = Path(
        "runs/agreement-by-distance"
    ),
    resume: Resume = False,
) -> None:
    """Compare cells by the distance of subject and verb.

    Trains each as a language model of sentences such as "the cats, which
    already ate, were", and prints how often it then prefers the right one of
    was and were: 0.5 is what a guess reaches. Also writes table.json and, if
    matplotlib is installed, table.png. Two or three minutes on one core.

    Example: tinyrnn agreement --cell elman --cell lstm --seeds 1
    """
    for name in cell:
        try:
            by_name(name)
        except ValueError as error:
            raise UserError(str(error)) from error
    if len(set(cell)) < len(cell):
        raise UserError(f"each --cell must be given once, got {', '.join(cell)}")
    units = _units(cell, hidden) if equal_parameters else dict.fromkeys(cell, hidden)
    options = [
        AgreementOptions(cell=name, seed=seed, hidden=units[name], longest=longest, sentences=sentences, epochs=epochs)
        for name in cell
        for seed in range(seeds)
    ]
    out = console()
    results = {name: Result(name, units[name]) for name in cell}
    watcher = _Watch(Bar(out), len(options), epochs)
    try:
        for each in options:
            _run(each, run / f"{each.cell}-{each.seed}", resume, watcher, results[each.cell])
    except _StoppedError:
        watcher.bar.close()
        out.print("Stopped; all is saved. To go on, the same command with --resume.")
        raise typer.Exit(130) from None
    finally:
        watcher.bar.close()
    columns = [_label(*band) for band in bands(options[0])]
    out.print(_table(columns, results))
    out.print(
        f"\nShare of verbs that agree, by the words between subject and verb; at most {longest} of them in training. "
        f"Units: {', '.join(f'{name} {n}' for name, n in units.items())}; mean of {seeds} run{'s' * (seeds > 1)}."
    )
    _write(run / "table.json", options[0], columns, results)
    drawn = _draw(run / "table.png", options[0], results)
    out.print(f"In {run}: table.json" + (", table.png" if drawn else "; no picture: matplotlib is not installed"))


@dataclass
class Result:
    """What the runs of a cell gave."""

    name: str
    units: int
    parameters: int = 0
    """Of the cell alone, without embedding and readout."""
    accuracy: list[list[float]] = field(default_factory=list)
    """A row a seed, a column a band of distances."""

    @property
    def mean(self) -> list[float]:
        """The accuracy of each band over the seeds."""
        return [sum(column) / len(column) for column in zip(*self.accuracy, strict=True)]


def _units(cells: list[str], hidden: int) -> dict[str, int]:
    """How many units each cell can have for the parameters that the largest of them needs for `hidden`."""

    def parameters(name: str, units: int) -> int:
        return sum(p.size for p in by_name(name)(DEFAULT.embed, units).parameters())

    most = max(parameters(name, hidden) for name in cells)
    found = dict.fromkeys(cells, hidden)
    for name in cells:
        while parameters(name, found[name] + 1) <= most:
            found[name] += 1
    return found


class _StoppedError(Exception):
    """Ctrl-C came; the run under way is saved."""


class _Watch(Watcher):
    """One bar over all runs."""

    def __init__(self, bar: Bar, runs: int, epochs: int) -> None:
        self.bar, self.runs, self.epochs = bar, runs, epochs
        self.run, self.label = 0, ""
        self._epoch, self._batches, self._begun = 0, 1, False

    def epoch_begins(self, epoch: int, batches: int, done: int) -> None:
        self._epoch, self._batches = epoch, batches
        if not self._begun:
            self._begun = True
            self.bar.begin("training", self.runs * self.epochs * batches, self._done(done))

    def batch_ends(self, done: int, tally: Tally) -> None:
        self.bar.advance(self._done(done), f"{self.label}, epoch {self._epoch}  accuracy {tally.accuracy:.3f}")

    def _done(self, batches: int) -> int:
        return (self.run * self.epochs + self._epoch - 1) * self._batches + batches


def _run(options: AgreementOptions, folder: Path, resume: bool, watcher: _Watch, result: Result) -> None:
    """Train one cell, or go on with it, and note its accuracies. Raises _StoppedError after Ctrl-C."""
    watcher.label = f"{options.cell}, seed {options.seed}"
    going_on = resume and (folder / CHECKPOINT).exists()
    trainer = Trainer(agreement_task(options), folder, resume=going_on, watcher=watcher)
    with stopping(trainer):
        if not trainer.fit():
            raise _StoppedError
    model = Speaker(read_model(folder)).model
    result.parameters = sum(p.size for p in model.rnn.parameters())
    result.accuracy.append(accuracy_by_distance(model, options))
    watcher.run += 1


def _label(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _table(columns: list[str], results: Mapping[str, Result]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("cell")
    for name in ("parameters", *columns):
        table.add_column(name, justify="right")
    for result in results.values():
        table.add_row(result.name, f"{result.parameters:,}", *(f"{value:.3f}" for value in result.mean))
    return table


def _write(path: Path, options: AgreementOptions, columns: list[str], results: Mapping[str, Result]) -> None:
    options_of_all = {k: v for k, v in options.as_json().items() if k not in ("cell", "seed", "hidden")}
    cells = {
        name: {"units": result.units, "parameters": result.parameters, "mean": result.mean, "by_seed": result.accuracy}
        for name, result in results.items()
    }
    found = {"options": options_of_all, "distances": columns, "accuracy": cells}
    files.write(path, (json.dumps(found, indent=2) + "\n").encode())


def _draw(path: Path, options: AgreementOptions, results: Mapping[str, Result]) -> bool:
    """A line a cell; False without matplotlib."""
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError:
        return False
    figure = figures.Figure(figsize=(7, 4), layout="constrained")  # not pyplot: no global state, no window
    axes = figure.subplots()
    middles = [(first + last) / 2 for first, last in bands(options)]
    for result in results.values():
        axes.plot(middles, result.mean, marker="o", label=result.name)
    axes.axvline(options.longest, color="grey", linestyle=":", label="longest in training")
    axes.set(xlabel="words between subject and verb", ylabel="share of verbs that agree", ylim=(0.45, 1.02))
    axes.legend()
    figure.savefig(path, dpi=150)
    return True
