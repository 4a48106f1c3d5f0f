"""The two figures of the lectures, after Graves 2012: what is left of the first input, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyrnn._core.tape import Tensor
from tinyrnn.autograd import no_grad
from tinyrnn.cells import LSTM, Elman
from tinyrnn.cells.wrappers import Wrapper
from tinyrnn.flow import sensitivity as output_sensitivity
from tinyrnn.loop import unroll
from tinyrnn.module import Cell, as_rng, as_size, probes
from tinyrnn.plots.style import Theme, dress, matplotlib, new_figure, shades, theme_named
from tinyrnn.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

PLACES = {"below": (0.0, -0.33), "left": (-0.33, 0.0), "above": (0.0, 0.33)}
"""Where a gate's sign stands, from the middle of its node, in steps."""


@dataclass(frozen=True, repr=False)
class SensitivityData(Record):
    """What `sensitivity_map` drew, of T steps."""

    norms: dict[str, Floats]
    """State -> the norm of d state_t / d x_1, the mean over rows, (T,)."""
    gates: dict[str, Floats]
    """Gate -> its mean over rows and units, (T,)."""

    @property
    def shades(self) -> dict[str, Floats]:
        """`norms`, each over its largest: how dark the nodes are, (T,)."""
        return {name: norms / (norms.max() or 1.0) for name, norms in self.norms.items()}

    @property
    def signs(self) -> dict[str, str]:
        """Gate -> one sign a step: "o" open, above 0.5, "-" closed."""
        return {name: "".join("o" if value > 0.5 else "-" for value in means) for name, means in self.gates.items()}


def fading(
    steps: int = 7, *, rng: np.random.Generator | int = 0, theme: str | Theme = "light"
) -> tuple[Figure, SensitivityData]:
    """Vanilla RNN: the first input fades from the state, as later inputs write over it (lecture 003; Graves 2012,
    figure 4.1).

    An Elman network of 8 units as it is drawn, random inputs. See `sensitivity_map`.
    """
    rng, steps = as_rng(rng), as_size("steps", steps)
    cell = Elman(3, 8, dtype="float64", rng=rng)
    return sensitivity_map(cell, rng.normal(size=(steps, 1, 3)), title="Vanilla RNN", theme=theme)


def preservation(
    steps: int = 7,
    open_at: Sequence[int] = (4, 6),
    *,
    rng: np.random.Generator | int = 0,
    theme: str | Theme = "light",
) -> tuple[Figure, SensitivityData]:
    """LSTM: the first input is kept for as long as the forget gate is open and the input gate closed, and shows in the
    output where the output gate opens (lecture 003; Graves 2012, figure 4.4).

    open_at: the steps, from 1, at which the output gate is open. The input gate is open at step 1 alone, the forget
    gate at all. An LSTM of 8 units whose gates are driven by three further inputs, see `driven_lstm`. Raises ValueError
    for a step that there is not. See `sensitivity_map`.
    """
    rng, steps = as_rng(rng), as_size("steps", steps)
    if wrong := [t for t in open_at if not 1 <= t <= steps]:
        raise ValueError(f"open_at must name steps 1..{steps}, got {wrong[0]}")
    drive = np.zeros((steps, 1, 3))
    drive[0, :, 0] = 1
    drive[:, :, 1] = 1
    drive[[t - 1 for t in open_at], :, 2] = 1
    xs = np.concatenate([rng.normal(size=(steps, 1, 1)), drive], axis=2)
    gates = {"i": "below", "f": "left", "o": "above"}
    return sensitivity_map(driven_lstm(rng), xs, gates=gates, title="LSTM", theme=theme)


def driven_lstm(rng: np.random.Generator | int, hidden: int = 8) -> LSTM:
    """An LSTM of 4 inputs: a signal, which the candidate alone reads, and one each that opens i, f and o at 1 and
    closes it at 0: an open gate is above 0.99, a closed one below 0.01. Recurrent weights are as they are drawn."""
    cell = LSTM(4, hidden, dtype="float64", rng=rng)
    for column, k in enumerate("ifo", 1):
        weights = np.zeros((4, hidden))
        weights[column] = 16.0
        getattr(cell, f"W_x{k}").data = weights
        getattr(cell, f"b_{k}").data = np.full(hidden, -8.0)
    weights = cell.W_xg.numpy().copy()
    weights[1:] = 0.0
    cell.W_xg.data = weights
    return cell


def sensitivity_map(
    cell: Cell,
    xs: Array,
    *,
    gates: Mapping[str, str] | None = None,
    title: str = "",
    theme: str | Theme = "light",
) -> tuple[Figure, SensitivityData]:
    """Nodes over time, the darker the more they depend on the input of step 1: of each row of nodes, its own largest
    is darkest. Under, beside and over a node stand its gates, "o" open and "-" closed, at the mean of their units.

    cell: any; its states are the rows of nodes, the output on top. xs: (T, B, I). gates: probe -> "below", "left" or
    "above" the state's node, that is, the last state's. theme: "light" or "dark". Raises ValueError for a probe or a
    place that there is not, what `tr.flow.sensitivity` raises, and MissingExtraError without matplotlib.
    """
    look, places = theme_named(theme), dict(gates or {})
    if wrong := [place for place in places.values() if place not in PLACES]:
        raise ValueError(f"gates must stand at one of {', '.join(PLACES)}, got {wrong[0]!r}")
    data = _measure(cell, xs, places)
    steps = len(xs)
    rows = ["input", *reversed(data.norms)]
    figure = new_figure(look, max(5.0, 0.85 * steps + 1.6), 1.0 * len(rows) + 1.1)
    ax = figure.subplots()
    dress(ax, look, x="step", title=title, grid=False)
    for side in ax.spines.values():
        side.set_visible(False)
    values = [np.eye(1, steps)[0], *(data.shades[name] for name in rows[1:])]
    for y, of in enumerate(values):
        _nodes(ax, look, y, of, recurrent=y == 1)
    for name, place in places.items():
        dx, dy = PLACES[place]
        for t, sign in enumerate(data.signs[name]):
            text = "o" if sign == "o" else "–"
            ax.text(
                t + dx, 1 + dy, text, color=look.ink, ha="center", va="center", fontsize=11, weight="bold",
                bbox={"facecolor": look.paper, "edgecolor": "none", "pad": 0.8},
            )  # fmt: skip
    ax.set_xlim(-0.6, steps - 0.4)
    ax.set_ylim(-0.5, len(rows) - 0.5)
    ax.set_aspect("equal")
    ax.set_xticks(range(steps), [str(t + 1) for t in range(steps)])
    ax.set_yticks(range(len(rows)), [_label(cell, name) for name in rows])
    ax.tick_params(length=0)
    bar = figure.colorbar(_scale(look), ax=ax, fraction=0.035, pad=0.02, shrink=0.8)
    bar.set_label("|d node / d input 1|,\nof the row's largest", color=look.ink, fontsize=9)
    bar.outline.set_edgecolor(look.faint)
    bar.ax.tick_params(color=look.faint, labelcolor=look.ink, labelsize=9)
    return figure, data


def _label(cell: Cell, name: str) -> str:
    return f"output {name}" if name == cell.states[0] else f"state {name}" if name in cell.states else name


def _nodes(ax: Axes, look: Theme, y: int, values: Floats, recurrent: bool) -> None:
    steps = np.arange(len(values))
    if recurrent:
        ax.plot(steps, np.full(len(steps), y), color=look.faint, linewidth=1.2, zorder=1)
    if y:
        for t in steps:
            ax.plot([t, t], [y - 1, y], color=look.faint, linewidth=1.2, zorder=1)
    ax.scatter(
        steps, np.full(len(steps), y), s=420, c=values, cmap=shades(look), vmin=0, vmax=1, edgecolors=look.ink, zorder=2
    )


def _scale(look: Theme) -> Any:
    return matplotlib("cm").ScalarMappable(matplotlib("colors").Normalize(0, 1), shades(look))


class _Turned(Wrapper):
    """A cell with another of its states in the first place, which is the output. first: that state's name."""

    def __init__(self, cell: Cell, first: str) -> None:
        super().__init__(cell)
        self.first = first
        self._order = [cell.states.index(first), *(k for k, name in enumerate(cell.states) if name != first)]

    @property
    def states(self) -> tuple[str, ...]:  # type: ignore[override]  # in another order
        return tuple(self.cell.states[k] for k in self._order)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return tuple(self.cell.state_sizes[k] for k in self._order)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        states = self.cell.initial_state(batch)
        return tuple(states[k] for k in self._order)

    def step(self, *args: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        n = len(self._order)
        back = np.argsort(self._order)
        states = self.take_step(args[:-n], tuple(args[-n:][k] for k in back))
        return tuple(states[k] for k in self._order)


def _measure(cell: Cell, xs: Array, gates: Mapping[str, str]) -> SensitivityData:
    norms = {
        name: output_sensitivity(cell if k == 0 else _Turned(cell, name), xs).norms.mean(axis=1)
        for k, name in enumerate(cell.states)
    }
    with no_grad(), probes() as seen:
        unroll(cell, xs)
    if unknown := [name for name in gates if name not in seen]:
        raise ValueError(f"gates must be among the probes {', '.join(seen)}, got {unknown[0]!r}")
    means = {name: np.array([value.numpy().mean() for value in seen[name]]) for name in gates}
    return SensitivityData(norms, means)
