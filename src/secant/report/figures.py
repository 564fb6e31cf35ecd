"""The curves of a race."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secant.race.records import TracePoint
from secant.race.standings import Standing
from secant.report.curves import Scale, curve
from secant.report.line_figure import Line, line_figure


@dataclass(frozen=True, slots=True)
class Quantity:
    """An axis.

    Attributes:
        label: Its text, with the unit.
        read: Its number at a traced moment.
        scale: How it is drawn.
        is_better_low: Whether what rises has gone wrong, and need not be seen to its end.
    """

    label: str
    read: Callable[[TracePoint], float | None]
    scale: Scale = Scale.LOGARITHMIC
    is_better_low: bool = True


TIME = Quantity("CPU time (s)", lambda point: point.cpu_seconds)
EVALUATIONS = Quantity("evaluations of loss and gradient", lambda point: point.evaluations)
LOSS = Quantity("loss", lambda point: point.loss)

STEPS = Quantity("steps", lambda point: point.steps, Scale.LINEAR)
TRAINING_TIME = Quantity(TIME.label, TIME.read, Scale.LINEAR)
TRAINING_LOSS = Quantity("training loss", LOSS.read)
TEST_LOSS = Quantity("test loss", lambda point: point.test_loss)
ACCURACY = Quantity("accuracy (%)", lambda point: None if point.accuracy is None else 100.0 * point.accuracy, Scale.LINEAR, is_better_low=False)


def error_quantity(name: str) -> Quantity:
    """The error of the problem as an axis."""
    return Quantity(name, lambda point: point.error)


def figure(entries: Sequence[Standing], across: Quantity, up: Quantity, identifier: str) -> str:
    """One figure: a median line per method with its range over the seeds, labeled at its end.

    Args:
        entries: The methods to draw; each keeps its look through all figures of a page.
        across: The horizontal quantity.
        up: The vertical quantity.
        identifier: Unique on the page; a valid XML name.

    Returns:
        An ``<svg>`` element, or the empty string when no method has a point to show.
    """
    lines = []
    for index, entry in enumerate(entries):
        points = curve(entry.runs, lambda moment: across.read(moment) or 0.0, up.read, up.scale, across.scale)
        if points:
            lines.append(Line(index, entry.method, points))
    return line_figure(lines, across.label, up.label, identifier, up.scale, across_scale=across.scale, cut_high=up.is_better_low)
