"""A race from request to report: run, keep each record at once, print, and write the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from secant.race.ledger import append_record, finished_keys, read_records
from secant.race.plan import race
from secant.race.records import RunRecord, Status
from secant.race.registry import methods_for
from secant.race.request import RECORDS_FILE, REPORT_FILE, RaceRequest
from secant.race.standings import Spread, standings
from secant.race.technique_rules import recorded
from secant.report.page import write_report
from secant.report.progress import ProgressLines
from secant.report.table import results, text_table

_INTERRUPTED = 130


def run_race(request: RaceRequest, *, as_json: bool) -> int:
    """Run a race and leave ``runs.jsonl`` and ``report.html`` in its folder.

    Ctrl-C drops the run it hits and keeps the finished ones; table and report are made of those.

    Args:
        request: What to run and where to keep it.
        as_json: Print JSON on stdout instead of the table.

    Returns:
        The exit code: 0, 1 when every run failed, or 130 after Ctrl-C.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    file = request.folder / RECORDS_FILE
    earlier = _of_one_problem(read_records(file), request)
    kept = [record for record in earlier if _has_techniques(record, request)]
    interrupted = _run(request, kept)
    _say_where(request, kept, interrupted)
    if not kept:
        return _INTERRUPTED if interrupted else 1
    write_report(kept, request.folder / REPORT_FILE, [record for record in earlier if record not in kept])
    table = _as_json(kept) if as_json else text_table(*results(standings(kept)))
    sys.stdout.write(table + "\n")
    if interrupted:
        return _INTERRUPTED
    return int(all(record.loss is None for record in kept))


def _comparable(records: Sequence[RunRecord], request: RaceRequest) -> list[RunRecord]:
    """The earlier runs that belong in the same table, the newest of each method and seed.

    They have the same problem, budget, threads, compilation and techniques, and the gradients of their layers where those are asked for.
    """
    plan = request.plan
    asked = (plan.source.name, plan.budget, plan.threads, plan.compiled)
    matching = [record for record in records if (record.problem, record.budget, record.machine.threads, record.compiled) == asked]
    matching = [record for record in matching if _has_techniques(record, request)]
    return list({(record.method, record.variant, record.seed): record for record in matching}.values())


def _has_techniques(record: RunRecord, request: RaceRequest) -> bool:
    method = methods_for(trains=request.trains).get(record.method)
    if method is None:
        return False
    found = {} if record.training is None else record.training.techniques
    is_looked_at = record.status is Status.FAILED or (record.training is not None and bool(record.training.health))
    return found == recorded(method, request.plan.techniques, trains=request.trains) and (request.plan.health is None or is_looked_at)


def _run(request: RaceRequest, kept: list[RunRecord]) -> bool:
    """Append the new records to ``kept`` and to the file; whether Ctrl-C ended it."""
    with ProgressLines(request.plan.run_count) as lines:
        try:
            for record in race(request.plan, finished_keys(kept), lines):
                append_record(request.folder / RECORDS_FILE, record)
                kept.append(record)
                lines.finished(record)
        except KeyboardInterrupt:
            return True
    return False


def _say_where(request: RaceRequest, kept: Sequence[RunRecord], interrupted: bool) -> None:
    lines = []
    if interrupted:
        lines += [f"Stopped by Ctrl-C; finished runs are kept ({len(kept)}).", f"hint: the same command with --resume --out {request.folder} goes on"]
    if kept:
        lines += [f"Records: {request.folder / RECORDS_FILE}", f"Report:  {request.folder / REPORT_FILE}"]
    sys.stderr.write("".join(line + "\n" for line in lines))


def _as_json(records: Sequence[RunRecord]) -> str:
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
    return json.dumps({"standings": summary, "runs": [record.model_dump(mode="json") for record in records]}, indent=2, allow_nan=False)


def _spread_as_json(spread: Spread) -> dict[str, float | None]:
    numbers = {"median": spread.median, "lowest": spread.lowest, "highest": spread.highest}
    return {name: None if value == float("inf") else value for name, value in numbers.items()}
