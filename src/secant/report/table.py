"""The results as rows of text: the same cells on the terminal and on the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from secant.race.records import Status
from secant.race.standings import Spread, Standing
from secant.report.numbers import NOTHING, count, duration, magnitude

HEADINGS = ("method", "error", "loss", "evaluations", "CPU time", "wall time", "ended because")
NUMERIC_COLUMNS = (1, 2, 3, 4, 5)


def row(place: Standing) -> tuple[str, ...]:
    """The cells of one method under ``HEADINGS``: medians, with the range over several seeds."""
    has_error = place.runs[0].error_name is not None
    return (
        place.name,
        spread_text(place.score) if has_error else "–",  # noqa: RUF001 - typography
        spread_text(place.loss),
        count(place.evaluations),
        duration(place.cpu_seconds),
        duration(place.wall_seconds),
        _ending(place),
    )


def results(places: Sequence[Standing]) -> tuple[tuple[str, ...], list[tuple[str, ...]], tuple[int, ...]]:
    """Headings, rows and the numbers of the columns that hold numbers; with test loss, accuracy and steps where there is held-out data."""
    if not any(math.isfinite(place.test_loss.lowest) for place in places):
        return HEADINGS, [row(place) for place in places], NUMERIC_COLUMNS
    headings = (*HEADINGS[:3], "test loss", "accuracy", "steps", *HEADINGS[3:])
    rows = []
    for place in places:
        cells = row(place)
        rows.append((*cells[:3], spread_text(place.test_loss), accuracy_text(place.accuracy), count(place.steps), *cells[3:]))
    shown = [column for column in range(len(headings)) if headings[column] not in _OPTIONAL or any(cells[column] != NOTHING for cells in rows)]
    kept = tuple(headings[column] for column in shown)
    return kept, [tuple(cells[column] for column in shown) for cells in rows], tuple(range(1, len(kept) - 1))


_OPTIONAL = frozenset({"error", "accuracy"})


def _ending(place: Standing) -> str:
    """``budget`` in one word, everything else with its reason."""
    if all(run.status is Status.BUDGET for run in place.runs):
        return "budget"
    failures = [run.outcome for run in place.runs if run.status is Status.FAILED]
    others = dict.fromkeys(run.outcome for run in place.runs if run.status is Status.STOPPED)
    if not failures:
        return " ".join(others)
    return " ".join([f"{len(failures)} of {len(place.runs)} failed: {failures[0]}" if len(place.runs) > 1 else f"Failed: {failures[0]}", *others])


def spread_text(spread: Spread) -> str:
    """The median, with the range where it can be seen in the digits."""
    return _with_range(magnitude, spread)


def accuracy_text(spread: Spread) -> str:
    """The median in percent, with the range where it can be seen in the digits; a dash where nothing is classified."""
    return _with_range(percent, spread) if math.isfinite(spread.median) else NOTHING


def _with_range(text: Callable[[float], str], spread: Spread) -> str:
    lowest, highest = text(spread.lowest), text(spread.highest)
    return text(spread.median) if lowest == highest else f"{text(spread.median)} ({lowest} to {highest})"


def percent(share: float) -> str:
    """``93.1 %``."""
    return f"{100 * share:.1f} %"


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """Rows as aligned plain text; the columns in ``numeric`` are aligned to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = (cell.rjust(width) if column in numeric else cell.ljust(width) for column, (cell, width) in enumerate(zip(cells, widths, strict=True)))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *(line(cells) for cells in rows)])
