from __future__ import annotations

from collections.abc import Callable

import pytest

from secant.race.records import RunRecord, Status
from secant.report.progress import ProgressLines


def test_each_finished_run_is_one_line_on_stderr(record: Callable[..., RunRecord], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLines(2) as lines:
        lines.finished(record())
        lines.finished(record(status=Status.FAILED, outcome="RuntimeError: " + "long " * 40))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2
    assert "error 0.15 (64 evaluations, 64 ms CPU)" in captured.err
    assert "failed. RuntimeError" in captured.err
