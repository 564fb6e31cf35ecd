"""A comparison on the page: the answer, the curves of every setting, and a table in the order of the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from secant.race.comparison import Compared, ComparedSetting, Comparison
from secant.race.comparison_verdict import Verdict, judge
from secant.race.records import RunRecord
from secant.race.standings import Standing, standings
from secant.race.technique_rules import recorded
from secant.report.comparison_text import measure_name, sentence
from secant.report.curves import Curve
from secant.report.drawing import is_drawable_in_powers
from secant.report.line_figure import Line, line_figure
from secant.report.table import results
from secant.report.technique_text import techniques_of


@dataclass(frozen=True, slots=True)
class ComparedRecords:
    """A comparison with its records.

    Attributes:
        comparison: What was run.
        places: By setting, in their natural order, named after it; settings without a run are left out.
        verdict: The answer; None as long as there is none.
        sentence: The answer in words.
    """

    comparison: Comparison
    places: Mapping[str, Standing]
    verdict: Verdict | None
    sentence: str


def compare_records(comparison: Comparison, records: Sequence[RunRecord], *, trains: bool) -> ComparedRecords:
    """Sort the records of a comparison into its settings and judge them.

    Args:
        comparison: What was run.
        records: Of its runs.
        trains: Whether the problem has training data.
    """
    places = {}
    for setting in comparison.settings:
        own = [record for record in records if _belongs(record, setting, trains=trains)]
        if own:
            (place,) = standings(own)
            places[setting.name] = replace(place, method=setting.name, variant="" if len(place.others) == 0 else place.variant)
    verdict = judge(comparison, places)
    return ComparedRecords(comparison, places, verdict, sentence(comparison, places, verdict))


def _belongs(record: RunRecord, setting: ComparedSetting, *, trains: bool) -> bool:
    (method,) = setting.plan.methods
    member = setting.plan.members.get(method.name, record.variant)
    labels = {variant.label for variant in method.variants}
    return record.variant == member and record.variant in labels and techniques_of(record) == recorded(method, setting.plan.techniques, trains=trains)


def comparison_rows(compared: ComparedRecords) -> tuple[tuple[str, ...], list[tuple[str, ...]], tuple[int, ...]]:
    """Headings, rows and numeric columns: the settings in their natural order; the best one is starred."""
    headings, rows, numeric = results(list(compared.places.values()))
    best = None if compared.verdict is None else compared.verdict.best
    starred = [((f"{row[0]} *" if name == best else row[0]), *row[1:]) for name, row in zip(compared.places, rows, strict=True)]
    return ("setting", *headings[1:]), starred, numeric


def sensitivity_figure(compared: ComparedRecords) -> str:
    """The final score against the learning rate, where that is what was compared; else empty."""
    if compared.comparison.technique is not Compared.LR:
        return ""
    values = {setting.name: float(setting.value) for setting in compared.comparison.settings}
    shown = [(values[name], place.score) for name, place in compared.places.items() if is_drawable_in_powers(place.score.median)]
    if len(shown) < 2:
        return ""
    highest = [score.highest if is_drawable_in_powers(score.highest) else score.median for _, score in shown]
    lowest = [score.lowest if is_drawable_in_powers(score.lowest) else score.median for _, score in shown]
    line = Curve(np.array([rate for rate, _ in shown]), np.array([score.median for _, score in shown]), np.array(lowest), np.array(highest))
    measure = measure_name(next(iter(compared.places.values())))
    return line_figure([Line(0, compared.comparison.method, line)], "learning rate", f"{measure} at the end", "sensitivity", cut_high=False)
