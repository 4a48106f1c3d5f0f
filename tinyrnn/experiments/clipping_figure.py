"""The picture of `tinyrnn clipping`."""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tinyrnn.experiments.clipping import MEAN_LOSS, Findings
from tinyrnn.plots.style import Theme, dress, legend, line, new_figure, theme_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR = 1e-10
"""What lies below this, relative to distance 0, is not shown."""


def draw(found: Findings, *, theme: str | Theme = "light") -> tuple[Figure, Findings]:
    """(A figure of four plots, what it shows): the gradient by distance before training; the gradient in the training
    that clipping calmed most, and the loss in that which it cured most; the last loss of all by length.

    theme: "light" or "dark". Raises MissingExtraError without matplotlib.
    """
    look = theme_named(theme)
    figure = new_figure(look, 10.0, 7.0)
    (reach, norms), (losses, ends) = figure.subplots(2, 2)
    _draw_reach(reach, found, look)
    name, steps = found.calmed
    _draw_training(norms, found, look, name, steps, 2)
    block = found.courses[name, steps, True].block
    dress(norms, look, x="updates", y=f"gradient's norm, largest of {block} updates",
          title=f"The explosion: {name}, length {steps}")  # fmt: skip
    legend(norms, look)
    name, steps = found.cured
    _draw_training(losses, found, look, name, steps, 1)
    _mark_mean(losses, look)
    dress(losses, look, x="updates", y="mean squared error", title=f"The cure: {name}, length {steps}")
    legend(losses, look)
    _draw_ends(ends, found, look)
    return figure, found


def _draw_reach(ax: Axes, found: Findings, look: Theme) -> None:
    longest = max(found.settings.lengths)
    for k, net in enumerate(found.nets):
        norms = found.decays[net.name, longest]
        shown = norms / norms[0] if norms[0] else norms
        shown = np.where(shown > FLOOR, shown, np.nan)
        ax.plot(shown, label=net.name, markevery=max(1, len(shown) // 10), **line(k, look))
    ax.set_yscale("log")
    dress(ax, look, x="distance from the last step (steps)", y="gradient's norm / norm at distance 0",
          title=f"Before training: how far a gradient reaches, length {longest}")  # fmt: skip
    legend(ax, look)


def _draw_training(ax: Axes, found: Findings, look: Theme, name: str, steps: int, curve: int) -> None:
    """A number of `Course.curves`, clipped and not. Where it goes far beyond what the clipped one shows, or overflows,
    it leaves the plot."""
    top = 0.0
    for k, clipped in enumerate((False, True)):
        course = found.courses[name, steps, clipped]
        updates, values = course.curves[0], course.curves[curve]
        label = f"clipped at {found.settings.clip:g}" if clipped else "not clipped"
        if course.stopped:
            label += f", overflows after {len(course.losses)}"
        finite = np.isfinite(values)
        style = line(k, look) | {"marker": "", "linestyle": "-" if k else (0, (4, 1))}
        ax.plot(updates[finite], values[finite], label=label, **style)
        if not course.stopped:
            top = max(top, float(values.max()))
        else:
            _mark_stop(ax, updates[-1:], style["color"])
    ax.set_yscale("log")
    if top:
        ax.set_ylim(top=10 * top)


def _mark_stop(ax: Axes, at: ArrayLike, colour: str) -> None:
    """A cross at the upper edge: the numbers overflowed."""
    top = np.full(np.shape(at), 0.97)
    ax.plot(at, top, "X", color=colour, markersize=9, transform=ax.get_xaxis_transform())


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
            _mark_stop(ax, stopped, style["color"])
    _mark_mean(ax, look)
    ax.set_yscale("log")
    ax.set_ylim(bottom=ax.get_ylim()[0] / 5)  # room for the legend
    dress(ax, look, x="length of the sequences (steps)", y="mean squared error at the end",
          title="After training. Filled: clipped; hollow: not")  # fmt: skip
    legend(ax, look, loc="lower right", ncols=2)


def _mark_mean(ax: Axes, look: Theme) -> None:
    ax.axhline(MEAN_LOSS, color=look.ink, linewidth=0.9, linestyle=(0, (1, 2)), label="the mean as answer")


def small_png(figure: Figure) -> bytes:
    """The figure as PNG of 128 colours, a third of the size of one of all colours."""
    picture, small = io.BytesIO(), io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, facecolor=figure.get_facecolor())
    images = importlib.import_module("PIL.Image")  # which matplotlib brings
    images.open(picture).convert("RGB").quantize(128, dither=images.Dither.NONE).save(small, "png", optimize=True)
    return small.getvalue()
