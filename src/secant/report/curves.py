"""Curves over several seeds: one median line and the range around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secant.race.records import RunRecord, TracePoint

_SAMPLES = 160


@dataclass(frozen=True, slots=True)
class Curve:
    """Median and range over the seeds at geometrically spaced places; arrays of one length.

    Attributes:
        x: Places, ascending and positive.
        median: Median over the seeds.
        lowest: Lowest over the seeds.
        highest: Highest over the seeds.
    """

    x: NDArray[np.float64]
    median: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]


def curve(runs: Sequence[RunRecord], place: Callable[[TracePoint], float], value: Callable[[TracePoint], float | None]) -> Curve | None:
    """The curve of several runs on logarithmic axes.

    Between traced moments a run is a straight line on logarithmic axes; after its end it keeps its last value. Points that are not positive finite numbers are
    left out.

    Args:
        runs: The runs of one method, one per seed.
        place: The abscissa of a traced moment.
        value: Its ordinate.

    Returns:
        The curve, or None if no run has a point to show.
    """
    lines = [line for line in (_logarithmic(run, place, value) for run in runs) if line[0].size]
    if not lines:
        return None
    first, last = max(line[0][0] for line in lines), max(line[0][-1] for line in lines)
    at = np.array([first]) if len(lines) == 1 and lines[0][0].size == 1 else np.linspace(first, last, _SAMPLES)
    if len(lines) == 1:
        at = lines[0][0]
    values = np.vstack([np.interp(at, *line) for line in lines])
    return Curve(np.exp(at), np.exp(np.median(values, axis=0)), np.exp(values.min(axis=0)), np.exp(values.max(axis=0)))


def _logarithmic(
    run: RunRecord, place: Callable[[TracePoint], float], value: Callable[[TracePoint], float | None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pairs = []
    for point in run.trace:
        x, y = place(point), value(point)
        if x > 0 and y is not None and y > 0 and math.isfinite(y):
            pairs.append((math.log(x), math.log(y)))
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
