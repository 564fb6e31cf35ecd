"""The results of the CUTEst race as rows of text: the same cells on the terminal and on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from secant.race.cutest_records import Ending
from secant.race.cutest_standings import REFERENCE, Judged, Place
from secant.report.numbers import NOTHING, count, magnitude
from secant.report.table import percent

Rows = tuple[tuple[str, ...], list[tuple[str, ...]], tuple[int, ...]]
"""Headings, rows, and the numbers of the columns that hold numbers."""

_NAMED = 6


def method_rows(judged: Judged, found: Sequence[Place]) -> Rows:
    """One row per method."""
    compared = REFERENCE in judged.methods
    headings = ("method", "solved", "share", "median, all solve", *((f"against {REFERENCE}",) if compared else ()), "exceptions", "NaN parameters")
    rows = [
        (
            place.method,
            str(place.solved),
            percent(place.share),
            _whole(place.median_common),
            *((_against(place),) if compared else ()),
            str(place.raised) if place.raised else NOTHING,
            str(place.lost) if place.lost else NOTHING,
        )
        for place in found
    ]
    return headings, rows, tuple(range(1, len(headings)))


def unsolved_rows(judged: Judged) -> Rows:
    """The problems that some method does not solve, the hardest first, with who fails."""
    rows = []
    for problem in judged.problems:
        missing = [method for method in judged.methods if not math.isfinite(judged.solved_at[method, problem])]
        if not missing:
            continue
        some = judged.runs[judged.methods[0], problem]
        rows.append(
            (len(missing), (problem, str(some.parameter_count), magnitude(some.start_value), magnitude(judged.best[problem], 4), *_who(judged, missing)))
        )
    rows.sort(key=lambda row: -row[0])
    return ("problem", "n", "f at the start", "f*", "solved by", "not solved by"), [cells for _, cells in rows], (1, 2, 3, 4)


def unbounded_rows(judged: Judged) -> Rows:
    """The unbounded problems, with who finds out."""
    rows: list[tuple[str, ...]] = []
    for problem in judged.unbounded:
        finders = [method for method in judged.methods if judged.runs[method, problem].ending is Ending.UNBOUNDED]
        others = [method for method in judged.methods if method not in finders]
        n = judged.runs[judged.methods[0], problem].parameter_count
        rows.append((problem, str(n), f"{len(finders)} of {len(judged.methods)}", ", ".join(others) or NOTHING))
    return ("problem", "n", "fall without bound", "do not"), rows, (1,)


def failure_rows(judged: Judged) -> Rows:
    """Runs that raised or left parameters that are not finite, with the reason."""
    rows: list[tuple[str, ...]] = [
        (method, problem, record.outcome if record.ending is Ending.FAILED else "Left parameters that are not finite.")
        for (method, problem), record in judged.runs.items()
        if record.failed and problem in (*judged.problems, *judged.unbounded)
    ]
    return ("method", "problem", "reason"), rows, ()


def _who(judged: Judged, missing: Sequence[str]) -> tuple[str, str]:
    solvers = [method for method in judged.methods if method not in missing]
    if not solvers:
        return "0", "all"
    names = ", ".join(missing) if len(missing) <= max(_NAMED, len(solvers)) else f"all but {', '.join(solvers)}"
    return str(len(solvers)), names


def _whole(value: float) -> str:
    if not math.isfinite(value):
        return NOTHING
    return count(value) if value == int(value) else f"{value:,.1f}"


def _against(place: Place) -> str:
    return f"{place.against:.2f} on {place.shared}" if math.isfinite(place.against) else NOTHING
