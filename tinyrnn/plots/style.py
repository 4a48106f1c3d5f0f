"""How figures look: colours that differ for every reader, on light paper and on dark, and matplotlib only when drawing.

Series also differ by line and marker, never by colour alone.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tinyrnn.data import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb."""

    paper: str
    ink: str
    faint: str
    """Of grids and frames."""
    series: tuple[str, ...]
    """Apart from each other also for readers who cannot tell red, green or blue; at least 3:1 from the paper."""
    low: str
    """The shade of the smallest value in a map."""
    high: str


THEMES = {
    "light": Theme(
        "#ffffff", "#1a1d22", "#c9ced6", ("#2f4fd0", "#d07800", "#109c74", "#7c1e70", "#1a1d22"), "#f1f3f7", "#12306e"
    ),
    "dark": Theme(
        "#14171c", "#e8eaee", "#3d444f", ("#7c90ff", "#e0661c", "#74ebb4", "#b880b0", "#f2ee4a"), "#20252e", "#a9c4ff"
    ),
}
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")

PAGE = Theme("#010101", "#010102", "#010103", tuple(f"#01011{k}" for k in range(5)), "", "")
"""A theme of placeholders, which `page_svg` replaces by the page's own variables --paper, --ink, --c0 .. --c4."""
VARIABLES = {PAGE.paper: "--paper", PAGE.ink: "--ink", PAGE.faint: "--faint"} | {
    colour: f"--c{k}" for k, colour in enumerate(PAGE.series)
}


def theme_named(name: str | Theme) -> Theme:
    """The theme of that name. Raises ValueError that lists the names."""
    if isinstance(name, Theme):
        return name
    if name not in THEMES:
        raise ValueError(f"theme must be one of {', '.join(THEMES)}, got {name!r}")
    return THEMES[name]


def matplotlib(module: str = "") -> Any:
    """matplotlib, or a module of it. Raises MissingExtraError that says how to get it."""
    try:
        found = importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise MissingExtraError("figures need matplotlib: pip install 'tinyrnn[plots]'") from error
    return importlib.import_module(f"matplotlib.{module}") if module else found


def new_figure(theme: Theme, width: float, height: float) -> Figure:
    """An empty figure of so many inches; not of pyplot, so no window and no global state."""
    figure: Figure = matplotlib("figure").Figure(figsize=(width, height), layout="constrained", facecolor=theme.paper)
    return figure


def dress(axes: Axes, theme: Theme, *, x: str = "", y: str = "", title: str = "", grid: bool = True) -> None:
    """Labels with units, and the theme's colours."""
    axes.set_facecolor(theme.paper)
    axes.set_xlabel(x, color=theme.ink)
    axes.set_ylabel(y, color=theme.ink)
    if title:
        axes.set_title(title, color=theme.ink, fontsize=11, loc="left")
    axes.tick_params(which="both", color=theme.faint, labelcolor=theme.ink, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_color(theme.faint)
        spine.set_visible(side in ("left", "bottom"))
    if grid:
        axes.grid(True, color=theme.faint, linewidth=0.6, alpha=0.6)
        axes.set_axisbelow(True)


def legend(axes: Axes, theme: Theme, **options: Any) -> None:
    """The axes' legend in the theme's colours."""
    axes.legend(**{"labelcolor": theme.ink, "frameon": False, "fontsize": 9, "handlelength": 3.2} | options)


def legend_below(axes: Axes, theme: Theme, columns: int = 2) -> None:
    """A legend under the axes and their label, where it hides nothing."""
    legend(axes, theme, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=columns, columnspacing=1.2)


def line(k: int, theme: Theme) -> dict[str, Any]:
    """How series k is drawn."""
    n = len(theme.series)
    other = (k + k // n) % n  # a colour that comes again has another line
    return {"color": theme.series[k % n], "linestyle": LINES[other], "marker": MARKERS[other], "markersize": 4.5}


def shades(theme: Theme) -> Any:
    """A colour map from the theme's low to its high; for a page cividis, which can be read on light and on dark."""
    if theme is PAGE:
        return matplotlib().colormaps["cividis"]
    return matplotlib("colors").LinearSegmentedColormap.from_list("shades", [theme.low, theme.high])


def svg(figure: Figure, salt: str = "tinyrnn") -> str:
    """The figure as an <svg> element with real text, the same for the same figure. salt: of the ids in it."""
    out = io.StringIO()
    options = {"svg.fonttype": "none", "svg.hashsalt": salt}
    with matplotlib().rc_context(options):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def page_svg(figure: Figure, salt: str, label: str) -> str:
    """A figure of the theme PAGE for inlining in a page: its colours are the page's variables, it scales with its box
    as long as it can be read.

    label: what a screen reader says of it.
    """
    text = svg(figure, salt)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"font: (\d+\.?\d*)px [^;\"]*", r"font: \1px var(--font)", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    head = re.match(r"<svg[^>]*>", text)
    assert head is not None
    box = re.search(r'viewBox="([^"]*)"', head.group())
    assert box is not None
    width = float(box.group(1).split()[2]) * 4 / 3  # from points
    escaped = label.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    size = f"width:100%;max-width:{width:.0f}px;min-width:{0.6 * width:.0f}px"
    opening = (
        f'<svg viewBox="{box.group(1)}" style="{size}" role="img" '
        f'aria-label="{escaped}" xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return opening + text[head.end() :]


def spread(labels: Sequence[str], most: int) -> list[int]:
    """Which of many ticks to label: positions, at most `most` of them, evenly spaced."""
    step = max(1, -(-len(labels) // most))
    return list(range(0, len(labels), step))
