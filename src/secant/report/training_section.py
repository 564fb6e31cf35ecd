"""What a page says of training beside its curves: what steps cost and keep, what was clipped, and whether the first layer learned."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

from secant.race.records import RunRecord, Status, TrainingDetails
from secant.race.standings import Standing, spread_of, standings
from secant.report.figures import ACCURACY, STEPS, TEST_LOSS, TRAINING_LOSS, TRAINING_TIME, Quantity, error_quantity, figure
from secant.report.markup import paragraph, section, table
from secant.report.numbers import NOTHING, count, magnitude
from secant.report.table import accuracy_text, percent, spread_text
from secant.report.technique_text import setting_words, techniques_of

_STEP_HEADINGS = ("method", "samples seen", "optimizer / gradient", "numbers kept", "clipped", "skipped", "first layer learned")
_LAYER_HEADINGS = ("method", "techniques", "first layer learned", "training loss", "test loss", "accuracy")
_FIRST_LAYER_RULE = "The layer farthest from the loss has learned when it has moved by more than one percent of its own norm."


def is_training(records: Sequence[RunRecord]) -> bool:
    """Whether the runs learned from data, by batches or all of it at once."""
    return any("feed" in techniques_of(record) for record in records)


def training_figures(places: Sequence[Standing]) -> list[str]:
    """Error, training loss, test loss and accuracy, each against time and against steps; those that there is nothing to show of are left out."""
    error_name = places[0].runs[0].error_name
    rows: list[tuple[str, Quantity]] = [("error", error_quantity(error_name))] if error_name else []
    rows += [("loss", TRAINING_LOSS), ("test-loss", TEST_LOSS), ("accuracy", ACCURACY)]
    figures = [figure(places, across, up, f"{name}-{label}") for name, up in rows for label, across in (("time", TRAINING_TIME), ("steps", STEPS))]
    return [svg for svg in figures if svg]


def steps_section(places: Sequence[Standing]) -> str:
    """What a step costs and keeps, and how often techniques stepped in."""
    rows = [_step_row(place.name, [run.training for run in place.runs if run.training is not None], first_layer_text(place.runs)) for place in places]
    note = (
        "Optimizer / gradient: time in the optimizer over that of all forward and backward passes. Numbers kept: between steps, per parameter. "
        f"Clipped: steps whose gradient, or length, was cut. Skipped: steps left out because a gradient was not finite. {_FIRST_LAYER_RULE}"
    )
    return section("Steps", table(_STEP_HEADINGS, rows, range(1, 6)), paragraph(note, "note"))


def _step_row(name: str, runs: Sequence[TrainingDetails], first_layer: str) -> tuple[str, ...]:
    if not runs:
        return (name, *[NOTHING] * (len(_STEP_HEADINGS) - 1))
    steps_cost = _median(runs, lambda run: run.step_share)
    return (
        name,
        count(statistics.median(run.samples for run in runs)),
        NOTHING if steps_cost is None else percent(steps_cost),
        magnitude(_median(runs, lambda run: run.state_numbers), 3),
        count(statistics.median(run.clipped_steps for run in runs)),
        count(statistics.median(run.skipped_steps for run in runs)),
        first_layer,
    )


def _median(runs: Sequence[TrainingDetails], number: Callable[[TrainingDetails], float | None]) -> float | None:
    known = [value for value in map(number, runs) if value is not None]
    return statistics.median(known) if known else None


def first_layer_text(runs: Sequence[RunRecord]) -> str:
    """``in 12 steps (9 to 20)``, ``never``, ``failed``, or ``in 2 of 3 runs, in 12 steps``; in a run that failed it has learned nothing."""
    known = _learned_at(runs)
    if not known:
        return "failed" if all(run.status is Status.FAILED for run in runs) else "never"
    spread = spread_of(known)
    text = f"in {count(spread.median, 'step' if spread.median == 1 else 'steps')}"
    if spread.lowest != spread.highest:
        text += f" ({count(spread.lowest)} to {count(spread.highest)})"
    return text if len(known) == len(runs) else f"in {len(known)} of {len(runs)} runs, {text}"


def _learned_at(runs: Sequence[RunRecord]) -> list[int]:
    """The steps in which the first layer learned, of the runs in which it did."""
    found = (run.training.first_layer_learned_at for run in runs if run.training is not None and run.status is not Status.FAILED)
    return [step for step in found if step is not None]


def first_layer_section(records: Sequence[RunRecord]) -> str:
    """Per method and techniques, whether the first layer learned; empty where that goes without saying.

    Args:
        records: Runs of one problem and budget, whatever their techniques. Of a grid the member with the lowest loss counts.
    """
    settings: dict[tuple[str, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.training is not None:
            settings[setting_words(techniques_of(record))].append(record)
    places = [(words, place) for words, runs in settings.items() for place in standings(runs)]
    if len(settings) < 2 and all(len(_learned_at(place.runs)) == len(place.runs) for _, place in places):
        return ""
    rows = [
        (
            place.name,
            ", ".join(words) or "none",
            first_layer_text(place.runs),
            spread_text(place.loss),
            spread_text(place.test_loss),
            accuracy_text(place.accuracy),
        )
        for words, place in sorted(places, key=lambda found: (found[1].method, found[0]))
    ]
    return section(
        "Did the first layer learn?", paragraph(_first_layer_lead(places)), table(_LAYER_HEADINGS, rows, (3, 4, 5)), paragraph(_FIRST_LAYER_RULE, "note")
    )


def _first_layer_lead(places: Sequence[tuple[tuple[str, ...], Standing]]) -> str:
    runs = {f"{place.name} with {', '.join(words)}" if words else place.name: place.runs for words, place in places}
    always = [name for name in runs if len(_learned_at(runs[name])) == len(runs[name])]
    never = sum(not _learned_at(each) for each in runs.values())
    if not always:
        return "In no setting did the first layer learn from every seed."
    fastest = min(always, key=lambda name: statistics.median(_learned_at(runs[name])))
    text = f"Fastest with {fastest}: {first_layer_text(runs[fastest])}."
    return f"{text} Never in {never} of {len(runs)} settings." if never else text
