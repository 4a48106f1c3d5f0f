"""Monitors: what a training run shows of its gradients and gates, epoch by epoch, and what to try where they go wrong.

They read and never write: a run has the same bits with and without them. Norms of single layers are taken at every
16th step, gates on one batch an epoch, so that they cost little. What is found stands under "monitor" in an epoch's
line of metrics.jsonl:

    gradient    norm of all gradients before clipping, over the epoch's steps: its mean, the largest, and "clipped",
                the share of steps that clipping changed; null if no step had a finite gradient
    layers      module -> mean norm of the gradient of its own parameters, before clipping
    gates       cell -> gate -> shares of the values on 16 rows of the epoch's first batch, after the epoch, without
                dropout: "closed" those below 0.05, "open" those above 0.95, "stuck" the units that were one of these
                at every step of every row
    nonfinite   what was first not finite in the epoch's first step without a finite gradient; absent if none
    warnings    kind, as in `ADVICE`, -> the warning that was given; absent if none

A gate is a probed value that lies in [0, 1], unless it is a state of the cell; a state that is a sigmoid counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.autograd import enable_grad, grad
from tinyrnn.backend import to_host
from tinyrnn.clip import clip_grad_norm
from tinyrnn.data import Batch
from tinyrnn.module import Cell, Module, probes
from tinyrnn.train.task import Task

Array = npt.NDArray[Any]
Gates = dict[str, dict[str, dict[str, float]]]

CLOSED, OPEN = 0.05, 0.95
"""Below and above these a gate counts as closed and as open; its slope is then less than a fifth of the largest."""
EVERY = 16
"""Steps between two measurements of the layers' norms."""
ROWS = 16
"""Rows on which gates are measured."""

ADVICE = {
    "exploding": "the gradient's norm reached {largest:.2g} where --clip is {clip:g}: it explodes at times; clipping "
    "holds it, a smaller --lr may learn more steadily",
    "clipped": "{clipped:.0%} of the steps were clipped, from a norm of {mean:.2g} on average to {clip:g}, so that "
    "--clip decides how far they go; try a smaller --lr, or a larger --clip",
    "vanishing": "hardly any gradient reaches {where}: its norm is {norm:.1e}, the largest of a layer {most:.1e}; try "
    "a cell with gates (--cell lstm), shorter sequences or another initialisation",
    "saturated": "gate {where} saturated in training: {share:.0%} of its values are below 0.05 or above 0.95, where "
    "hardly any gradient passes; try a smaller --lr",
}
"""The warnings that an epoch may end with, by kind; each is given once a run."""


@dataclass
class Sums:
    """What the monitors hold of the epoch under way, and of the run; all of it is in the checkpoint."""

    steps: int = 0
    """Steps with a finite gradient."""
    clipped: int = 0
    norm: float = 0.0
    """Sum of the norms before clipping."""
    largest: float = 0.0
    sampled: int = 0
    """Steps at which the layers were measured."""
    layers: dict[str, float] = field(default_factory=dict)
    """Sums of the layers' norms."""
    nonfinite: str = ""
    start: Gates | None = None
    """The gates before the run's first step; of the run, not of the epoch."""
    warned: list[str] = field(default_factory=list)
    """Kinds of warning given so far; of the run."""


class Seen(NamedTuple):
    """A value that `tr.probe` was given."""

    cell: str
    """The path of the cell in the model."""
    step: int
    """Which of the cell's steps it was, from 0."""
    name: str
    value: Tensor
    """(rows that were still running, width)."""
    is_state: bool
    """Whether the cell has a state of that name."""

    def __str__(self) -> str:
        return f'"{self.name}" of {self.cell} at its step {self.step + 1}'


class Monitors:
    """Watches the steps of a `Trainer`.

    task: whose model is trained. clip: the norm above which a gradient is clipped.
    """

    def __init__(self, task: Task, clip: float) -> None:
        self.task, self.clip = task, clip
        self.sums = Sums()
        self._generators: list[np.random.Generator] = []
        self._states: list[Any] = []

    # -- what the trainer calls, in this order -------------------------------------------------------------------------

    def epoch_begins(self, batch: Batch) -> None:
        """Look at the gates before the run's first step. batch: the epoch's first."""
        self._generators = [rng for _, rng in self.task.model.named_generators()]
        if self.sums.start is None:
            self.sums.start = self.gates(batch)

    def step_begins(self) -> None:
        """Remember the model's random state, so that the step can be run again."""
        self._states = [generator.bit_generator.state for generator in self._generators]

    def gradients(self, position: int) -> None:
        """Look at the gradients before they are clipped. position: batches of the epoch before this one."""
        if position % EVERY:
            return
        found = layer_norms(self.task.model)
        if all(map(math.isfinite, found.values())):
            self.sums.sampled += 1
            for name, norm in found.items():
                self.sums.layers[name] = self.sums.layers.get(name, 0.0) + norm

    def step_ends(self, norm: float) -> None:
        """Count a finite norm."""
        self.sums.steps += 1
        self.sums.norm += norm
        self.sums.largest = max(self.sums.largest, norm)
        self.sums.clipped += norm > self.clip

    def not_finite(self, batch: Batch, state: Any) -> str:
        """What was first not finite in a step whose gradient was not; "" if nothing is found, and for later ones of the
        same epoch.

        The step is run again op by op, from the same random state, so that every probe can be looked at.
        """
        if self.sums.nonfinite:
            return ""
        with _as_it_was(self.task.model):
            for generator, before in zip(self._generators, self._states, strict=True):
                generator.bit_generator.state = before
            found = find_nonfinite(self.task, batch, state)
        self.sums.nonfinite = found or "nothing, when the step was run again op by op"
        return found

    def epoch_ends(self, batch: Batch) -> tuple[dict[str, Any], list[str]]:
        """The epoch's "monitor", and the warnings that a person should read. batch: the epoch's first.

        Changes nothing: `next_epoch` does.
        """
        sums = self.sums
        gradient = None
        if sums.steps:
            gradient = {"mean": _short(sums.norm / sums.steps), "largest": _short(sums.largest)}
            gradient["clipped"] = _short(sums.clipped / sums.steps)
        layers = {name: _short(total / sums.sampled) for name, total in sums.layers.items()}
        record: dict[str, Any] = {"gradient": gradient, "layers": layers, "gates": self.gates(batch)}
        warnings = {k: text for k, text in self._warnings(record) if k not in sums.warned}
        if sums.nonfinite:
            record["nonfinite"] = sums.nonfinite
        if warnings:
            record["warnings"] = warnings
        return record, list(warnings.values())

    def next_epoch(self, record: Mapping[str, Any]) -> None:
        """Begin the sums of another epoch. record: that of the one before."""
        self.sums = Sums(start=self.sums.start, warned=[*self.sums.warned, *record.get("warnings", ())])

    # -- what is measured ----------------------------------------------------------------------------------------------

    def gates(self, batch: Batch) -> Gates:
        """The gates' shares on a batch, by cell and gate; see above. Random state and modes stay as they are."""
        model = self.task.model
        with _as_it_was(model), enable_grad(), np.errstate(all="ignore"):
            model.eval()
            with watching(model) as seen:
                self.task.measure(model, _first_rows(batch), None)
        values: dict[tuple[str, str], list[Seen]] = {}
        for one in seen:
            values.setdefault((one.cell, one.name), []).append(one)
        found: Gates = {}
        for (cell, name), steps in values.items():
            if _is_gate(steps):
                found.setdefault(cell, {})[name] = _shares([one.value.numpy() for one in steps])
        return found

    def _warnings(self, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(kind, text) of everything that is not as it should be, given before or not."""
        gradient = record["gradient"]
        if gradient is not None:
            if gradient["largest"] > 100 * self.clip:
                yield "exploding", ADVICE["exploding"].format(clip=self.clip, **gradient)
            if gradient["clipped"] > 0.9 and gradient["mean"] > 10 * self.clip:
                yield "clipped", ADVICE["clipped"].format(clip=self.clip, **gradient)
        most = max(record["layers"].values(), default=0.0)
        for where, norm in record["layers"].items():
            if norm < 1e-6 * most:
                yield "vanishing", ADVICE["vanishing"].format(where=where, norm=norm, most=most)
                break
        for cell, gates in record["gates"].items():
            for name, now in gates.items():
                before = (self.sums.start or {}).get(cell, {}).get(name, {"closed": 0.0, "open": 0.0})
                share = now["closed"] + now["open"]
                if share > 0.9 and before["closed"] + before["open"] < 0.5:
                    where = f'"{name}" of {cell}'
                    yield "saturated", ADVICE["saturated"].format(where=where, share=share)
                    return


def layer_norms(model: Module) -> dict[str, float]:
    """Module -> the joint norm of the gradients of its own parameters, those of modules inside it apart.

    Parameters without a gradient count as zero. The model itself is called by its class.
    """
    own: dict[str, list[Tensor]] = {}
    for name, p in model.named_parameters():
        own.setdefault(name.rpartition(".")[0] or type(model).__name__, []).append(p)
    return {name: clip_grad_norm(params, math.inf) for name, params in own.items()}


def find_nonfinite(task: Task, batch: Batch, state: Any) -> str:
    """Where values that are not finite begin, when the model's loss on `batch` and its gradient are computed op by op.

    In this order: the parameters, the inputs, what the cells' steps give to `tr.probe`, the loss; then, backwards, the
    gradients of what was probed, and those of the parameters. "" if all of it is finite.
    """
    named = list(task.model.named_parameters())
    for name, p in named:
        if not _is_finite(p):
            return f"the parameter {name}"
    for t, x in enumerate(batch.inputs):
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            return f"the inputs of the batch at step {t + 1}"
    with enable_grad(), np.errstate(all="ignore"), watching(task.model) as seen:
        loss = task.measure(task.model, batch, state).loss
        for one in seen:
            if not _is_finite(one.value):
                return str(one)
        if not _is_finite(loss):
            return "the loss"
        wanted = [one for one in seen if one.value.requires_grad]
        found = grad(loss, [*(one.value for one in wanted), *(p for _, p in named)], allow_unused=True)
    for one, g in zip(reversed(wanted), reversed(found[: len(wanted)]), strict=True):
        if g is not None and not _is_finite(g):
            return f"on the way back, the gradient of {one}"
    for (name, _), g in zip(named, found[len(wanted) :], strict=True):
        if g is not None and not _is_finite(g):
            return f"the gradient of {name}"
    return ""


@contextmanager
def watching(model: Module) -> Iterator[list[Seen]]:
    """Collect what the steps of the model's cells give to `tr.probe`, in the order of computation.

    A cell inside a wrapper goes by its own path. Cells run op by op in the block, as in `tr.probes()`.
    """
    seen: list[Seen] = []
    cells = [(path, module) for path, module in model.named_modules() if isinstance(module, Cell)]
    hidden = [vars(cell).get("step") for _, cell in cells]
    for path, cell in cells:
        vars(cell)["step"] = _recorded(path or type(model).__name__, cell, seen)  # not an assignment: plans stay
    try:
        with probes():
            yield seen
    finally:
        for (_, cell), step in zip(cells, hidden, strict=True):
            if step is None:
                del vars(cell)["step"]
            else:
                vars(cell)["step"] = step


def _recorded(path: str, cell: Cell, seen: list[Seen]) -> Any:
    """The cell's step, adding to `seen` what it probes, but for what a cell inside it did."""
    step, states, count = cell.step, frozenset(cell.states), 0

    @wraps(step)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        first = len(seen)
        with probes() as found:
            result = step(*args, **kwargs)
        inside = {id(one.value) for one in seen[first:]}
        seen.extend(
            Seen(path, count, name, value, name in states)
            for name, values in found.items()
            for value in values
            if id(value) not in inside
        )
        count += 1
        return result

    return recorded


@contextmanager
def _as_it_was(model: Module) -> Iterator[None]:
    """Give the model's generators and modes back as they are."""
    modes = [(module, module.training) for module in model.modules()]
    states = [(generator, generator.bit_generator.state) for _, generator in model.named_generators()]
    try:
        yield
    finally:
        for generator, state in states:
            generator.bit_generator.state = state
        for module, training in modes:
            module.training = training


def _first_rows(batch: Batch) -> Batch:
    targets = batch.targets[:ROWS] if batch.targets.ndim == 1 else batch.targets[:, :ROWS]
    lengths = None if batch.lengths is None else batch.lengths[:ROWS]
    return batch._replace(inputs=batch.inputs[:, :ROWS], targets=targets, lengths=lengths)


def _is_gate(steps: list[Seen]) -> bool:
    if any(one.is_state and (one.value.op is None or one.value.op.name != "sigmoid") for one in steps):
        return False
    return all(one.value.size == 0 or (one.value.numpy().min() >= 0 and one.value.numpy().max() <= 1) for one in steps)


def _shares(steps: list[Array]) -> dict[str, float]:
    """steps: (rows, width) each. A unit is a column."""
    values = np.concatenate([np.zeros((0, steps[0].shape[-1]), steps[0].dtype), *steps])
    if not values.size:
        return {"closed": 0.0, "open": 0.0, "stuck": 0.0}
    closed, wide = values < CLOSED, values > OPEN
    stuck = closed.all(axis=0) | wide.all(axis=0)
    return {"closed": _short(closed.mean()), "open": _short(wide.mean()), "stuck": _short(stuck.mean())}


def _short(value: float) -> float:
    """Four digits, enough to read."""
    return float(f"{value:.4g}")


def _is_finite(tensor: Tensor) -> bool:
    return bool(np.isfinite(to_host(tensor._array)).all())
