"""A race from request to report: run, keep each record at once, print, and write the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from secant.race.ledger import append_record, finished_keys, read_records
from secant.race.plan import race_all
from secant.race.records import RunRecord, Status, Tuning
from secant.race.registry import methods_for
from secant.race.request import RECORDS_FILE, REPORT_FILE, RaceRequest
from secant.race.standings import Spread, standings
from secant.race.technique_rules import recorded
from secant.race.tuning_plan import tuned_run_count
from secant.report.comparison_section import ComparedRecords, compare_records, comparison_rows
from secant.report.page import write_report
from secant.report.progress import ProgressLines
from secant.report.table import results, text_table
from secant.report.tuning_section import tuning_sentence

_INTERRUPTED = 130


def run_race(request: RaceRequest, *, as_json: bool) -> int:
    """Run a race and leave ``runs.jsonl`` and ``report.html`` in its folder, and the studies of a tuned one.

    Ctrl-C drops the run it hits and keeps the finished ones; table and report are made of those.

    Args:
        request: What to run and where to keep it.
        as_json: Print JSON on stdout instead of the table.

    Returns:
        The exit code: 0, 1 when every run failed, or 130 after Ctrl-C.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    earlier = _of_one_problem(read_records(request.folder / RECORDS_FILE), request)
    kept = [record for record in earlier if _is_wanted(record, request)]
    interrupted, tunings = _run(request, kept)
    _say_where(request, kept, interrupted)
    if not kept:
        return _INTERRUPTED if interrupted else 1
    compared = None if request.comparison is None else compare_records(request.comparison, kept, trains=request.trains)
    keys = finished_keys(kept)
    others = [record for record in earlier if record.key not in keys]
    write_report(kept, request.folder / REPORT_FILE, others=others, compared=compared, tunings=tunings)
    sys.stdout.write(_as_json(kept, compared, tunings) if as_json else _as_text(kept, compared, tunings))
    if interrupted:
        return _INTERRUPTED
    return int(all(record.status is Status.FAILED or record.loss is None for record in kept))


def _of_one_problem(records: Sequence[RunRecord], request: RaceRequest) -> list[RunRecord]:
    """The earlier runs with the same problem, budget, threads and compilation, whatever their techniques; the newest of each."""
    plan = request.plans[0]
    asked = (plan.source.name, plan.budget, plan.threads, plan.compiled)
    matching = [record for record in records if (record.problem, record.budget, record.machine.threads, record.compiled) == asked]
    return list({record.key: record for record in matching}.values())


def _is_wanted(record: RunRecord, request: RaceRequest) -> bool:
    """Whether an earlier run belongs in the table: it has the techniques, and the gradients of its layers where those are asked for."""
    if request.comparison is not None and record.method != request.comparison.method:
        return False
    method = methods_for(trains=request.trains).get(record.method)
    if method is None:
        return False
    is_looked_at = record.status is Status.FAILED or (record.training is not None and bool(record.training.health))
    if request.plan.health is not None and not is_looked_at:
        return False
    found = {} if record.training is None else record.training.techniques
    return any(found == recorded(method, plan.techniques, trains=request.trains) for plan in request.plans)


def _run(request: RaceRequest, kept: list[RunRecord]) -> tuple[bool, list[Tuning]]:
    """Append the new records to ``kept`` and to the file; whether Ctrl-C ended it, and what was tuned."""

    def keep(record: RunRecord) -> None:
        append_record(request.folder / RECORDS_FILE, record)
        kept.append(record)
        lines.finished(record)

    total = tuned_run_count(request.plan) if request.tunes else sum(plan.run_count for plan in request.plans)
    with ProgressLines(total) as lines:
        try:
            if request.tunes:
                from secant.race.tuning import race_tuned  # Optuna is needed here only, and takes its time to load

                return False, race_tuned(request.plan, kept, request.folder, keep, lines)
            for record in race_all(request.plans, finished_keys(kept), lines):
                keep(record)
        except KeyboardInterrupt:
            return True, []
    return False, []


def _as_text(records: Sequence[RunRecord], compared: ComparedRecords | None, tunings: Sequence[Tuning]) -> str:
    if compared is not None:
        return f"{text_table(*comparison_rows(compared))}\n\n{compared.sentence}\n"
    lines = [text_table(*results(standings(records))), *map(tuning_sentence, tunings)]
    return "".join(f"{line}\n" for line in lines)


def _say_where(request: RaceRequest, kept: Sequence[RunRecord], interrupted: bool) -> None:
    lines = []
    if interrupted:
        lines += [f"Stopped by Ctrl-C; finished runs are kept ({len(kept)}).", f"hint: the same command with --resume --out {request.folder} goes on"]
    if kept:
        lines += [f"Records: {request.folder / RECORDS_FILE}", f"Report:  {request.folder / REPORT_FILE}"]
    sys.stderr.write("".join(line + "\n" for line in lines))


def _as_json(records: Sequence[RunRecord], compared: ComparedRecords | None, tunings: Sequence[Tuning]) -> str:
    summary = [
        {
            "method": place.method,
            "variant": place.variant,
            "score": _spread_as_json(place.score),
            "loss": _spread_as_json(place.loss),
            "test_loss": _spread_as_json(place.test_loss),
            "accuracy": _spread_as_json(place.accuracy),
            "steps": place.steps,
            "evaluations": place.evaluations,
            "cpu_seconds": place.cpu_seconds,
            "wall_seconds": place.wall_seconds,
            "failures": place.failures,
            "outcome": place.outcome,
        }
        for place in standings(records)
    ]
    document: dict[str, object] = {"standings": summary, "runs": [record.model_dump(mode="json") for record in records]}
    if compared is not None:
        document["comparison"] = _comparison_as_json(compared)
    if tunings:
        document["tuning"] = [tuning.model_dump(mode="json") for tuning in tunings]
    return json.dumps(document, indent=2, allow_nan=False)


def _comparison_as_json(compared: ComparedRecords) -> dict[str, object]:
    settings = [{"name": name, "score": _spread_as_json(place.score), "seeds": len(place.runs)} for name, place in compared.places.items()]
    return {
        "technique": compared.comparison.technique.value,
        "method": compared.comparison.method,
        "settings": settings,
        "best": None if compared.verdict is None else compared.verdict.best,
        "near": [] if compared.verdict is None else list(compared.verdict.near),
        "sentence": compared.sentence,
    }


def _spread_as_json(spread: Spread) -> dict[str, float | None]:
    numbers = {"median": spread.median, "lowest": spread.lowest, "highest": spread.highest}
    return {name: None if value == float("inf") else value for name, value in numbers.items()}
