"""The report of a race: one HTML file that needs nothing else, neither a network nor a font nor a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from secant.race.records import RunRecord, Tuning
from secant.race.standings import Standing, standings
from secant.report.comparison_section import ComparedRecords, comparison_rows, sensitivity_figure
from secant.report.figures import EVALUATIONS, LOSS, TIME, error_quantity, figure
from secant.report.health_section import health_section
from secant.report.markup import definition_boxes, details, document, escaped, paragraph, section, table, write_whole
from secant.report.numbers import count, duration, magnitude
from secant.report.style import STYLE
from secant.report.table import results
from secant.report.technique_text import common_words, shared_words, techniques_of
from secant.report.training_section import first_layer_section, is_training, steps_section, training_figures
from secant.report.tuning_section import tuning_section

_CLOCK_RULE = "Time is process CPU time over all threads; wall time stands beside it."
_REHEARSAL_RULE = "A rehearsal of a few evaluations comes before the clock."
_RULE = (
    f"All runs of a seed start from the same parameters and see the same closure. {_CLOCK_RULE} "
    f"Loss and error are measured outside the clock, at the parameters kept after a step. {_REHEARSAL_RULE}"
)
_TRAINING_RULE = (
    f"All runs of a seed start from the same parameters and see the samples in the same order. {_CLOCK_RULE} "
    f"Losses and accuracy are measured outside the clock, in evaluation mode; an evaluation is one micro-batch, or all data. {_REHEARSAL_RULE}"
)


def write_report(
    records: Sequence[RunRecord],
    path: Path,
    *,
    others: Sequence[RunRecord] = (),
    compared: ComparedRecords | None = None,
    tunings: Sequence[Tuning] = (),
) -> None:
    """Write the report of the runs of one problem to a file, in one piece; arguments and errors as in :func:`render`."""
    write_whole(render(records, others=others, compared=compared, tunings=tunings), path)


def render(records: Sequence[RunRecord], *, others: Sequence[RunRecord] = (), compared: ComparedRecords | None = None, tunings: Sequence[Tuning] = ()) -> str:
    """The report as HTML text.

    Args:
        records: Runs of one problem, at least one.
        others: Runs of the same problem and budget with other training techniques, of which the page says whether the first layer learned.
        compared: The records as settings of one method, where that is what they are.
        tunings: What was tuned.

    Raises:
        ValueError: If there is no record.
    """
    if not records:
        raise ValueError("A report needs at least one run, got none.")
    places = standings(records) if compared is None else list(compared.places.values())
    title = (
        f"Race: {records[0].problem}" if compared is None else f"{compared.comparison.method} on {records[0].problem}: {compared.comparison.technique.value}"
    )
    lead = _lead(places) if compared is None else escaped(compared.sentence)
    header = f'<header><h1>{escape(title)}</h1><p class="lead">{lead}</p>{paragraph(_conditions(records, compared), "note")}</header>'
    figures = training_figures(places) if is_training(records) else _figures(places)
    panels = _panels(figures) if compared is None else _panels([sensitivity_figure(compared)]) + _panels(figures)
    if not is_training(records):
        return document(title, STYLE, header + panels + _results(places, compared) + _settings(records, places, compared))
    training = (
        _results(places, compared),
        tuning_section(tunings),
        steps_section(places),
        first_layer_section([*records, *others]),
        health_section(places),
    )
    return document(title, STYLE, header + panels + "".join(training) + _settings(records, places, compared))


def _lead(places: Sequence[Standing]) -> str:
    first = places[0]
    measure = first.runs[0].error_name or "loss"
    text = f"<strong>{escape(first.name)}</strong> ends lowest: {escape(measure)} {magnitude(first.score.median)}"
    return text + (f"; next <strong>{escape(places[1].name)}</strong>, {magnitude(places[1].score.median)}." if len(places) > 1 else ".")


def _conditions(records: Sequence[RunRecord], compared: ComparedRecords | None) -> str:
    first = records[0]
    seeds = sorted({record.seed for record in records})
    threads = first.machine.threads
    parts = [
        count(first.parameter_count, "parameters"),
        f"{first.budget.text} per run on {threads} thread{'s' if threads > 1 else ''}",
        f"seed {seeds[0]}" if len(seeds) == 1 else f"median and range over {len(seeds)} seeds",
        "compiled loss" if first.compiled else "",
        *(common_words(records) if compared is None else shared_words(records)),
        f"best known loss {magnitude(first.reference)}" if first.reference else "",
    ]
    return " · ".join(part for part in parts if part)


def _figures(places: Sequence[Standing]) -> list[str]:
    error_name = places[0].runs[0].error_name
    rows = [("error", error_quantity(error_name))] if error_name else []
    rows.append(("loss", LOSS))
    return [figure(places, across, up, f"{name}-{label}") for name, up in rows for label, across in (("time", TIME), ("evaluations", EVALUATIONS))]


def _panels(figures: Sequence[str]) -> str:
    shown = "".join(f"<figure>{svg}</figure>" for svg in figures if svg)
    return f'<section class="figures">{shown}</section>' if shown else ""


def _results(places: Sequence[Standing], compared: ComparedRecords | None) -> str:
    others = [other for place in places for other in place.others]
    grids = details("The other members of the grids, each with the same budget", table(*results(others))) if others else ""
    return section("Results", table(*(results(places) if compared is None else comparison_rows(compared))), grids)


def _settings(records: Sequence[RunRecord], places: Sequence[Standing], compared: ComparedRecords | None) -> str:
    last = records[-1]
    versions: dict[str, str] = {}
    for record in records:
        versions.update(record.versions)
    blocks: list[tuple[str, Mapping[str, object]]] = [
        ("Machine", {"cpu": last.machine.cpu, "system": last.machine.system, "threads": last.machine.threads}),
        ("Versions", versions),
        ("Problem", {key: value for key, value in last.problem_settings.items() if key != "seed" and not key.startswith("start_")}),
        *_method_blocks(places, compared),
    ]
    total = duration(sum(record.cpu_seconds for record in records))
    rule = f"{_TRAINING_RULE if is_training(records) else _RULE} {count(len(records), 'run' if len(records) == 1 else 'runs')}, {total} of CPU time in all."
    return section("Settings", paragraph(rule, "note"), definition_boxes(blocks))


def _method_blocks(places: Sequence[Standing], compared: ComparedRecords | None) -> list[tuple[str, Mapping[str, object]]]:
    """What each method was built with; of one method, what all its settings share: the rest is in their names."""
    blocks = [(place.name, {**place.runs[0].method_settings, **techniques_of(place.runs[0])}) for place in places]
    if compared is None:
        return [*blocks]
    first = blocks[0][1]
    return [(compared.comparison.method, {key: value for key, value in first.items() if all(block.get(key) == value for _, block in blocks)})]
