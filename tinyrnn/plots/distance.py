"""How a gradient fades, or grows, with distance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor, wrap
from tinyrnn.flow import trace
from tinyrnn.loop import Sequences
from tinyrnn.module import Cell
from tinyrnn.plots.style import Theme, dress, legend, line, new_figure, theme_named
from tinyrnn.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
Loss: TypeAlias = Callable[[Tensor, tuple[Tensor, ...]], Tensor]
"""(ys (T, B, H), the final states) -> a scalar, as `tr.flow.trace` takes it."""
Source: TypeAlias = Cell | tuple[Cell, Loss]

FLOOR = 1e-12
"""What lies below this, relative to distance 0, is not shown."""


@dataclass(frozen=True, repr=False)
class DistanceData(Record):
    """What `gradient_by_distance` drew."""

    distances: npt.NDArray[np.int64]
    """Steps before the last, (T,): 0 .. T-1."""
    norms: dict[str, dict[str, Floats]]
    """Panel -> label -> the norm of dL/d(all states of a step), the root of the mean square over rows, (T,)."""

    @property
    def relative(self) -> dict[str, dict[str, Floats]]:
        """`norms` over that of distance 0; NaN where that is 0."""
        return {
            panel: {label: norms / (norms[0] if norms[0] else np.nan) for label, norms in of.items()}
            for panel, of in self.norms.items()
        }


def gradient_by_distance(
    panels: Mapping[str, Mapping[str, Source]], xs: Sequences | Mapping[str, Sequences], *, theme: str | Theme = "light"
) -> tuple[Figure, DistanceData]:
    """The norm of the gradient that reaches the states of each step, by its distance from the last, on a log scale.

        fig, data = tr.plots.gradient_by_distance({"at initialisation": {"LSTM": lstm, "GRU": gru}}, xs)

    panels: one plot each, title -> label -> a cell, or (cell, loss_fn) with loss_fn as `tr.flow.trace` takes it; by
    default the loss is the sum of the last output's features with fixed signs, +1 and -1 in turn. xs: (T, B, I), for
    all of them, or panel -> xs, of one T. Norms are relative to distance 0: the slope is what a step does to a
    gradient. theme: "light" or "dark". Raises ValueError without a cell or for panels that do not fit xs, what `trace`
    raises, and MissingExtraError without matplotlib.
    """
    look = theme_named(theme)
    if not panels or not all(panels.values()):
        raise ValueError("panels must hold one or more, each with one cell or more")
    if isinstance(xs, Mapping) and (missing := [panel for panel in panels if panel not in xs]):
        raise ValueError(f"xs must hold the sequences of every panel, got none for {missing[0]!r}")
    norms: dict[str, dict[str, Floats]] = {}
    for panel, sources in panels.items():
        given = xs[panel] if isinstance(xs, Mapping) else xs
        norms[panel] = {
            label: decay(source[0], given, source[1]) if isinstance(source, tuple) else decay(source, given)
            for label, source in sources.items()
        }
    lengths = {len(found) for of in norms.values() for found in of.values()}
    if len(lengths) > 1:
        raise ValueError(f"xs must be of one number of steps in every panel, got {sorted(lengths)}")
    (steps,) = lengths
    data = DistanceData(np.arange(steps), norms)
    figure = new_figure(look, 4.6 * len(panels) + 1.6, 3.8)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    order = {label: k for k, label in enumerate(dict.fromkeys(label for of in norms.values() for label in of))}
    for ax, (panel, of) in zip(axes, data.relative.items(), strict=True):
        for label, relative in of.items():
            style = line(order[label], look)
            shown = np.where(relative > 0, relative, np.nan)  # 0 has no place on a log scale
            ax.plot(data.distances, shown, label=label, markevery=max(1, steps // 12), **style)
        ax.set_yscale("log")
        y = "gradient's norm / norm at distance 0" if ax is axes[0] else ""
        dress(ax, look, x="distance from the last step (steps)", y=y, title=panel)
    every = np.concatenate(
        [[1.0], *(r[np.isfinite(r) & (r > FLOOR)] for of in data.relative.values() for r in of.values())]
    )
    axes[0].set_ylim(every.min() / 3, every.max() * 3)
    legend(axes[-1], look, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure, data


def decay(cell: Cell, xs: Sequences, loss_fn: Loss | None = None) -> Floats:
    """The norm of dL/d(all states of a step) by the step's distance from the last, (T,): the root of the mean square
    over rows. loss_fn: as `tr.flow.trace` takes it; None: of the last output, see `gradient_by_distance`."""
    found = trace(cell, xs, last_output if loss_fn is None else loss_fn)
    squares = sum(signal.norms**2 for signal in found.states.values())
    return np.sqrt(np.mean(squares, axis=1))[::-1]


def last_output(ys: Tensor, finals: tuple[Tensor, ...]) -> Tensor:
    """The sum of the last output's features with signs +1 and -1 in turn, over all rows."""
    signs = np.where(np.arange(ys.shape[2]) % 2, -1, 1).astype(ys.dtype)
    return (ys[-1] * wrap(signs)).sum()
