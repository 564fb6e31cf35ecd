"""A map of positive numbers over layers and steps, in shades that are as legible on dark paper as on light."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from secant.report.drawing import SERIES, SOFT, is_drawable_in_powers, svg, text_inches

_WIDTH_INCHES = 5.8
_ROW_INCHES = 0.21
_MOST_ROWS = 44
"""Beyond, rows become thinner and not every one is named."""

_MOST_TICKS = 9
_TOP_INCHES, _BOTTOM_INCHES, _RIGHT_INCHES, _GAP_INCHES = 0.26, 0.52, 0.86, 0.12
_NAME_GAP_INCHES = 0.16
_BOLD = 1.2
"""How much wider bold text is, at most."""

_SHADES = 9
_FAINTEST = 0.08
_MOST_NAME_INCHES = 1.75
_SCALE_INCHES = 1.9
_ALARM = SERIES[1]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """What is drawn.

    Attributes:
        rows: Names, from top to bottom.
        columns: Steps, from left to right.
        values: One sequence per row with one number per column; None where it is not finite.
        powers: Of ten, at the ends of the scale.
        flagged: Rows whose names stand out.
    """

    rows: Sequence[str]
    columns: Sequence[int]
    values: Sequence[Sequence[float | None]]
    powers: tuple[float, float]
    flagged: Collection[str]


def powers_of(values: Sequence[float | None], *, highest: float = math.inf, widest: float = 16.0) -> tuple[float, float]:
    """The ends of a scale for these numbers, in powers of ten, at least one apart.

    Args:
        values: Positive numbers count.
        highest: What the upper end does not exceed.
        widest: How far apart the ends are at most; of wider ones the upper end is kept.
    """
    powers = [math.log10(value) for value in values if is_drawable_in_powers(value)]
    if not powers:
        return -1.0, 0.0
    high = min(math.ceil(max(powers)), highest)
    return min(max(math.floor(min(powers)), high - widest), high - 1), high


def heat_map(shown: HeatMap, identifier: str, title: str) -> str:
    """An ``<svg>`` element: dark cells are large, empty ones zero, crossed ones not finite; empty without rows or columns.

    Args:
        shown: The numbers.
        identifier: Unique on the page; a valid XML name.
        title: What the numbers are.
    """
    if not shown.rows or not shown.columns:
        return ""
    names = [_short(name) for name in shown.rows]
    widths = (text_inches(short) * (_BOLD if name in shown.flagged else 1.0) for name, short in zip(shown.rows, names, strict=True))
    left = max(widths) + _NAME_GAP_INCHES
    rows = min(len(names), _MOST_ROWS)
    height = max(rows * _ROW_INCHES, _SCALE_INCHES) + _TOP_INCHES + _BOTTOM_INCHES
    inner = height - _TOP_INCHES - _BOTTOM_INCHES

    def paint(page: Figure) -> None:
        width = _WIDTH_INCHES - left - _RIGHT_INCHES
        axes = page.add_axes((left / _WIDTH_INCHES, _BOTTOM_INCHES / height, width / _WIDTH_INCHES, inner / height))
        _draw_cells(axes, shown)
        _name_sides(axes, shown, names, math.ceil(len(names) / rows))
        beside = (left + width + _GAP_INCHES) / _WIDTH_INCHES
        scale = page.add_axes((beside, (height - _TOP_INCHES - _SCALE_INCHES) / height, 0.15 / _WIDTH_INCHES, _SCALE_INCHES / height))
        _draw_scale(scale, shown.powers)

    return svg(paint, (_WIDTH_INCHES, height), identifier, f"{title}: layers from the input at the top to the output, against steps")


def _short(name: str) -> str:
    """The end of a name, which tells layers apart, as far as there is room."""
    if text_inches(name) <= _MOST_NAME_INCHES:
        return name
    start = bisect.bisect_left(range(len(name)), True, key=lambda start: text_inches(f"…{name[start:]}") <= _MOST_NAME_INCHES)
    return f"…{name[start:]}"


def _draw_cells(axes: Axes, shown: HeatMap) -> None:
    cells: dict[int, list[tuple[int, int]]] = {}
    broken = []
    for row, values in enumerate(shown.values):
        for column, value in enumerate(values):
            if value is None or not math.isfinite(value):
                broken.append((column, row))
            elif value > 0.0:
                cells.setdefault(_shade(value, shown.powers), []).append((column, row))
    for shade, places in sorted(cells.items()):
        path = Path.make_compound_path(*(_square(column, row) for column, row in places))
        axes.add_patch(PathPatch(path, facecolor=SERIES[0], alpha=_opacity(shade), linewidth=0))
    if broken:
        axes.plot([column for column, _ in broken], [row for _, row in broken], "x", color=_ALARM, markersize=5, markeredgewidth=1.6, linestyle="none")
    axes.set_xlim(-0.5, len(shown.columns) - 0.5)
    axes.set_ylim(len(shown.rows) - 0.5, -0.5)


def _square(column: int, row: int) -> Path:
    left, right, top, bottom = column - 0.5, column + 0.5, row - 0.5, row + 0.5
    return Path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], closed=True)


def _shade(value: float, powers: tuple[float, float]) -> int:
    low, high = powers
    power = math.log10(value) if value < math.inf else high
    return min(max(int(_SHADES * (power - low) / (high - low)), 0), _SHADES - 1)


def _opacity(shade: int) -> float:
    return _FAINTEST + (1.0 - _FAINTEST) * shade / (_SHADES - 1)


def _name_sides(axes: Axes, shown: HeatMap, names: Sequence[str], every: int) -> None:
    axes.set_yticks(range(0, len(names), every), names[::every], parse_math=False)
    for name, label in zip(shown.rows[::every], axes.get_yticklabels(), strict=True):
        if name in shown.flagged:
            label.set_color(_ALARM)
            label.set_fontweight("bold")
    gap = math.ceil(len(shown.columns) / _MOST_TICKS)
    axes.set_xticks(range(0, len(shown.columns), gap), [f"{step:,}" for step in shown.columns[::gap]])
    axes.set_xlabel("step")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_color(SOFT)
        spine.set_linewidth(0.6)


def _draw_scale(axes: Axes, powers: tuple[float, float]) -> None:
    low, high = powers
    size = (high - low) / _SHADES
    for shade in range(_SHADES):
        axes.add_patch(Rectangle((0, low + shade * size), 1, size, facecolor=SERIES[0], alpha=_opacity(shade), linewidth=0))
    axes.set_xlim(0, 1)
    axes.set_ylim(low, high)
    axes.set_xticks([])
    gap = max(1, math.ceil((high - low) / 6))
    ticks = list(range(math.ceil(low), math.floor(high) + 1, gap))
    axes.set_yticks(ticks, [f"$10^{{{power}}}$" for power in ticks])
    axes.yaxis.tick_right()
    axes.tick_params(length=2)
    for spine in axes.spines.values():
        spine.set_color(SOFT)
        spine.set_linewidth(0.6)
