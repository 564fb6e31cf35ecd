from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from secant.race.errors import UsageError
from secant.race.ledger import append_record, finished_keys, read_records
from secant.race.plan import Plan, race
from secant.race.records import RunRecord


@pytest.fixture
def records(plan: Callable[..., Plan]) -> list[RunRecord]:
    return list(race(plan("torch-lbfgs", "scipy-lbfgsb", evaluations=15)))


def test_what_is_written_is_read_back_unchanged(tmp_path: Path, records: list[RunRecord]) -> None:
    for record in records:
        append_record(tmp_path / "runs.jsonl", record)
    assert read_records(tmp_path / "runs.jsonl") == records


def test_a_missing_file_holds_no_record(tmp_path: Path) -> None:
    assert read_records(tmp_path / "runs.jsonl") == []


@pytest.mark.parametrize("kept", [1, 30, -2, -1])
def test_a_torn_last_line_is_dropped_and_overwritten_by_the_next_record(tmp_path: Path, records: list[RunRecord], kept: int) -> None:
    file = tmp_path / "runs.jsonl"
    append_record(file, records[0])
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:kept])
    assert read_records(file) == records[:1]
    append_record(file, records[1])
    assert read_records(file) == records


def test_a_broken_line_in_the_middle_is_named_and_not_dropped(tmp_path: Path, records: list[RunRecord]) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_bytes(b'{"method": 3}\n')
    append_record(file, records[0])
    with pytest.raises(UsageError, match=r"Line 1 of runs\.jsonl"):
        read_records(file)


def test_the_key_tells_seeds_and_budgets_apart_but_not_machines(records: list[RunRecord]) -> None:
    record = records[0]
    elsewhere = record.model_copy(update={"versions": {}, "cpu_seconds": 99.0, "machine": record.machine.model_copy(update={"cpu": "another"})})
    assert elsewhere.key == record.key
    assert record.model_copy(update={"seed": 5}).key != record.key
    assert len(finished_keys(records)) == 2


def test_not_a_number_is_kept_as_null(records: list[RunRecord]) -> None:
    point = records[0].trace[0].model_dump() | {"loss": float("nan"), "error": float("inf")}
    changed = RunRecord.model_validate(records[0].model_dump() | {"trace": (point,), "loss": float("nan")})
    assert "NaN" not in changed.model_dump_json()
    assert RunRecord.model_validate_json(changed.model_dump_json()) == changed
    assert changed.trace[0].loss is None
