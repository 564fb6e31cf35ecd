from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secant.race.errors import UsageError
from secant.race.source import find_problem

MODULE = """
import torch

def pair(seed):
    x = torch.full((2,), float(seed), dtype=torch.float64, requires_grad=True)
    return [x], lambda: (x ** 2).sum()

def generator():
    model = torch.nn.Linear(2, 1)
    return model.parameters(), lambda: model(torch.ones(1, 2)).square().sum(), lambda: 1.0

def wrong():
    return 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source_under_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_function_that_takes_a_seed_is_given_it() -> None:
    problem = find_problem("source_under_test:pair").build(7, False)
    assert problem.parameters[0].tolist() == [7.0, 7.0]
    assert problem.error is None


def test_a_function_without_a_seed_starts_from_a_seeded_generator() -> None:
    build = find_problem("source_under_test:generator").build
    one, same, other = build(1, False), build(1, False), build(2, False)
    assert torch.equal(one.parameters[0], same.parameters[0])
    assert not torch.equal(one.parameters[0], other.parameters[0])
    assert one.error is not None


def test_a_wrong_return_value_is_refused_with_what_was_expected() -> None:
    with pytest.raises(UsageError, match=r"returned int, expected \(parameters, closure\)"):
        find_problem("source_under_test:wrong").build(0, False)


def test_an_unknown_function_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find_problem("source_under_test:pairs")
    assert "did you mean pair" in caught.value.hint


def test_an_unknown_module_is_bad_usage() -> None:
    with pytest.raises(UsageError, match="no module named 'nowhere_to_be_found'"):
        find_problem("nowhere_to_be_found:problem")


def test_an_unknown_problem_names_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find_problem("quadratik")
    assert "did you mean quadratic" in caught.value.hint
