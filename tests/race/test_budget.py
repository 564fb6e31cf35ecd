from __future__ import annotations

import math

import pytest

from secant.race.budget import Budget
from secant.race.stopwatch import Stopwatch


def test_a_budget_has_exactly_one_limit() -> None:
    with pytest.raises(ValueError, match=r"either seconds, evaluations, steps or epochs, got seconds=1.0, evaluations=10\."):
        Budget(seconds=1.0, evaluations=10)
    with pytest.raises(ValueError, match="got none"):
        Budget()


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf])
def test_a_budget_needs_a_positive_finite_limit(limit: float) -> None:
    with pytest.raises(ValueError, match="positive finite"):
        Budget(seconds=limit)


def test_the_last_evaluation_of_the_budget_is_allowed_and_the_next_is_not() -> None:
    budget = Budget(evaluations=3)
    assert not budget.is_used_up(2, 1e9)
    assert budget.is_used_up(3, 0.0)


def test_epochs_become_evaluations_without_losing_one_to_rounding() -> None:
    assert Budget(epochs=0.29).counted(100) == Budget(evaluations=29)
    assert Budget(epochs=3).counted(5000 / 64) == Budget(evaluations=234)
    assert Budget(epochs=0.001).counted(10) == Budget(evaluations=1)
    assert Budget(steps=7).counted(10) == Budget(steps=7)


def test_a_limit_in_epochs_is_never_taken_for_another_one() -> None:
    with pytest.raises(ValueError, match="Convert it with counted"):
        Budget(epochs=2).is_used_up(10**9, 10**9)


def test_steps_and_evaluations_tell_the_length_of_a_run_and_seconds_do_not() -> None:
    assert Budget(steps=7).steps_of(4) == 7
    assert Budget(evaluations=30).steps_of(4) == 7
    assert Budget(seconds=30).steps_of(4) is None


def test_each_limit_says_its_unit() -> None:
    assert [Budget(**limit).text for limit in ({"seconds": 15.0}, {"evaluations": 3}, {"steps": 4}, {"epochs": 2.5})] == [
        "15 s of CPU time",
        "3 evaluations",
        "4 steps",
        "2.5 epochs",
    ]


def test_the_spent_share_stays_between_zero_and_one() -> None:
    assert Budget(seconds=2.0).fraction(10**6, 1.0) == pytest.approx(0.5)
    assert Budget(evaluations=10).fraction(20, 0.0) == 1.0


def test_a_paused_clock_stands_still_and_runs_on_afterwards() -> None:
    clock = Stopwatch()
    clock.start()
    with clock.paused():
        first = (clock.cpu_seconds, clock.wall_seconds)
        sum(range(100_000))
        assert (clock.cpu_seconds, clock.wall_seconds) == first
    sum(range(100_000))
    assert clock.wall_seconds > first[1]


def test_a_clock_that_never_ran_does_not_start_by_a_pause() -> None:
    clock = Stopwatch()
    with clock.paused():
        pass
    sum(range(100_000))
    assert clock.wall_seconds == 0.0
