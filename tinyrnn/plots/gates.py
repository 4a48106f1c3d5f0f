"""Gates over a sentence: what was written, kept and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyrnn.flow import Trace
from tinyrnn.plots.style import Theme, dress, legend, line, new_figure, shades, spread, theme_named
from tinyrnn.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


ORDER = {"i": 0, "f": 1, "o": 2}


@dataclass(frozen=True, repr=False)
class GateMapData(Record):
    """What `gate_map` drew, of T words and H units."""

    words: tuple[str, ...]
    gates: dict[str, Array]
    """Gate -> its values, (T, H)."""
    order: dict[str, npt.NDArray[np.int64]]
    """Gate -> the units from top to bottom, (H,): by the mean of the first gate of that width over the words."""
    states: dict[str, Floats]
    """State -> its norm after each word, (T,)."""
    gradients: dict[str, Floats]
    """State -> the norm of dL/d(state) after each word, (T,)."""


def gate_map(
    words: Sequence[str],
    found: Trace,
    *,
    row: int = 0,
    gates: Sequence[str] | None = None,
    units: bool = True,
    title: str = "",
    theme: str | Theme = "light",
) -> tuple[Figure, GateMapData]:
    """Gates word by word, beside the norms of the states and of the gradients that reach them.

    words: one a step of the row. found: what `tr.flow.trace` measured. row: which of its rows. gates: probes to show,
    in order; by default all whose values lie in [0, 1] and that are no states, "i", "f", "o" first. units: one line a
    unit, sorted by its mean over the words, the same order in every gate of one width; False: means and the middle
    half of the units. theme: "light" or "dark". Raises ValueError for a gate that is not among the probes or words that
    do not fit, MissingExtraError without matplotlib.
    """
    look, data = theme_named(theme), _read(words, found, row, gates)
    count = len(data.gates)
    steps = len(data.words)
    heights = [1.5 if units else 1.1] * count + [1.25, 1.25]
    figure = new_figure(look, min(max(6.4, 0.42 * steps + 1.8), 16.0), sum(heights) + 0.9)
    axes = figure.subplots(len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights})
    image: Any = None
    for ax, (name, values) in zip(axes, data.gates.items(), strict=False):
        if units:
            shown = values[:, data.order[name]].T
            image = ax.imshow(shown, aspect="auto", cmap=shades(look), vmin=0, vmax=1, interpolation="nearest")
            dress(ax, look, y=f"{name}\nunits", grid=False)
            ax.set_yticks([])
        else:
            _means(ax, look, name, values)
    if image is not None:
        bar = figure.colorbar(image, ax=list(axes[:count]), pad=0.01, fraction=0.03, aspect=12 * count)
        bar.set_ticks([0, 0.5, 1], labels=["0 closed", "0.5", "1 open"])
        bar.outline.set_edgecolor(look.faint)
        bar.ax.tick_params(color=look.faint, labelcolor=look.ink, labelsize=9)
    for ax, norms, label in (
        (axes[-2], data.states, "norm of\nthe state"),
        (axes[-1], data.gradients, "norm of\ndL/d(state)"),
    ):
        for k, (name, values) in enumerate(norms.items()):
            ax.plot(np.arange(steps), values, label=name, **line(k, look))
        dress(ax, look, y=label)
        ax.set_ylim(bottom=0)
        legend(ax, look, ncols=len(norms), loc="best")
    last = axes[-1]
    at = spread(data.words, 48)
    last.set_xticks(
        at, [data.words[k] for k in at], rotation=45 if steps > 6 else 0, ha="right" if steps > 6 else "center"
    )
    last.set_xlim(-0.5, steps - 0.5)
    if title:
        axes[0].set_title(title, color=look.ink, fontsize=11, loc="left")
    return figure, data


def _means(ax: Axes, look: Theme, name: str, values: Array) -> None:
    steps = np.arange(len(values))
    low, high = np.quantile(values, [0.25, 0.75], axis=1)
    ax.fill_between(steps, low, high, color=look.series[0], alpha=0.25, linewidth=0)
    ax.plot(steps, values.mean(axis=1), **line(0, look))
    ax.set_ylim(-0.02, 1.02)
    dress(ax, look, y=f"{name}\nmean of units")


def gates_of(found: Trace, row: int = 0) -> dict[str, Array]:
    """The probes whose values lie in [0, 1] in that row and that are no states, (T, H) each; i, f, o first."""
    steps = int(found.lengths[row])
    known = {
        name: signal.values[:steps, row]
        for name, signal in found.probes.items()
        if signal.values.ndim == 3 and name not in found.states
    }
    inside = {name: v for name, v in known.items() if v.size and v.min() >= 0 and v.max() <= 1}
    return {name: inside[name] for name in sorted(inside, key=lambda name: ORDER.get(name, 3))}


def _read(words: Sequence[str], found: Trace, row: int, names: Sequence[str] | None) -> GateMapData:
    rows = len(found.lengths)
    if not -rows <= row < rows:
        raise ValueError(f"row must be one of the {rows} that were traced, got {row}")
    steps = int(found.lengths[row])
    if isinstance(words, str) or len(words) != steps:
        raise ValueError(f"words must be {steps} strings, one a step of the row, got {len(words)}")
    gates = gates_of(found, row)
    if names is not None:
        if unknown := [name for name in names if name not in found.probes]:
            raise ValueError(f"gates must be among the probes {', '.join(found.probes)}, got {unknown[0]!r}")
        gates = {name: found.probes[name].values[:steps, row] for name in names}
    order: dict[int, npt.NDArray[np.int64]] = {}
    by_mean = ["f", *gates] if "f" in gates else list(gates)
    for name in by_mean:
        order.setdefault(gates[name].shape[1], np.argsort(-gates[name].mean(axis=0), kind="stable"))
    values = {name: signal.values[:steps, row].astype(np.float64) for name, signal in found.states.items()}
    return GateMapData(
        tuple(words),
        gates,
        {name: order[v.shape[1]] for name, v in gates.items()},
        {name: np.linalg.norm(v, axis=1) for name, v in values.items()},
        {name: signal.norms[:steps, row] for name, signal in found.states.items()},
    )
