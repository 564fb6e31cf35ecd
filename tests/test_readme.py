"""What the README says is what the records say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "docs/mini-batch-training.md", "docs/saddles.md", "docs/large-problems.md"])
def test_tables_of_the_readme_are_those_of_the_committed_records(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks.table import with_tables

    text = (ROOT / page).read_text()
    assert with_tables(text) == text


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md"])
def test_files_that_a_page_links_to_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = [part.split(")", 1)[0] for part in text.split("](")[1:]]
    local = [target for target in targets if not target.startswith(("#", "http"))]
    assert [target for target in local if not (ROOT / target.partition("#")[0]).exists()] == []


def test_the_published_hit_rate_is_that_of_the_committed_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks.table import predictions_text

    from secant.verdict.hit_rate import HIT_RATE

    assert predictions_text() == HIT_RATE
