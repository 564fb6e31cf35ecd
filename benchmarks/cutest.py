"""The CUTEst race: first the smallest values that eight methods reach in 20 times the budget, then who comes near them within the budget.

Every method's own runs may lower the values further. The four problems of the DIAMOND family take a hundred times as long to evaluate as the others: their
values come from the race itself. Both steps go on where they were stopped: their records are in ``runs/cutest-values`` and ``runs/cutest``.
``python -m benchmarks.cutest values`` or ``race`` does one of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.record import RESULTS, machine
from secant.problems import cutest_best
from secant.problems.cutest_best import BEST_VALUES_FILE, best_values
from secant.problems.cutest_sample import DEVELOPMENT_SET
from secant.race.cutest_grid import record_key, run_grid
from secant.race.cutest_records import CutestRecord, Ending
from secant.race.cutest_request import DEFAULT_EVALUATIONS, CutestRequest, default_methods
from secant.race.cutest_standings import TAU, Judged, judge, places
from secant.race.ledger import append_record, read_lines
from secant.race.method import Method
from secant.race.request import RECORDS_FILE
from secant.race.tracer import PRODUCT_PRICE
from secant.report.profiles_page import write_profiles
from secant.report.profiles_progress import ProblemLines

LONGER = 20
LONG_METHODS = ("bfgs", "ssbfgs", "ssbroyden", "sr1", "torch-lbfgs", "scipy-bfgs", "scipy-lbfgsb", "scipy-trust-krylov")  # the strongest of each kind
COSTLY = ("DIAMON2DLS", "DMN15103LS", "DMN15333LS", "DMN37142LS")
VALUES = Path(cutest_best.__file__).with_name(BEST_VALUES_FILE)
RUNS = Path("runs")


def main() -> int:
    wanted = sys.argv[1:] or ["values", "race"]
    if not set(wanted) <= {"values", "race"}:
        print(f"Expected 'values', 'race' or nothing, got {' '.join(wanted)!r}.", file=sys.stderr)
        return 2
    if "values" in wanted:
        longer = LONGER * DEFAULT_EVALUATIONS
        methods = [method for method in default_methods() if method.name in LONG_METHODS]
        records = _run(RUNS / "cutest-values", longer, methods, [name for name in DEVELOPMENT_SET if name not in COSTLY])
        VALUES.write_text(_values_text([*records, *_run(RUNS / "cutest", DEFAULT_EVALUATIONS, default_methods(), DEVELOPMENT_SET)], longer))
        print(f"{VALUES.name}: written", flush=True)
    if "race" in wanted:
        folder, known = RUNS / "cutest", best_values()
        judged = judge(_run(folder, DEFAULT_EVALUATIONS, default_methods(), DEVELOPMENT_SET), known)
        write_profiles(judged, known.evaluations, folder / "report.html")
        (RESULTS / "cutest.json").write_text(_results_text(judged, known.evaluations))
        print("cutest: written", flush=True)
    return 0


def _run(folder: Path, evaluations: int, methods: Sequence[Method], problems: Sequence[str]) -> list[CutestRecord]:
    """The records of the whole grid, those of an earlier, stopped run among them."""
    folder.mkdir(parents=True, exist_ok=True)
    request = CutestRequest(tuple(methods), tuple(problems), evaluations, PRODUCT_PRICE, threads=1, folder=folder, resume=True)
    kept = {record.key: record for record in read_lines(folder / RECORDS_FILE, CutestRecord)}

    def keep(record: CutestRecord) -> None:
        append_record(folder / RECORDS_FILE, record)
        kept[record.key] = record

    with ProblemLines(len(request.problems), len(request.methods)) as lines:
        run_grid(request, kept, keep, lines)
    return [kept[record_key(request, method, problem)] for problem in request.problems for method in request.methods]


def _values_text(records: Sequence[CutestRecord], evaluations: int) -> str:
    """One problem per line: the smallest value, the first method that reached it and its budget; null where values fall without bound."""
    lines = []
    for problem in dict.fromkeys(record.problem for record in records):
        here = [record for record in records if record.problem == problem]
        finite = [record for record in here if record.value is not None]
        lowest = min(finite, key=lambda record: (record.value, record.spent))
        unbounded = any(record.ending is Ending.UNBOUNDED for record in here)
        row = {"value": None, "method": None} if unbounded else {"value": lowest.value, "method": lowest.method, "within": lowest.evaluations}
        lines.append(f"  {json.dumps(problem)}: {json.dumps(row)}")
    return f'{{"evaluations": {evaluations}, "problems": {{\n' + ",\n".join(lines) + "\n}}\n"


def _results_text(judged: Judged, known_evaluations: int) -> str:
    """One method per line: by problem, gradient equivalents to solve it or null, the smallest value, and the failure if there was one."""
    settings = {
        "evaluations": DEFAULT_EVALUATIONS,
        "product_price": PRODUCT_PRICE,
        "tau": TAU,
        "best_values_from_evaluations": known_evaluations,
        "best_values_from_methods": LONG_METHODS,
        "best_values_from_this_race_alone": COSTLY,
        "problems": len(judged.problems),
        "unbounded": list(judged.unbounded),
        "below_the_known_values": list(judged.improved),
    }
    standings = [
        {
            "method": place.method,
            "solved": place.solved,
            "share": round(place.share, 4),
            "median_where_all_solve": _finite(place.median_common),
            "against_torch_lbfgs": _finite(round(place.against, 3)),
            "solved_by_both": place.shared,
            "exceptions": place.raised,
            "nan_parameters": place.lost,
        }
        for place in places(judged)
    ]
    rows = []
    for method in judged.methods:
        runs = {problem: _run_row(judged, method, problem) for problem in (*judged.problems, *judged.unbounded)}
        rows.append(f"  {json.dumps(method)}: {json.dumps(runs)}")
    head = {"benchmark": "cutest", "machine": machine(), "settings": settings, "standings": standings}
    return json.dumps(head, indent=1)[:-2] + ',\n "runs": {\n' + ",\n".join(rows) + "\n }\n}\n"


def _run_row(judged: Judged, method: str, problem: str) -> list[float | str | None]:
    record = judged.runs[method, problem]
    solved = _finite(judged.solved_at.get((method, problem), float("inf")))
    failure = record.outcome if record.ending is Ending.FAILED else "parameters not finite" if record.lost else None
    return [solved, record.value, *([failure] if failure else [])]


def _finite(value: float) -> float | None:
    return None if value == float("inf") else value


if __name__ == "__main__":
    raise SystemExit(main())
