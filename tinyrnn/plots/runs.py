"""A training run's curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinyrnn.plots.style import Theme, dress, legend_below, line, matplotlib, new_figure, theme_named
from tinyrnn.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

LAYERS = 6
"""As many are drawn at most, the first of the model; the data hold all."""
UNITS = {"loss": "nats", "bits": "bits a character", "accuracy": "share right"}


@dataclass(frozen=True, repr=False)
class CurvesData(Record):
    """What `curves` drew: a value an epoch, (E,) each; NaN where an epoch has none."""

    epochs: npt.NDArray[np.int64]
    results: dict[str, dict[str, Floats]]
    """Result -> "train" and "valid" -> values."""
    gradient: dict[str, Floats]
    """"mean" and "largest" norm before clipping, and the share "clipped"; empty without monitors."""
    layers: dict[str, Floats]
    """Layer -> mean norm of its gradient before clipping."""
    saturated: dict[str, Floats]
    """"cell gate" -> share of its values below 0.05 or above 0.95."""


def curves(records: Sequence[Mapping[str, Any]], *, theme: str | Theme = "light") -> tuple[Figure, CurvesData]:
    """The results of each epoch, the gradient's norm before clipping, and how many of the gates' values saturate.

    records: the lines of a run's metrics.jsonl; those of epochs are read, as `tinyrnn train` writes them. theme:
    "light" or "dark". Raises ValueError if there is no epoch among them, MissingExtraError without matplotlib.
    """
    look, data = theme_named(theme), _read(records)
    panels = len(data.results) + bool(data.gradient) + bool(data.saturated)
    figure = new_figure(look, 4.2 * min(panels, 2), 3.4 * -(-panels // 2))
    axes = list(np.ravel(figure.subplots(-(-panels // 2), min(panels, 2), squeeze=False)))
    for spare in axes[panels:]:
        spare.set_visible(False)
    left = iter(axes)
    for name, parts in data.results.items():
        ax = next(left)
        for k, (part, label) in enumerate((("train", "training"), ("valid", "validation"))):
            ax.plot(data.epochs, parts[part], label=label, **line(k, look))
        unit = UNITS.get(name)
        _finish(ax, look, f"{name} ({unit})" if unit else name)
    if data.gradient:
        ax = next(left)
        for k, name in enumerate(("mean", "largest")):
            ax.plot(data.epochs, data.gradient[name], label=f"{name} of all", **line(k, look))
        for k, (name, norms) in enumerate(list(data.layers.items())[:LAYERS], 2):
            ax.plot(data.epochs, norms, label=name, **line(k, look))
        if any((norms > 0).any() for norms in data.gradient.values()):
            ax.set_yscale("log")
        _finish(ax, look, "norm of the gradient before clipping")
    if data.saturated:
        ax = next(left)
        for k, (name, shares) in enumerate(data.saturated.items()):
            ax.plot(data.epochs, shares, label=name, **line(k, look))
        ax.set_ylim(bottom=0)
        _finish(ax, look, "saturated gates (share of values)")
    return figure, data


def _finish(ax: Axes, look: Theme, y: str) -> None:
    dress(ax, look, x="epoch", y=y)
    ax.xaxis.set_major_locator(matplotlib("ticker").MaxNLocator(integer=True))
    legend_below(ax, look)


def _read(records: Sequence[Mapping[str, Any]]) -> CurvesData:
    found = [record for record in records if "train" in record and "valid" in record]
    if not found:
        raise ValueError("records must hold an epoch or more, as metrics.jsonl does after the first")

    def over(*path: str) -> Floats:
        return np.array([_at(record, path) for record in found], dtype=np.float64)

    monitors = [record.get("monitor", {}) for record in found]
    layers = dict.fromkeys(name for m in monitors for name in m.get("layers", ()))
    gates = dict.fromkeys((c, g) for m in monitors for c, names in m.get("gates", {}).items() for g in names)
    return CurvesData(
        epochs=np.array([record["epoch"] for record in found]),
        results={name: {part: over(part, name) for part in ("train", "valid")} for name in found[0]["train"]},
        gradient={
            name: over("monitor", "gradient", name) for name in ("mean", "largest", "clipped")
        } if any(m.get("gradient") for m in monitors) else {},
        layers={name: over("monitor", "layers", name) for name in layers},
        saturated={
            f"{gate} of {cell}": over("monitor", "gates", cell, gate, "closed")
            + over("monitor", "gates", cell, gate, "open")
            for cell, gate in gates
        },
    )  # fmt: skip


def _at(record: Mapping[str, Any], path: Sequence[str]) -> float:
    value: Any = record
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return np.nan if value is None else float(value)
