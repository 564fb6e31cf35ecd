"""The CUTEst race from request to report: run, keep each record at once, print, and write the page."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence

from secant.problems.cutest_best import best_values
from secant.race.cutest_grid import record_key, run_grid
from secant.race.cutest_records import CutestRecord
from secant.race.cutest_request import CutestRequest
from secant.race.cutest_standings import Judged, judge, places
from secant.race.ledger import append_record, read_lines
from secant.race.request import RECORDS_FILE, REPORT_FILE
from secant.report.profiles_page import write_profiles
from secant.report.profiles_progress import ProblemLines
from secant.report.profiles_text import method_rows, unbounded_rows
from secant.report.table import text_table

_INTERRUPTED = 130


def run_cutest_race(request: CutestRequest, *, as_json: bool) -> int:
    """Run the race and leave ``runs.jsonl`` and ``report.html`` in its folder.

    Ctrl-C drops the run it hits and keeps the finished ones; table and report are made of the problems that every method has run.

    Args:
        request: What to run and where to keep it.
        as_json: Print JSON on stdout instead of the table.

    Returns:
        The exit code: 0, 1 when every run failed, or 130 after Ctrl-C.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    records_file, report_file = request.folder / RECORDS_FILE, request.folder / REPORT_FILE
    asked = {record_key(request, method, problem) for problem in request.problems for method in request.methods}
    kept = {record.key: record for record in read_lines(records_file, CutestRecord) if record.key in asked}

    def keep(record: CutestRecord) -> None:
        append_record(records_file, record)
        kept[record.key] = record

    interrupted = False
    with ProblemLines(len(request.problems), len(request.methods)) as lines:
        try:
            run_grid(request, kept, keep, lines)
        except KeyboardInterrupt:
            interrupted = True
    known = best_values()
    records = [kept[key] for problem in request.problems for method in request.methods if (key := record_key(request, method, problem)) in kept]
    judged = judge(records, known)
    if interrupted:
        hint = f"hint: the same command with --resume --out {request.folder} goes on"
        sys.stderr.write(f"Stopped by Ctrl-C; finished runs are kept ({len(kept)}).\n{hint}\n")
    if not judged.problems and not judged.unbounded:
        return _INTERRUPTED if interrupted else 1
    write_profiles(judged, known.evaluations, report_file)
    sys.stderr.write(f"Records: {records_file}\nReport:  {report_file}\n")
    sys.stdout.write(profiles_as_json(judged, records) if as_json else _as_text(judged))
    if interrupted:
        return _INTERRUPTED
    return int(all(record.failed for record in records))


def _as_text(judged: Judged) -> str:
    parts = []
    if judged.problems:
        parts.append(f"{text_table(*method_rows(judged, places(judged)))}\n\nOf {len(judged.problems)} problems; medians in gradient equivalents.\n")
    if judged.unbounded:
        parts.append(f"{text_table(*unbounded_rows(judged))}\n")
    if judged.improved:
        parts.append(f"Lower than the known values: {', '.join(judged.improved)}.\n")
    return "\n".join(parts)


def profiles_as_json(judged: Judged, records: Sequence[CutestRecord]) -> str:
    """Standings, solved counts by problem, and the records without their descents, as JSON text."""
    standings = [
        {
            "method": place.method,
            "solved": place.solved,
            "share": place.share,
            "median_where_all_solve": _finite(place.median_common),
            "against_reference": _finite(place.against),
            "solved_by_both": place.shared,
            "exceptions": place.raised,
            "lost": place.lost,
        }
        for place in places(judged)
    ]
    solved = {method: {problem: _finite(judged.solved_at[method, problem]) for problem in judged.problems} for method in judged.methods}
    document = {
        "standings": standings,
        "best": judged.best,
        "unbounded": list(judged.unbounded),
        "solved_at": solved,
        "runs": [record.model_dump(mode="json", exclude={"descent"}) for record in records],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
