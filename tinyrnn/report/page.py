"""The HTML of a report: one file that needs nothing but itself, in light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Any

from tinyrnn.plots.style import THEMES, Theme


def page(title: str, sections: Iterable[str]) -> str:
    """A whole document around sections of HTML."""
    source = resources.files("tinyrnn.report")
    style = source.joinpath("page.css").read_text(encoding="utf-8")
    script = source.joinpath("page.js").read_text(encoding="utf-8")
    light, dark = (_variables(THEMES[name]) for name in ("light", "dark"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>
:root {{ {light} }}
@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}
{style}</style>
</head>
<body>
<main>
{"".join(sections)}</main>
<script>
{script}</script>
</body>
</html>
"""


def section(title: str, *parts: str, about: str = "") -> str:
    """A section. about: a paragraph under its title."""
    lead = f'<p class="about">{escape(about)}</p>\n' if about else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{lead}" + "\n".join(parts) + "\n</section>\n"


def figure(svg: str, caption: str) -> str:
    """A picture with its caption. svg: as `plots.style.page_svg` makes it."""
    return f"<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in rows) + "</dl>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of numbers; the first column names the rows."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>\n"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table class="numbers"><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def gauge(low: str, high: str, share: float, text: str) -> str:
    """A bar from `low` to `high` with a mark at `share`, 0 to 1."""
    return (
        f'<div class="gauge"><span>{escape(low)}</span><div class="rail" role="img" aria-label="{escape(text)}">'
        f'<i style="left:{100 * share:.1f}%"></i></div><span>{escape(high)}</span></div>'
    )


class Strip:
    """A table of words, one a column, and rows of bars over them; under it, the numbers of the word pointed at."""

    def __init__(self, words: Sequence[str], notes: Sequence[str]) -> None:
        """notes: a remark on each word, or ""."""
        self.words, self.notes = list(words), list(notes)
        self._rows: list[str] = []
        self._groups: list[tuple[str, list[tuple[str, list[str]]]]] = []

    def head(self, text: str) -> None:
        """A line above the rows that follow; there must be one above the first."""
        self._groups.append((text, []))
        span = len(self.words) + 1
        self._rows.append(
            f'<tr class="group"><th colspan="{span}" scope="rowgroup"><span>{escape(text)}</span></th></tr>'
        )

    def row(self, name: str, about: str, values: Sequence[float], top: float | None = None, *, colour: int = 0) -> None:
        """A row of bars from 0 to `top`, by default the largest value; signed if one is below 0.

        name, about: what it is, and what that means. colour: of the bars, 0 to 4.
        """
        finite = [v for v in values if math.isfinite(v)]
        most = max(map(abs, finite), default=0.0) if top is None else top
        signed = min(finite, default=0.0) < 0
        cells = []
        for t, value in enumerate(values):
            share = 0.0 if not most or math.isnan(value) else min(abs(value) / most, 1.0)
            side = (" down" if value < 0 else " up") if signed else ""
            tint = 1 if value < 0 else colour
            cells.append(
                f'<td data-t="{t}"><i class="bar{side}" style="--v:{share:.3f};--bar:var(--c{tint})"></i></td>'
            )
        scale = f"0 to {_number(most)}" if not signed else f"±{_number(most)}"
        kind = ' class="signed"' if signed else ""
        label = f"<b>{escape(name)}</b> <small>{escape(about)}, {scale}</small>"
        self._rows.append(f'<tr{kind}><th scope="row">{label}</th>{"".join(cells)}</tr>')
        self._groups[-1][1].append((name, [_number(v) for v in values]))

    def html(self) -> str:
        """The strip."""
        head = "".join(
            f'<th scope="col" data-t="{t}" tabindex="0"{_title(note)}>{escape(word)}{"*" if note else ""}</th>'
            for t, (word, note) in enumerate(zip(self.words, self.notes, strict=True))
        )
        data = {"words": self.words, "notes": self.notes, "groups": self._groups}
        rows = "\n".join(self._rows)
        return (
            f'<div class="scroll"><table class="strip"><thead><tr><td></td>{head}</tr></thead>\n<tbody>{rows}</tbody>'
            '</table></div>\n<p class="pointed" aria-live="polite">Point at a word, or reach it by the Tab key, to see '
            f'its numbers.</p>\n<script type="application/json" id="strip">{_json(data)}</script>'
        )


def _title(note: str) -> str:
    return f' title="{escape(note)}"' if note else ""


def _json(data: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026")


def _number(value: float) -> str:
    return f"{value:.3g}"


def _variables(theme: Theme) -> str:
    colours = {"paper": theme.paper, "ink": theme.ink, "faint": theme.faint}
    colours |= {f"c{k}": colour for k, colour in enumerate(theme.series)}
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
