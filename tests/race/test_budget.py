from __future__ import annotations

import math

import pytest

from secant.race.budget import Budget
from secant.race.stopwatch import Stopwatch


def test_a_budget_is_seconds_or_evaluations_and_never_both() -> None:
    with pytest.raises(ValueError, match="either seconds or evaluations"):
        Budget(seconds=1.0, evaluations=10)
    with pytest.raises(ValueError, match="either seconds or evaluations"):
        Budget()


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf])
def test_a_budget_needs_a_positive_finite_limit(limit: float) -> None:
    with pytest.raises(ValueError, match="positive finite"):
        Budget(seconds=limit)


def test_the_last_evaluation_of_the_budget_is_allowed_and_the_next_is_not() -> None:
    budget = Budget(evaluations=3)
    assert not budget.is_used_up(2, 1e9)
    assert budget.is_used_up(3, 0.0)


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
