"""What tuning found, on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Sequence

from secant.race.records import Tuning
from secant.report.markup import paragraph, section, table
from secant.report.numbers import magnitude

_HEADINGS = ("method", "learning rates, with what they reached", "best", "study")


def tuning_sentence(tuning: Tuning) -> str:
    """The best member of a grid, and what to do when it stands at its end."""
    if tuning.values[tuning.best] is None:
        return f"Tuned {tuning.method} on seed {tuning.seed}: no rate of its grid gave a finite result; smaller ones may (--lr)."
    found = f"Tuned {tuning.method} on seed {tuning.seed}: {tuning.best} is best of {len(tuning.values)}"
    end = _end(tuning)
    return f"{found}, the {end} of its grid; a {'larger' if end == 'largest' else 'smaller'} one may be better (--lr)." if end else f"{found}."


def _end(tuning: Tuning) -> str:
    rates = {label: float(label.removeprefix("lr=")) for label in tuning.values}
    if rates[tuning.best] == max(rates.values()):
        return "largest"
    return "smallest" if rates[tuning.best] == min(rates.values()) else ""


def tuning_section(tunings: Sequence[Tuning]) -> str:
    """The grids and what was chosen from them; empty when nothing was tuned."""
    if not tunings:
        return ""
    rows = [(each.method, ", ".join(f"{label}: {magnitude(value)}" for label, value in each.values.items()), each.best, each.study) for each in tunings]
    rule = (
        f"Every grid was run on seed {tunings[0].seed}; the best rate of each method counts and was run on every seed. "
        "The studies are in study.db beside the records, for Optuna's own tools."
    )
    return section(
        "Tuning",
        paragraph(rule, "note"),
        table(_HEADINGS, rows),
        *(paragraph(tuning_sentence(each)) for each in tunings if _end(each) or each.values[each.best] is None),
    )
