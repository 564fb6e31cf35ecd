"""Curves over several seeds: one median line and the range around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from secant.report.drawing import is_drawable, is_drawable_in_powers

_SAMPLES = 160
_MomentT = TypeVar("_MomentT")
_Moment_co = TypeVar("_Moment_co", covariant=True)


class Traced(Protocol[_Moment_co]):
    """A run that was watched at some moments."""

    @property
    def trace(self) -> Sequence[_Moment_co]:
        """The moments, in order."""


class Scale(Enum):
    """How an axis is drawn. A logarithmic one shows positive numbers only."""

    LOGARITHMIC = "log"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True)
class Curve:
    """Median and range over the seeds at places that are evenly spaced on their axis; arrays of one length.

    Attributes:
        x: Places, ascending; positive on a logarithmic axis.
        median: Median over the seeds.
        lowest: Lowest over the seeds.
        highest: Highest over the seeds.
    """

    x: NDArray[np.float64]
    median: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]


def curve(
    runs: Sequence[Traced[_MomentT]],
    place: Callable[[_MomentT], float],
    value: Callable[[_MomentT], float | None],
    scale: Scale = Scale.LOGARITHMIC,
    across: Scale = Scale.LOGARITHMIC,
) -> Curve | None:
    """The curve of several runs.

    Between traced moments a run is a straight line on these axes; after its end it keeps its last value. Points that the axes cannot show are left out.

    Args:
        runs: The runs of one method, one per seed.
        place: The abscissa of a traced moment.
        value: Its ordinate.
        scale: Of the ordinate.
        across: Of the abscissa.

    Returns:
        The curve, or None if no run has a point to show.
    """
    lines = [line for line in (_points(run, place, value, scale, across) for run in runs) if line[0].size]
    if not lines:
        return None
    first, last = max(line[0][0] for line in lines), max(line[0][-1] for line in lines)
    at = np.array([first]) if len(lines) == 1 and lines[0][0].size == 1 else np.linspace(first, last, _SAMPLES)
    if len(lines) == 1:
        at = lines[0][0]
    values = np.vstack([np.interp(at, *line) for line in lines])
    rows = np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
    middle, lowest, highest = (np.exp(row) if scale is Scale.LOGARITHMIC else row for row in rows)
    return Curve(np.exp(at) if across is Scale.LOGARITHMIC else at, middle, lowest, highest)


def _points(
    run: Traced[_MomentT], place: Callable[[_MomentT], float], value: Callable[[_MomentT], float | None], scale: Scale, across: Scale
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pairs = []
    for moment in run.trace:
        x, y = _on_axis(place(moment), across), _on_axis(value(moment), scale)
        if x is not None and y is not None:
            pairs.append((x, y))
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _on_axis(value: float | None, scale: Scale) -> float | None:
    """Where a number stands, in the units in which the axis is even; None where it cannot be shown."""
    if scale is Scale.LOGARITHMIC:
        return math.log(value) if is_drawable_in_powers(value) else None
    return value if is_drawable(value) else None
