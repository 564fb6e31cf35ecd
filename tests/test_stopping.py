"""When going on is called pointless."""

from __future__ import annotations

import itertools

import torch

from secant.step import Outcome, Point, Step
from secant.stopping import Progress


def point(loss: float, grad: float = 1.0) -> Point:
    x = torch.zeros(1, dtype=torch.float64)
    return Point(x, loss, torch.full_like(x, grad), grad, torch.tensor(loss, dtype=torch.float64))


def walk(losses: list[float]) -> Progress:
    progress = Progress().begun(point(losses[0]))
    for before, after in itertools.pairwise(losses):
        trial = point(after)
        progress = progress.after(Step(point(before), trial, trial, Outcome.WOLFE))
    return progress


def test_slow_but_real_progress_is_no_floor() -> None:
    share = 0.3 * point(1.0).loss_noise
    assert walk([1.0 - share * i for i in range(60)]).verdict(point(1.0), 0.0) is None


def test_noise_around_one_value_is_the_floor() -> None:
    noise = 0.3 * point(1.0).loss_noise
    assert walk([1.0 + noise * (-1) ** i for i in range(15)]).verdict(point(1.0), 0.0) is Outcome.ROUNDING_FLOOR


def test_jump_to_a_higher_objective_starts_the_count_anew() -> None:
    progress = walk([1.0, 0.5])
    for _ in range(30):  # each step begins higher than the last one ended, as with a new batch
        trial = point(2.0)
        progress = progress.after(Step(point(3.0), trial, trial, Outcome.WOLFE))
    assert progress.flat == 0
