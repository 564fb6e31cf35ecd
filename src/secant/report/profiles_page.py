"""The report of the CUTEst race: profiles, who solves what, who fails where."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from secant.methods import METHODS
from secant.race.cutest_records import CutestRecord
from secant.race.cutest_standings import REFERENCE, TAU, Judged, Place, Steps, data_profile, performance_profile, places
from secant.report.curves import Curve, Scale
from secant.report.drawing import LINES
from secant.report.line_figure import Line, line_figure
from secant.report.markup import definition_boxes, details, document, escaped, paragraph, section, table, write_whole
from secant.report.numbers import count, duration, magnitude
from secant.report.profiles_text import failure_rows, method_rows, unbounded_rows, unsolved_rows
from secant.report.style import STYLE
from secant.report.table import percent

_STYLE = f"{STYLE}figure{{margin:1.4rem 0 0}}figure>svg{{max-width:none}}h2{{margin-top:3rem}}"
_WIDTH_INCHES, _LEAST_HEIGHT_INCHES, _INCHES_PER_METHOD = 11.4, 4.4, 0.24
_LARGEST_RATIO = 100.0


def write_profiles(judged: Judged, known_evaluations: int, path: Path) -> None:
    """Write the page of :func:`render_profiles` to a file, in one piece."""
    write_whole(render_profiles(judged, known_evaluations), path)


def render_profiles(judged: Judged, known_evaluations: int) -> str:
    """The report as HTML text.

    Args:
        judged: At least one method on at least one problem.
        known_evaluations: Budget of the runs that the known values come from; 0 where there are none.
    """
    found = places(judged)
    records = list(judged.runs.values())
    title = "Race: CUTEst"
    header = f'<header><h1>{escape(title)}</h1><p class="lead">{_lead(judged, found)}</p>{paragraph(_conditions(judged, records[0]), "note")}</header>'
    parts = (
        section("Methods", table(*method_rows(judged, found)), paragraph(_method_note(judged), "note")) if judged.problems else "",
        _profiles(judged, found),
        _unsolved(judged),
        _unbounded(judged),
        _failures(judged),
        _settings(judged, records, known_evaluations),
    )
    return document(title, _STYLE, header + "".join(parts))


def _lead(judged: Judged, found: Sequence[Place]) -> str:
    if not judged.problems:
        return escaped("No bounded problem was run by every method.")
    most = found[0].solved
    leaders = [place.method for place in found if place.solved == most]
    names = " and ".join(f"<strong>{escape(name)}</strong>" for name in (", ".join(leaders[:-1]), leaders[-1]) if name)
    text = f"{names} {'solves' if len(leaders) == 1 else 'solve'} the most: {escaped(f'{most} of {len(judged.problems)} problems ({percent(found[0].share)})')}"
    rest = found[len(leaders) :]
    return text + (f"; next <strong>{escape(rest[0].method)}</strong>, {rest[0].solved}." if rest else ".")


def _conditions(judged: Judged, record: CutestRecord) -> str:
    parts = [
        f"{count(len(judged.problems) + len(judged.unbounded))} unconstrained problems, n from {_sizes(judged)}",
        f"at most {count(record.evaluations)} gradient equivalents, a Hessian product is {record.product_price:g}",
        f"solved at f ≤ f* + {magnitude(TAU)} (f0 − f*)",  # noqa: RUF001 - typography
    ]
    return " · ".join(parts)


def _sizes(judged: Judged) -> str:
    sizes = [record.parameter_count for record in judged.runs.values()]
    return f"{min(sizes)} to {max(sizes)}"


def _method_note(judged: Judged) -> str:
    common = sum(all(math.isfinite(judged.solved_at[method, problem]) for method in judged.methods) for problem in judged.problems)
    text = f"Medians are in gradient equivalents; all methods solve {count(common, 'problem' if common == 1 else 'problems')}."
    if REFERENCE in judged.methods:
        text += f" Against {REFERENCE}: the ratio of the two medians on the problems that both solve, and how many those are."
    return text


def _profiles(judged: Judged, found: Sequence[Place]) -> str:
    if not any(place.solved for place in found):
        return ""
    budget = float(next(iter(judged.runs.values())).evaluations)
    largest = max((corner for method in judged.methods for corner, _ in performance_profile(judged, method)), default=1.0)
    figures = (
        (
            "Data profile: share of the problems solved within so many gradient equivalents. Solid lines are methods of this library.",
            "gradient equivalents",
            "data",
            data_profile,
            budget,
        ),
        (
            "Performance profile: share of the problems solved within so many times the gradient equivalents of the method that is fastest on each.",
            "gradient equivalents over those of the fastest method",
            "performance",
            performance_profile,
            min(max(largest, 2.0), _LARGEST_RATIO),
        ),
    )
    shown = "".join(
        f"<figure><figcaption>{escaped(caption)}</figcaption>{_figure(judged, found, across, name, profile, end)}</figure>"
        for caption, across, name, profile, end in figures
    )
    return section("Profiles", shown)


def _figure(judged: Judged, found: Sequence[Place], across: str, name: str, profile: Callable[[Judged, str], Steps], end: float) -> str:
    looks = _looks(place.method in METHODS for place in found)
    lines = [Line(look, place.method, _stairs(profile(judged, place.method), end)) for look, place in zip(looks, found, strict=True)]
    size = (_WIDTH_INCHES, max(_LEAST_HEIGHT_INCHES, 0.8 + _INCHES_PER_METHOD * len(lines)))
    return line_figure(lines, across, "share of problems (%)", f"{name}-profile", Scale.LINEAR, size, cut_high=False)


def _looks(own: Iterable[bool]) -> list[int]:
    """A look for each method: the dashes come in turn, and the first of them, the solid line, is left to ours."""
    solid, dashed = itertools.count(0, len(LINES)), (look for look in itertools.count(1) if look % len(LINES))
    return [next(solid) if is_own else next(dashed) for is_own in own]


def _stairs(corners: Steps, end: float) -> Curve:
    """A staircase up to ``end`` as the points of a line, in percent."""
    x, y = [corners[0][0]], [corners[0][1]]
    for place, share in corners[1:]:
        if place > end:
            break
        x += [place, place]
        y += [y[-1], share]
    up = 100.0 * np.array([*y, y[-1]])
    return Curve(np.array([*x, end]), up, up, up)


def _unsolved(judged: Judged) -> str:
    headings, rows, numeric = unsolved_rows(judged)
    solved = len(judged.problems) - len(rows)
    note = paragraph(f"Every method solves {'the other' if rows else 'all'} {solved}.", "note") if solved else ""
    return section("Not solved by every method", table(headings, rows, numeric) if rows else "", note)


def _unbounded(judged: Judged) -> str:
    if not judged.unbounded:
        return ""
    note = "Their values fall below every bound, so there is no f* to reach; they count in no number above but exceptions and NaN parameters."
    return section("Unbounded problems", table(*unbounded_rows(judged)), paragraph(note, "note"))


def _failures(judged: Judged) -> str:
    headings, rows, numeric = failure_rows(judged)
    if not rows:
        return section("Exceptions and NaN parameters", paragraph("None.", "note"))
    return section("Exceptions and NaN parameters", table(headings, rows, numeric))


def _settings(judged: Judged, records: Sequence[CutestRecord], known_evaluations: int) -> str:
    last = records[-1]
    versions: dict[str, str] = {}
    for record in records:
        versions.update(record.versions)
    source = (
        f"f* is the smallest value that any method reached in {count(known_evaluations)} gradient equivalents, or in this race where it is lower"
        if known_evaluations
        else "f* is the smallest value of this race"
    )
    rule = (
        "Every method starts at the problem's own start, in float64, with its defaults and tolerances 0. One loss with its gradient is one gradient "
        "equivalent; a value counts from the evaluation that returned it, whether the method kept the point or not. "
        f"{source}. {count(len(records), 'runs')}, {duration(sum(record.cpu_seconds for record in records))} of CPU time in all."
    )
    lower = f"Lower than the known values by more than the tolerance: {', '.join(judged.improved)}." if judged.improved else ""
    methods = [(method, dict(next(judged.runs[key] for key in judged.runs if key[0] == method).method_settings)) for method in judged.methods]
    machine = {"cpu": last.machine.cpu, "system": last.machine.system, "threads": last.machine.threads}
    boxes = definition_boxes([("Machine", machine), ("Versions", versions), *methods])
    return section("Settings", paragraph(rule, "note"), paragraph(lower, "note"), boxes, _names(judged))


def _names(judged: Judged) -> str:
    return details(f"The {len(judged.problems) + len(judged.unbounded)} problems", paragraph(", ".join((*judged.problems, *judged.unbounded)), "note"))
