"""From a run folder to its report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tinyrnn import files
from tinyrnn.loop import Sequences
from tinyrnn.plots import curves, gate_map, gradient_by_distance
from tinyrnn.plots.distance import Source
from tinyrnn.plots.gates import gates_of
from tinyrnn.plots.style import PAGE, matplotlib, page_svg
from tinyrnn.report.page import Strip, facts, figure, gauge, page, section, table
from tinyrnn.report.reading import Direction, Reading, embed, random_words, read
from tinyrnn.train import Critic, read_model
from tinyrnn.train.loop import METRICS
from tinyrnn.train.sentiment import build_classifier

REPORT = "report.html"
EXAMPLE = "the movie was long, but I really loved it"
"""The sentence of a report on reviews when none is given."""

GATES = {"i": "written", "f": "kept", "o": "shown", "r": "read of the state", "z": "written"}
"""What a gate of the cells of this package lets through, in a word."""
STEPS, ROWS = 60, 16
"""Of the random words over which the gradient's reach is measured."""


def write_report(
    run: str | os.PathLike[str], text: str | None = None, out: str | os.PathLike[str] | None = None
) -> Path:
    """Write the report on a run of `tinyrnn train`: one HTML file that needs no network. Returns its path.

    run: the run folder. text: a review for a run of sentiment, by default an example; must be None for others. out: the
    file to write; by default report.html in the run folder. Raises ValueError for a text that the run cannot read,
    TrainingError if the run has no trained model yet, CheckpointError for damaged files, MissingExtraError without
    matplotlib, OSError if the file cannot be written; then it stays as it was.
    """
    matplotlib()
    folder = Path(run)
    checkpoint = read_model(folder)
    task, options = str(checkpoint.meta["task"]), dict(checkpoint.meta["options"])
    if text is not None and task != "sentiment":
        raise ValueError(f"{folder} is a run of `tinyrnn train {task}`, which reads no sentence; leave the text out")
    records = _records(folder)
    title = f"tinyrnn: {task}, {folder.resolve().name}"
    parts = [_head(title, task, options, checkpoint.meta, records)]
    if task == "sentiment":
        try:
            critic = Critic(checkpoint)
        except (KeyError, TypeError) as error:
            raise files.CheckpointError(
                f"{checkpoint.path} was made by another version of tinyrnn: {error!r}"
            ) from error
        reading = read(critic, EXAMPLE if text is None else text)
        parts += [_verdict(reading), _words(reading), _maps(reading), _reach(critic)]
    parts += _course(records)
    place = folder / REPORT if out is None else Path(out)
    files.write(place, page(title, parts).encode())
    return place


def _records(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise files.CheckpointError(f"{folder / METRICS} is damaged: {error}") from error


# -- sections ----------------------------------------------------------------------------------------------------------


def _head(title: str, task: str, options: dict[str, Any], meta: dict[str, Any], records: list[dict[str, Any]]) -> str:
    epochs = [record for record in records if "train" in record]
    tested = next((record for record in reversed(records) if "test" in record), None)
    rows = [("task", task), ("cell", str(options["cell"])), ("units", f"{options['hidden']:,}")]
    rows += [("seed", str(options["seed"])), ("epochs", str(len(epochs)))]
    if tested is not None:
        rows.append(("best epoch", str(tested["epoch"])))
        rows += [(f"test, {name}", f"{value:.4f}") for name, value in tested["test"].items()]
    else:
        rows += [(f"validation, {name}", f"{value:.4f}") for name, value in dict(meta.get("valid", {})).items()]
    return f"<header>\n<h1>{escape(title)}</h1>\n{facts(rows)}\n</header>\n"


def _verdict(reading: Reading) -> str:
    sure = max(reading.positive, 1 - reading.positive)
    unknown = list(dict.fromkeys(w for w, known in zip(reading.words, reading.known, strict=True) if not known))
    said = f'<p class="said">{escape(reading.text)}</p>'
    verdict = f'<p class="verdict"><b>{escape(reading.label)}</b>, {sure:.1%}</p>'
    rail = gauge("blame", "praise", reading.positive, f"the probability of praise is {reading.positive:.1%}")
    known = f'<p class="about">Not among the words it knows: {escape(", ".join(unknown))}.</p>' if unknown else ""
    return section("Prediction", said, verdict, rail, known)


def _words(reading: Reading) -> str:
    strip = Strip(reading.words, ["" if known else "a word it does not know" for known in reading.known])
    strip.head("The word")
    strip.row("push", "to praise up, to blame down", reading.push.tolist())
    strip.row("|dL/dx|", "how much a change of the word moves the logit", reading.gradient.tolist(), colour=3)
    for direction in reading.directions:
        found = direction.trace
        strip.head(f"Read {direction.name}")
        gates = gates_of(found)
        for name, values in gates.items():
            about = f"{GATES[name]}, mean of units" if name in GATES else "mean of units"
            strip.row(name, about, values.mean(axis=1).tolist(), 1.0)
        for name, signal in found.states.items():
            strip.row(f"|{name}|", "norm of the state", np.linalg.norm(signal.values[:, 0], axis=1).tolist(), colour=2)
        for name, signal in found.states.items():
            strip.row(f"|dL/d{name}|", "norm of the gradient", signal.norms[:, 0].tolist(), colour=3)
    about = (
        "L is the logit, above 0 for praise. The push of a word is the product of its vector with the gradient there: "
        "what the word adds, as far as a linear view of the model reaches. States and gradients are those after the "
        "word was read. Each row has its own scale."
    )
    return section("Word by word", strip.html(), about=about)


def _maps(reading: Reading) -> str:
    return section("Gates and gradients", *(_map(reading, direction) for direction in reading.directions))


def _map(reading: Reading, direction: Direction) -> str:
    drawn, data = gate_map(reading.words, direction.trace, theme=PAGE)
    first = "from the last word to the first" if direction.name == "backwards" else "from the first word to the last"
    kind = type(direction.cell).__name__
    caption = f"The {kind} that reads {direction.name}, {first}."
    if data.gates:
        by = "f" if "f" in data.gates else next(iter(data.gates))
        caption += f" A line of a gate is a unit, in the order of its mean of {by}."
    caption += " Below, the norms of its states and of the logit's gradient by them, L being the logit."
    return figure(page_svg(drawn, f"map-{direction.name}", caption), caption)


def _reach(critic: Critic) -> str:
    """Before and after training: the same random words, each with the vectors of its model."""
    fresh = build_classifier(critic.options, len(critic.vocabulary))
    fresh.eval()
    ids = random_words(critic, STEPS, ROWS)
    panels: dict[str, dict[str, Source]] = {}
    xs: dict[str, Sequences] = {}
    for name, model in (("before training", fresh), ("after training", critic.model)):
        cells = model.rnn.cells[0]
        panels[name] = dict(zip(("forwards", "backwards"), cells, strict=False))
        xs[name] = embed(model, ids).numpy()
    drawn, _ = gradient_by_distance(panels, xs, theme=PAGE)
    caption = (
        f"The norm of the gradient of the last output that reaches all states of a step, by the step's distance; the "
        f"root of the mean square over {ROWS} sequences of {STEPS} random words."
    )
    return section("How far the gradient reaches", figure(page_svg(drawn, "reach", caption), caption))


def _course(records: list[dict[str, Any]]) -> Iterator[str]:
    epochs = [record for record in records if "train" in record]
    if not epochs:
        return
    drawn, data = curves(epochs, theme=PAGE)
    caption = "Results of each epoch"
    caption += ", and the norm of the gradient before clipping, all of it and by layer" if data.gradient else ""
    caption += ", and the share of gate values below 0.05 or above 0.95" if data.saturated else ""
    yield section(
        "Training", figure(page_svg(drawn, "curves", caption), caption + "."), _numbers(epochs), *_warned(epochs)
    )


def _numbers(epochs: list[dict[str, Any]]) -> str:
    names = list(epochs[0]["train"])
    head = ["epoch", *(f"training {n}" for n in names), *(f"validation {n}" for n in names)]
    head += ["gradient, mean", "clipped", "seconds"]
    rows = []
    for record in epochs:
        gradient = (record.get("monitor") or {}).get("gradient") or {}
        results = [f"{record[part][n]:.4f}" for part in ("train", "valid") for n in names]
        mean = f"{gradient['mean']:.3g}" if gradient else ""
        clipped = f"{gradient['clipped']:.0%}" if gradient else ""
        rows.append([str(record["epoch"]), *results, mean, clipped, f"{record['seconds']:.1f}"])
    return table(head, rows)


def _warned(epochs: Iterable[dict[str, Any]]) -> Iterator[str]:
    found = []
    for record in epochs:
        monitor = record.get("monitor") or {}
        found += [f"epoch {record['epoch']}: {text}" for text in monitor.get("warnings", {}).values()]
        if "nonfinite" in monitor:
            found.append(
                f"epoch {record['epoch']}: a step had no finite gradient; first not finite: {monitor['nonfinite']}"
            )
    if found:
        yield "<h3>What the monitors noticed</h3>"
        yield '<ul class="notes">' + "".join(f"<li>{escape(text)}</li>" for text in found) + "</ul>"
