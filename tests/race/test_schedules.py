from __future__ import annotations

import math
import warnings

import pytest
import torch

from secant.race.schedules import moving_rate
from secant.race.techniques import Schedule, Techniques

STEPS = 100


def rates(schedule: Schedule, warmup: int = 0, steps: int | None = STEPS, losses: list[float] | None = None) -> list[float]:
    """The learning rate of every step of a run, relative to the one asked for."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own SequentialLR uses an argument that torch deprecates
        after_step = moving_rate(optimizer, Techniques(schedule=schedule, warmup=warmup), steps)
        seen = []
        for step in range(steps or STEPS):
            seen.append(optimizer.param_groups[0]["lr"] / 0.5)
            optimizer.step()
            after_step(torch.tensor(losses[step] if losses else 1.0))
    return seen


def test_a_constant_schedule_is_constant() -> None:
    assert set(rates(Schedule.CONSTANT)) == {1.0}


def test_an_exponential_schedule_falls_to_one_percent_at_the_last_step() -> None:
    seen = rates(Schedule.EXPONENTIAL)
    assert seen[0] == 1.0
    assert seen[-1] == pytest.approx(0.01)
    assert seen[50] / seen[49] == pytest.approx(seen[1])


def test_a_step_schedule_drops_tenfold_at_a_half_and_at_three_quarters() -> None:
    assert rates(Schedule.STEP) == pytest.approx([1.0] * 50 + [0.1] * 25 + [0.01] * 25)


def test_a_cosine_schedule_is_half_a_cosine() -> None:
    assert rates(Schedule.COSINE) == pytest.approx([0.5 * (1.0 + math.cos(math.pi * k / STEPS)) for k in range(STEPS)])


def test_a_plateau_schedule_waits_while_the_loss_falls_and_drops_when_it_does_not() -> None:
    falling = [1.0 / (1 + step) for step in range(40)]
    seen = rates(Schedule.PLATEAU, losses=falling + [falling[-1]] * 60)
    assert set(seen[:40]) == {1.0}
    assert seen[49:51] == pytest.approx([1.0, 0.3])  # the fourth window of two steps without a lower mean ends at step 49
    assert seen[-1] < 0.01


def test_a_plateau_is_seen_in_the_mean_of_a_window_and_not_in_one_noisy_batch() -> None:
    noisy = [(1.0 / (1 + step)) * (1.5 if step % 2 else 0.5) for step in range(STEPS)]
    assert set(rates(Schedule.PLATEAU, losses=noisy)) == {1.0}


@pytest.mark.parametrize("schedule", Schedule)
def test_a_warm_up_rises_linearly_and_the_schedule_begins_after_it(schedule: Schedule) -> None:
    seen = rates(schedule, warmup=9, steps=STEPS + 9, losses=[1.0 / (1 + step) for step in range(STEPS + 9)])
    assert seen[:9] == pytest.approx([k / 10 for k in range(1, 10)])
    assert seen[9:] == pytest.approx(rates(schedule, losses=[1.0 / (10 + step) for step in range(STEPS)]))


def test_a_constant_schedule_with_warm_up_needs_no_length() -> None:
    assert rates(Schedule.CONSTANT, warmup=3, steps=None)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("schedule", [schedule for schedule in Schedule if schedule is not Schedule.CONSTANT])
@pytest.mark.parametrize("steps", [None, 5])
def test_a_schedule_without_a_run_to_fit_into_is_refused(schedule: Schedule, steps: int | None) -> None:
    with pytest.raises(ValueError, match="needs a run longer than its warm-up of 5 steps"):
        rates(schedule, warmup=5, steps=steps)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("schedule", Schedule)
def test_the_shortest_runs_have_schedules_too(schedule: Schedule, steps: int) -> None:
    seen = rates(schedule, steps=steps)
    assert len(seen) == steps
    assert seen[0] == 1.0
    assert all(0.0 < rate <= 1.0 for rate in seen)
