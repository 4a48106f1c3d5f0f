"""Exploding and vanishing gradients in training, and what clipping cures: the adding problem at growing length.

Five networks learn to add two numbers of a sequence, with and without clipping the norm of the gradient (Pascanu,
Mikolov & Bengio 2013; lecture 000): Elman networks whose recurrent matrix is orthogonal times a gain of 0.5, 1.2 or 2,
an LSTM and a GRU whose gates start out to remember 1 .. T steps (`tr.init.chrono`). The recipe is the same for all but
the learning rate: SGD with momentum 0.9, because Adam, which divides by the gradient's size, would hide what is shown.

What is to be seen. With a gain of 0.5 the gradient vanishes on its way back, so the network learns nothing of what is
far, clipped or not. With 2 it grows on its way back, by 1e5 over 80 steps; with 1.2 it keeps its size at first, and
explodes in training. On long sequences either wrecks the network: the loss ends far above that of the mean as answer,
or overflows. Clipped, with the same data, the network of gain 1.2 learns at a length where it failed, and both stay
sound where they do not learn either: clipping cures explosion and nothing else. The cells with gates keep their
gradients and learn at every length; they do not need clipping here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from tinyrnn import init, ops
from tinyrnn._core.tape import Tensor
from tinyrnn.clip import clip_grad_norm
from tinyrnn.data import Batch, adding_batch
from tinyrnn.flow import trace
from tinyrnn.module import Cell
from tinyrnn.optim import SGD
from tinyrnn.train import Regressor

Floats = npt.NDArray[np.float64]

MEAN_LOSS = 1 / 24
"""The loss of the mean as answer to every sequence: the variance of 0.5 + (X1 + X2) / 4."""
MOMENTUM = 0.9
ELMAN_RATE, GATED_RATE = 0.07, 0.3
"""Learning rates, chosen by trial. At 0.07 the readout of an Elman network, learned alone, is stable, so that what goes
wrong comes from its recurrence. The cells with gates have smaller states, and bear and need a larger one."""


@dataclass(frozen=True)
class Settings:
    """What can be chosen. Raises ValueError for what can not be run."""

    lengths: tuple[int, ...] = (10, 30, 80)
    """The shortest sequences of each run; the longest are a tenth longer. At least 10."""
    updates: int = 2000
    """Batches that each run learns from, each seen once."""
    clip: float = 0.2
    """Largest norm of a gradient, where it is clipped."""
    gains: tuple[float, ...] = (0.5, 1.2, 2.0)
    """Of the recurrent matrices of the Elman networks."""
    hidden: int = 32
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("updates", 1), ("hidden", 1), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not self.lengths or min(self.lengths) < 10 or len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"lengths must be different numbers of at least 10 steps, got {self.lengths}")
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ValueError(f"clip must be a number > 0, got {self.clip}")
        if not all(math.isfinite(gain) and gain > 0 for gain in self.gains) or len({*self.gains}) < len(self.gains):
            raise ValueError(f"gains must be different numbers > 0, got {self.gains}")


@dataclass(frozen=True)
class Net:
    """One of the networks that are compared."""

    name: str
    cell: str
    lr: float
    gain: float | None = None
    """Of the recurrent matrix of an Elman network; None for a cell with gates."""

    def build(self, steps: int, settings: Settings) -> Regressor:
        """The untrained network, the same for the same settings."""
        model = Regressor(2, hidden=settings.hidden, cell=self.cell, rng=np.random.default_rng(settings.seed))
        if self.gain is None:
            init.chrono(cell_of(model), steps)
        else:
            init.apply(cell_of(model), {"W_h": partial(init.orthogonal, gain=self.gain)})
        return model


def nets(settings: Settings) -> list[Net]:
    """The networks: Elman of each gain, LSTM, GRU."""
    elmans = [Net(f"Elman, gain {gain:g}", "elman", ELMAN_RATE, gain) for gain in settings.gains]
    return [*elmans, Net("LSTM", "lstm", GATED_RATE), Net("GRU", "gru", GATED_RATE)]


def cell_of(model: Regressor) -> Cell:
    return model.rnn.cells[0][0]


@dataclass(frozen=True)
class Course:
    """One training run."""

    net: Net
    steps: int
    clip: float | None
    """None: without clipping."""
    updates: int
    """As many were asked for."""
    losses: Floats
    """The loss of each batch before its update, (n,): n < updates if the loss or the gradient was not finite any more,
    and the last values say which."""
    norms: Floats
    """The norm of each gradient before clipping, (n,)."""

    @property
    def stopped(self) -> bool:
        """Whether the loss or the gradient left the numbers."""
        return not (math.isfinite(self.losses[-1]) and math.isfinite(self.norms[-1]))

    @property
    def final_loss(self) -> float:
        """The mean loss of the last hundred batches, or tenth if fewer than 1,000 were asked for; inf if it stopped."""
        last = max(1, min(100, self.updates // 10))
        return math.inf if self.stopped else float(self.losses[-last:].mean())

    @property
    def largest_norm(self) -> float:
        return math.inf if self.stopped else float(self.norms.max())

    @property
    def block(self) -> int:
        """Updates that are one point of `curves`, a hundredth of all."""
        return -(-self.updates // 100)

    @property
    def curves(self) -> tuple[Floats, Floats, Floats]:
        """(updates so far, mean loss, largest norm) of each `block` of updates."""
        size = self.block
        starts = np.arange(0, len(self.losses), size)
        ends = np.minimum(starts + size, len(self.losses))
        mean = np.add.reduceat(self.losses, starts) / (ends - starts)
        return ends.astype(np.float64), mean, np.maximum.reduceat(self.norms, starts)


@dataclass(frozen=True)
class Findings:
    """All that was measured."""

    settings: Settings
    nets: list[Net]
    decays: dict[tuple[str, int], Floats] = field(default_factory=dict)
    """(net, steps) -> `decay` of the untrained network."""
    courses: dict[tuple[str, int, bool], Course] = field(default_factory=dict)
    """(net, steps, whether it was clipped) -> the run."""

    @property
    def calmed(self) -> tuple[str, int]:
        """The net and steps whose largest gradient clipping lowered by the largest factor, at the longest length."""
        return self._most(lambda course: course.largest_norm, [max(self.settings.lengths)])

    @property
    def cured(self) -> tuple[str, int]:
        """The net and steps whose last loss clipping lowered by the largest factor."""
        return self._most(lambda course: course.final_loss, self.settings.lengths)

    def _most(self, value: Callable[[Course], float], lengths: Sequence[int]) -> tuple[str, int]:
        def factor(key: tuple[str, int]) -> float:
            without, clipped = (value(self.courses[*key, which]) for which in (False, True))
            return 0.0 if math.isinf(clipped) else without / clipped

        return max(((net.name, steps) for steps in lengths for net in self.nets), key=factor)


def work_of(settings: Settings) -> int:
    """How much there is to do, in steps of batches."""
    return 2 * len(nets(settings)) * settings.updates * sum(settings.lengths)


def run(settings: Settings, watch: Callable[[int, str], None] = lambda done, text: None) -> Findings:
    """The whole experiment. watch: called every few updates with (work done, what is under way)."""
    found = Findings(settings, nets(settings))
    done = 0
    for steps in settings.lengths:
        batches = make_batches(steps, settings)
        for net in found.nets:
            found.decays[net.name, steps] = decay(net.build(steps, settings), batches[0], steps)
            for clip in (None, settings.clip):
                text = f"{net.name}, {steps} steps, {'clipped' if clip else 'not clipped'}"

                def step(update: int, loss: float, before: int = done, steps: int = steps, text: str = text) -> None:
                    watch(before + update * steps, f"{text}  loss {loss:.4f}")

                found.courses[net.name, steps, clip is not None] = train(net, batches, steps, settings, clip, step)
                done += steps * settings.updates
    return found


def make_batches(steps: int, settings: Settings) -> list[Batch]:
    """The batches of every run of that length, in order."""
    rng = np.random.default_rng([settings.seed, steps])
    return [adding_batch(rng, settings.batch, steps) for _ in range(settings.updates)]


def train(
    net: Net,
    batches: Sequence[Batch],
    steps: int,
    settings: Settings,
    clip: float | None,
    watch: Callable[[int, float], None] = lambda update, loss: None,
) -> Course:
    """One run; it ends at once where the loss or the gradient is no number any more.

    clip: the largest norm, or None. watch: called every few updates with (updates so far, the last loss).
    """
    model = net.build(steps, settings)
    params = list(model.parameters())
    optimiser = SGD(params, lr=net.lr, momentum=MOMENTUM)
    losses, norms = [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for update, batch in enumerate(batches):
            loss = ops.mse_loss(model(batch.inputs, batch.lengths), batch.targets)
            optimiser.zero_grad()
            loss.backward()
            losses.append(loss.item())
            norms.append(clip_grad_norm(params, math.inf if clip is None else clip))
            if not (math.isfinite(losses[-1]) and math.isfinite(norms[-1])):
                break
            optimiser.step()
            if update % 10 == 9:
                watch(update + 1, losses[-1])
    return Course(net, steps, clip, len(batches), np.array(losses), np.array(norms))


def decay(model: Regressor, batch: Batch, steps: int) -> Floats:
    """The norm of dL/d(all states of a step) by the step's distance from the last one, 0 .. steps-1: (steps,), the root
    of the mean square over the batch, whose rows have at least `steps` steps. As `flow.trace` counts them: the gradient
    of an LSTM's c holds its way through h = o tanh(c) too."""
    assert batch.lengths is not None

    def loss_fn(ys: Tensor, finals: tuple[Tensor, ...]) -> Tensor:
        return ops.mse_loss(model.readout(finals[0]).reshape(-1), batch.targets)

    found = trace(cell_of(model), batch.inputs, loss_fn, lengths=batch.lengths)
    squares = np.sum([signal.norms.astype(np.float64) ** 2 for signal in found.states.values()], axis=0)
    back = batch.lengths - 1 - np.arange(steps)[:, None]  # (steps, B): the step at each distance
    return np.sqrt(squares[back, np.arange(len(batch.lengths))].mean(axis=1))
