"""Cells compared by how far back their gradients reach, before training and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinyrnn import optim
from tinyrnn._core.tape import Tensor
from tinyrnn.clip import clip_grad_norm
from tinyrnn.data import adding_batch
from tinyrnn.plots import DistanceData, gradient_by_distance
from tinyrnn.plots.distance import Source
from tinyrnn.train import AddingOptions, Regressor
from tinyrnn.train.problems import measure_adding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELLS = ("Elman", "Additive", "SelectiveRead", "LSTM", "GRU")
"""What the lectures compare; SelectiveRead is the LSTM without a forget gate."""
MADE, KEEPING, TRAINED = PANELS = ("as made", "gates set to keep", "after training")
ROWS = 64
"""Sequences over which gradients are measured."""
RATE = 0.005
"""Adam's; at twice that, an LSTM of 32 units does not learn the problem from every seed."""
LAST = 50
"""Training steps over which the loss is averaged."""


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured."""

    distance: DistanceData
    """Panel -> cell -> norms by distance."""
    parameters: dict[str, int]
    """Of each cell, without its readout."""
    losses: dict[str, float]
    """The mean squared error of the last 50 training steps; the mean as answer has 1/24. Empty without training."""


def compare(
    cells: Sequence[str] = CELLS,
    *,
    steps: int = 60,
    hidden: int = 32,
    training: int = 1000,
    seed: int = 0,
    theme: str = "light",
    progress: Callable[[int, str], None] | None = None,
) -> tuple[Figure, Comparison]:
    """Measure the gradient of a cell's answer in the adding problem by its distance, three times: in a cell as it is
    made; with the biases of its memory gates set to keep the state for `steps` steps, as `tinyrnn train adding` starts;
    and after training from there.

    cells: names as `tr.cells.by_name` takes them. steps: of the sequences, 10 or more; hidden: units; training: Adam
    steps of 32 sequences, at a rate of 0.005 and a norm of 1, 0 for none. progress: told how many training steps of
    all are done, and the cell at hand. Raises ValueError for an unknown cell, MissingExtraError without matplotlib.
    """
    rng = np.random.default_rng(seed)
    xs = adding_batch(rng, ROWS, steps).inputs[:steps]
    panels: dict[str, dict[str, Source]] = {name: {} for name in (PANELS if training else PANELS[:2])}
    parameters, losses = {}, {}
    for k, name in enumerate(cells):

        def tell(done: int, k: int = k, name: str = name) -> None:
            if progress is not None:
                progress(k * training + done, name)

        for panel, of in panels.items():
            memory = 0 if panel == MADE else steps
            model = Regressor(2, hidden=hidden, cell=name, memory=memory, rng=np.random.default_rng(seed))
            if panel == TRAINED:
                losses[name] = _train(model, steps, training, seed, tell)
            of[name] = (model.rnn.cells[0][0], _answer(model))
        parameters[name] = sum(p.size for p in model.rnn.parameters())
    figure, data = gradient_by_distance(panels, xs, theme=theme)
    return figure, Comparison(data, parameters, losses)


def _answer(model: Regressor) -> Callable[[Tensor, tuple[Tensor, ...]], Tensor]:
    return lambda ys, finals: model.readout(ys[-1]).sum()


def _train(model: Regressor, steps: int, training: int, seed: int, tell: Callable[[int], None]) -> float:
    rng, found = np.random.default_rng([seed, 1]), []
    optimiser = optim.Adam(model.parameters(), lr=RATE)
    for done in range(1, training + 1):
        batch = adding_batch(rng, AddingOptions.batch, steps)
        loss = measure_adding(model, batch, None).loss
        optimiser.zero_grad()
        loss.backward()
        if np.isfinite(clip_grad_norm(optimiser.params, AddingOptions.clip)):
            optimiser.step()
        found.append(loss.item())
        tell(done)
    return float(np.mean(found[-LAST:]))
