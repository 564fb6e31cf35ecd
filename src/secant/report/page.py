"""The report: one HTML file that needs nothing else, neither a network nor a font nor a script."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from secant.race.records import RunRecord
from secant.race.standings import Standing, standings
from secant.report.figures import EVALUATIONS, LOSS, TIME, error_quantity, figure
from secant.report.numbers import count, duration, magnitude
from secant.report.style import STYLE
from secant.report.table import HEADINGS, row

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
<p class="note">{conditions}</p>
</header>
{figures}
{results}
{settings}
</main>
</body>
</html>
"""


def write_report(records: Sequence[RunRecord], path: Path) -> None:
    """Write the report of the runs of one problem to a file, in one piece: a reader never sees half of it."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(render(records), encoding="utf-8")
    os.replace(draft, path)


def render(records: Sequence[RunRecord]) -> str:
    """The report as HTML text.

    Args:
        records: Runs of one problem, at least one.

    Raises:
        ValueError: If there is no record.
    """
    if not records:
        raise ValueError("A report needs at least one run, got none.")
    places = standings(records)
    return _PAGE.format(
        title=escape(f"Race: {records[0].problem}"),
        style=STYLE,
        lead=_lead(places),
        conditions=escape(_conditions(records)),
        figures=_figures(places),
        results=_results(places),
        settings=_settings(records, places),
    )


def _lead(places: Sequence[Standing]) -> str:
    first = places[0]
    measure = first.runs[0].error_name or "loss"
    text = f"<strong>{escape(first.name)}</strong> ends lowest: {escape(measure)} {magnitude(first.score.median)}"
    return text + (f"; next <strong>{escape(places[1].name)}</strong>, {magnitude(places[1].score.median)}." if len(places) > 1 else ".")


def _conditions(records: Sequence[RunRecord]) -> str:
    first = records[0]
    seeds = sorted({record.seed for record in records})
    threads = first.machine.threads
    parts = [
        count(first.parameter_count, "parameters"),
        f"{first.budget.text} per run on {threads} thread{'s' if threads > 1 else ''}",
        f"seed {seeds[0]}" if len(seeds) == 1 else f"median and range over {len(seeds)} seeds",
        "compiled loss" if first.compiled else "",
        f"best known loss {magnitude(first.reference)}" if first.reference else "",
    ]
    return " · ".join(part for part in parts if part)


def _figures(places: Sequence[Standing]) -> str:
    error_name = places[0].runs[0].error_name
    rows = [("error", error_quantity(error_name))] if error_name else []
    rows.append(("loss", LOSS))
    panels = []
    for name, up in rows:
        for across_name, across in (("time", TIME), ("evaluations", EVALUATIONS)):
            svg = figure(places, across, up, f"{name}-{across_name}")
            if svg:
                panels.append(f"<figure>{svg}</figure>")
    return f'<section class="figures">{"".join(panels)}</section>'


def _results(places: Sequence[Standing]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
    body = "".join(_row(place, place.name) for place in places)
    return f'<section><h2>Results</h2><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{_grids(places)}</section>'


def _row(place: Standing, name: str) -> str:
    _, *cells = row(place)
    numbers = "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells[:-1])
    return f"<tr><th>{escape(name)}</th>{numbers}<td>{escape(cells[-1])}</td></tr>"


def _grids(places: Sequence[Standing]) -> str:
    rows = "".join(_row(other, other.name) for place in places for other in place.others)
    if not rows:
        return ""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in HEADINGS)
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<details><summary>The other members of the grids, each with the same budget</summary>{table}</details>"


def _settings(records: Sequence[RunRecord], places: Sequence[Standing]) -> str:
    last = records[-1]
    versions: dict[str, str] = {}
    for record in records:
        versions.update(record.versions)
    blocks: list[tuple[str, Mapping[str, object]]] = [
        ("Machine", {"cpu": last.machine.cpu, "system": last.machine.system, "threads": last.machine.threads}),
        ("Versions", versions),
        ("Problem", {key: value for key, value in last.problem_settings.items() if key != "seed" and not key.startswith("start_")}),
        *((place.name, place.runs[0].method_settings) for place in places),
    ]
    boxes = "".join(f"<div><h3>{escape(title)}</h3><dl>{_definitions(values)}</dl></div>" for title, values in blocks if values)
    total = duration(sum(record.cpu_seconds for record in records))
    rule = (
        "All runs of a seed start from the same parameters and see the same closure. Time is process CPU time over all threads; wall time stands beside it. "
        "Loss and error are measured outside the clock, at the parameters kept after a step. A rehearsal of a few evaluations comes before the clock. "
        f"{count(len(records), 'run' if len(records) == 1 else 'runs')}, {total} of CPU time in all."
    )
    return f'<section><h2>Settings</h2><p class="note">{escape(rule)}</p><div class="settings">{boxes}</div></section>'


def _definitions(values: Mapping[str, object]) -> str:
    return "".join(f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(_short(key, value))}</dd>" for key, value in values.items())


def _short(key: str, value: object) -> str:
    if key.endswith("sha256"):
        return f"{str(value)[:12]}…"  # the whole digest is in the record
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
