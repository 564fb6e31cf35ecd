"""The curves of a race as SVG text that follows the page: its font, its light or dark colors."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from secant.race.records import TracePoint
from secant.race.standings import Standing
from secant.report.curves import Curve, curve

# Stand-ins drawn by matplotlib, replaced by CSS variables of the page afterwards. The series are the colors of Okabe & Ito (2008) without yellow, which
# vanishes on white; the page darkens or lightens them with its background.
_INK = "#010203"
_GRID = "#010204"
_SERIES = tuple(f"#0a0b{index:02x}" for index in range(7))
_LINES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.6, 1.2, 1.6)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "*", "h")
_SIZE_INCHES = (6.4, 4.0)
_LABEL_GAP = 0.062
_LABEL_START = 1.065
_LETTER_WIDTH = 0.0132  # of the page, generous: the font is the reader's
_LEFT = 0.115
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """An axis.

    Attributes:
        label: Its text, with the unit.
        read: Its number at a traced moment.
    """

    label: str
    read: Callable[[TracePoint], float | None]


TIME = Quantity("CPU time (s)", lambda point: point.cpu_seconds)
EVALUATIONS = Quantity("evaluations of loss and gradient", lambda point: point.evaluations)
LOSS = Quantity("loss", lambda point: point.loss)


def error_quantity(name: str) -> Quantity:
    """The error of the problem as an axis."""
    return Quantity(name, lambda point: point.error)


def figure(entries: Sequence[Standing], across: Quantity, up: Quantity, identifier: str) -> str:
    """One log-log figure: a median line per method with its range over the seeds, labeled at its end.

    Methods differ in color, in dash and in marker, so the figure reads without color too.

    Args:
        entries: The methods to draw; each keeps its look through all figures of a page.
        across: The horizontal quantity.
        up: The vertical quantity.
        identifier: Unique on the page; a valid XML name.

    Returns:
        An ``<svg>`` element, or the empty string when no method has a point to show.
    """
    drawn = [(index, entry.method, line) for index, entry in enumerate(entries) if (line := curve(entry.runs, lambda p: across.read(p) or 0.0, up.read))]
    if not drawn:
        return ""
    style: Any = {**_STYLE, "svg.hashsalt": identifier}
    with mpl.rc_context(style):
        page = Figure(figsize=_SIZE_INCHES)
        axes = page.add_axes((_LEFT, 0.13, _axes_width(max(len(name) for _, name, _ in drawn)), 0.845))
        axes.set_xscale("log")
        axes.set_yscale("log")
        for index, _, line in drawn:
            _draw(axes, index, line)
        _finish_axes(axes, [line for _, _, line in drawn], across.label, up.label)
        _label_ends(axes, drawn)
        text = io.StringIO()
        page.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(text.getvalue(), identifier, f"{up.label} against {across.label}")


def _draw(axes: Axes, index: int, line: Curve) -> None:
    color = _SERIES[index % len(_SERIES)]
    if np.any(line.highest > line.lowest):
        axes.fill_between(line.x, line.lowest, line.highest, color=color, alpha=0.14, linewidth=0)
    axes.plot(
        line.x,
        line.median,
        color=color,
        linestyle=_LINES[index % len(_LINES)],
        linewidth=1.9,
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=5,
        markevery=_marker_places(line.x, index),
    )


def _axes_width(letters: int) -> float:
    """The share of the page that leaves room for the longest label, within reason."""
    return min(max((0.99 - _LEFT - letters * _LETTER_WIDTH) / _LABEL_START, 0.45), 0.7)


def _marker_places(x: NDArray[np.float64], index: int) -> list[int]:
    """Eight places at equal distances on the logarithmic axis, shifted from method to method, and the end."""
    at = np.log(x)
    wanted = np.linspace(at[0], at[-1], 9) + (at[-1] - at[0]) / 9 * (index % 4) / 4
    places = {int(np.argmin(np.abs(at - place))) for place in wanted[:-1]}
    return sorted(places | {len(x) - 1})


def _finish_axes(axes: Axes, lines: Sequence[Curve], across: str, up: str) -> None:
    start, end = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
    lowest, highest = min(line.lowest.min() for line in lines), 10 * max(line.median[0] for line in lines)  # what diverges may leave the top
    highest = min(highest, max(line.highest.max() for line in lines))
    axes.set_xlim(start / 1.1, max(end, start * 1.5) * 1.12)
    axes.set_ylim(lowest / 1.6, max(highest, lowest * 2) * 1.6)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(side in ("left", "bottom"))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=8))
        axis.set_major_formatter(LogFormatterSciNotation())
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(length=3)


def _label_ends(axes: Axes, drawn: Sequence[tuple[int, str, Curve]]) -> None:
    """Name each line at the right edge, at the height of its end, the names pushed apart; a thin leader joins the two."""
    to_axes = axes.transData + axes.transAxes.inverted()
    transformed = [to_axes.transform((line.x[-1], line.median[-1])) for _, _, line in drawn]
    ends = [(float(x), min(max(float(y), 0.0), 1.0)) for x, y in transformed]
    heights = spread_apart([y for _, y in ends], _LABEL_GAP)
    for (index, name, _), end, height in zip(drawn, ends, heights, strict=True):
        color = _SERIES[index % len(_SERIES)]
        axes.plot([end[0], 1.035], [end[1], height], color=color, linewidth=0.7, alpha=0.6, transform=axes.transAxes, clip_on=False)
        axes.plot([1.045], [height], color=color, marker=_MARKERS[index % len(_MARKERS)], markersize=5, transform=axes.transAxes, clip_on=False)
        axes.text(_LABEL_START, height, name, transform=axes.transAxes, va="center", ha="left")


def spread_apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights at least ``gap`` apart, in the same order, as near to the wanted ones as least squares allows, between 0 and 1 while they fit.

    Source:
        Pool adjacent violators (isotonic regression) on the heights minus their rank times the gap.
    """
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    blocks: list[list[float]] = []
    for rank, index in enumerate(order):
        blocks.append([heights[index] - rank * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1].extend(last)
    flat = [float(np.mean(block)) for block in blocks for _ in block]
    room = max(0.0, 1.0 - (len(heights) - 1) * gap)
    placed = [0.0] * len(heights)
    for rank, index in enumerate(order):
        placed[index] = min(max(flat[rank], 0.0), room) + rank * gap
    return placed


def _for_page(svg: str, identifier: str, title: str) -> str:
    """Keep the ``<svg>`` element alone, make its names unique, and hand colors and fonts to the style of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{identifier}-', svg)
    svg = re.sub(r"(url\(|href=\")#", rf"\g<1>#{identifier}-", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--grid)")
    for index, color in enumerate(_SERIES):
        svg = svg.replace(color, f"var(--series-{index})")
    label = html.escape(title, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
