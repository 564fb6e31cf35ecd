"""Median lines with their range, one per method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from secant.report.curves import Curve, Scale
from secant.report.drawing import LINES, MARKERS, SERIES, logarithmic, plain_axes, svg
from secant.report.labels import End, axes_with_labels, label_ends

SIZE_INCHES = (6.4, 4.0)
COMPACT_INCHES = (5.8, 3.7)
"""Legible on a telephone too, with few names to write."""


@dataclass(frozen=True, slots=True)
class Line:
    """One method in a figure.

    Attributes:
        index: Of the series: its color, dash and marker; the same in all figures of a page.
        name: What is written at its end.
        curve: Its points.
    """

    index: int
    name: str
    curve: Curve


def line_figure(
    lines: Sequence[Line],
    across: str,
    up: str,
    identifier: str,
    scale: Scale = Scale.LOGARITHMIC,
    size_inches: tuple[float, float] = SIZE_INCHES,
    *,
    across_scale: Scale = Scale.LOGARITHMIC,
    cut_high: bool = True,
) -> str:
    """One figure: a median line per method with its range over the seeds, labeled at its end.

    Methods differ in color, in dash and in marker, so the figure reads without color too.

    Args:
        lines: What to draw.
        across: Text of the horizontal axis.
        up: Text of the vertical axis.
        identifier: Unique on the page; a valid XML name.
        scale: Of the vertical axis; the one the curves were made for.
        size_inches: Width and height.
        across_scale: Of the horizontal axis; the one the curves were made for.
        cut_high: Whether lines that rise far above their start, as those of a loss that diverges, may leave the top.

    Returns:
        An ``<svg>`` element, or the empty string when there is no line.
    """
    if not lines:
        return ""

    def paint(page: Figure) -> None:
        axes = axes_with_labels(page, [line.name for line in lines])
        axes.set_xscale(across_scale.value)
        axes.set_yscale(scale.value)
        for line in lines:
            _draw(axes, line, across_scale)
        _set_width(axes, [line.curve for line in lines], across_scale)
        _set_height(axes, [line.curve for line in lines], scale, cut_high=cut_high)
        axes.set_xlabel(across)
        axes.set_ylabel(up, parse_math=False)
        plain_axes(axes)
        if across_scale is Scale.LOGARITHMIC:
            logarithmic(axes, "x")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        if scale is Scale.LOGARITHMIC:
            logarithmic(axes, "y")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(6))
        label_ends(axes, [End(line.index, line.name, float(line.curve.x[-1]), float(line.curve.median[-1])) for line in lines])

    return svg(paint, size_inches, identifier, f"{up} against {across}")


def _draw(axes: Axes, line: Line, across_scale: Scale) -> None:
    color, points = SERIES[line.index % len(SERIES)], line.curve
    if np.any(points.highest > points.lowest):
        axes.fill_between(points.x, points.lowest, points.highest, color=color, alpha=0.14, linewidth=0)
    axes.plot(
        points.x,
        points.median,
        color=color,
        linestyle=LINES[line.index % len(LINES)],
        linewidth=1.9,
        marker=MARKERS[line.index % len(MARKERS)],
        markersize=5,
        markevery=_marker_places(np.log(points.x) if across_scale is Scale.LOGARITHMIC else points.x, line.index),
    )


def _marker_places(at: NDArray[np.float64], index: int) -> list[int]:
    """Eight places at equal distances on the axis, shifted from method to method, and the end."""
    wanted = np.linspace(at[0], at[-1], 9) + (at[-1] - at[0]) / 9 * (index % 4) / 4
    places = {int(np.argmin(np.abs(at - place))) for place in wanted[:-1]}
    return sorted(places | {len(at) - 1})


def _set_width(axes: Axes, curves: Sequence[Curve], scale: Scale) -> None:
    """All of every line."""
    start, end = min(points.x[0] for points in curves), max(points.x[-1] for points in curves)
    if scale is Scale.LINEAR:
        margin = 0.02 * ((end - start) or abs(end) or 1.0)
        axes.set_xlim(start - margin, end + margin)
    else:
        axes.set_xlim(start / 1.1, max(end, start * 1.5) * 1.12)


def _set_height(axes: Axes, curves: Sequence[Curve], scale: Scale, *, cut_high: bool) -> None:
    """All of every line; what rises far above its start may leave the top."""
    lowest, highest = min(points.lowest.min() for points in curves), max(points.highest.max() for points in curves)
    first = max(points.median[0] for points in curves)
    if scale is Scale.LINEAR:
        highest = min(highest, first + 2 * (first - lowest)) if cut_high and first > lowest else highest
        margin = 0.06 * ((highest - lowest) or abs(lowest) or 1.0)
        axes.set_ylim(lowest - margin, highest + margin)
        return
    highest = max(min(highest, 10 * first), lowest) if cut_high else highest
    margin = max((highest / lowest) ** 0.05, 1.05)
    axes.set_ylim(lowest / margin, highest * margin)
