"""The picture of `tinyrnn clipping`."""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING

import numpy as np

from tinyrnn.experiments.clipping import MEAN_LOSS, Findings, Floats
from tinyrnn.plots.style import Theme, dress, legend, line, new_figure, theme_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-10
"""What lies below this, relative to distance 0, is not shown."""


def draw(found: Findings, *, theme: str | Theme = "light") -> tuple[Figure, Findings]:
    """(A figure of four plots, what it shows): the gradient by distance; the gradient and the loss in training of the
    run that exploded most, and of the one that clipping helped most; the last loss of all by length.

    theme: "light" or "dark". Raises MissingExtraError without matplotlib.
    """
    look = theme_named(theme)
    figure = new_figure(look, 10.0, 7.0)
    (reach, norms), (losses, ends) = figure.subplots(2, 2)
    _draw_reach(reach, found, look)
    _draw_norms(norms, found, look)
    _draw_losses(losses, found, look)
    _draw_ends(ends, found, look)
    return figure, found


def _draw_reach(ax: Axes, found: Findings, look: Theme) -> None:
    exploded, at = found.most_exploded
    longest = max(found.settings.lengths)
    rows = {net.name: found.decays[net.name, longest] for net in found.nets}
    rows[f"{exploded}, at its\nlargest gradient in training"] = found.courses[exploded, at, False].decay
    for k, (name, norms) in enumerate(rows.items()):
        shown = norms / norms[0] if norms[0] else norms
        shown = np.where(shown > FLOOR, shown, np.nan)
        ax.plot(shown, label=name, markevery=max(1, len(shown) // 10), **line(k, look))
    ax.set_yscale("log")
    dress(ax, look, x="distance from the last step (steps)", y="gradient's norm / norm at distance 0",
          title=f"How far back a gradient reaches, length {longest}")  # fmt: skip
    legend(ax, look)


def _draw_norms(ax: Axes, found: Findings, look: Theme) -> None:
    name, steps = found.most_exploded
    for k, clipped in enumerate((False, True)):
        updates, _, norms = found.courses[name, steps, clipped].curves
        _draw_course(ax, updates, norms, k, _label(found, clipped), look)
    block = found.courses[name, steps, True].block
    ax.set_yscale("log")
    dress(ax, look, x="updates", y=f"gradient's norm, largest of {block} updates",
          title=f"The explosion: {name}, length {steps}")  # fmt: skip
    legend(ax, look)


def _draw_losses(ax: Axes, found: Findings, look: Theme) -> None:
    name, steps = found.most_helped
    for k, clipped in enumerate((False, True)):
        updates, losses, _ = found.courses[name, steps, clipped].curves
        _draw_course(ax, updates, losses, k, _label(found, clipped), look)
    _mark_mean(ax, look)
    ax.set_yscale("log")
    dress(ax, look, x="updates", y="mean squared error", title=f"The cure: {name}, length {steps}")
    legend(ax, look)


def _draw_ends(ax: Axes, found: Findings, look: Theme) -> None:
    lengths = sorted(found.settings.lengths)
    for k, net in enumerate(found.nets):
        for clipped in (True, False):
            style = line(k, look)
            if not clipped:
                style |= {"linestyle": ":", "markerfacecolor": look.paper}
            losses = np.array([found.courses[net.name, steps, clipped].final_loss for steps in lengths])
            ax.plot(
                lengths, np.where(np.isfinite(losses), losses, np.nan), label=net.name if clipped else None, **style
            )
            stopped = [n for n, loss in zip(lengths, losses, strict=True) if np.isinf(loss)]
            top = np.full(len(stopped), 0.97)
            ax.plot(stopped, top, "X", color=style["color"], markersize=9, transform=ax.get_xaxis_transform())
    _mark_mean(ax, look)
    ax.set_yscale("log")
    ax.set_ylim(bottom=ax.get_ylim()[0] / 5)  # room for the legend
    dress(ax, look, x="length of the sequences (steps)", y="mean squared error at the end",
          title="After training. Filled: clipped; hollow: not")  # fmt: skip
    legend(ax, look, loc="lower right", ncols=2)


def _draw_course(ax: Axes, updates: Floats, values: Floats, k: int, label: str, look: Theme) -> None:
    """A line, with a cross where it stopped because the numbers overflowed."""
    style = line(k, look) | {"marker": "", "linestyle": "-" if k else (0, (4, 1))}
    finite = np.isfinite(values)
    ax.plot(updates[finite], values[finite], label=label, **style)
    if not finite.all() and finite.any():
        ax.plot(updates[finite][-1:], values[finite][-1:], "X", color=style["color"], markersize=9)


def _label(found: Findings, clipped: bool) -> str:
    return f"clipped at {found.settings.clip:g}" if clipped else "not clipped"


def _mark_mean(ax: Axes, look: Theme) -> None:
    ax.axhline(MEAN_LOSS, color=look.ink, linewidth=0.9, linestyle=(0, (1, 2)), label="the mean as answer")


def small_png(figure: Figure) -> bytes:
    """The figure as PNG of 128 colours, a third of the size of one of all colours."""
    picture, small = io.BytesIO(), io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, facecolor=figure.get_facecolor())
    images = importlib.import_module("PIL.Image")  # which matplotlib brings
    images.open(picture).convert("RGB").quantize(128, dither=images.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()
