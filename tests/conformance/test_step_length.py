"""No iteration moves the parameters farther than ``max_step_length``, and without one nothing changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import secant
from conformance.cases import Case, Problem, drive, every_method_and_fit, every_pair_and_fit, flat, quadratic, rosenbrock, tanh_net
from secant import Outcome

MADE: dict[str, Callable[[], Problem]] = {"rosenbrock": rosenbrock, "tanh_net": tanh_net, "quadratic": quadratic}
LIMIT = 0.03


def longest_distance(case: Case, problem: Problem, limit: float, steps: int) -> float:
    """The largest distance between the start of a step and a trial of it or its end."""
    start, farthest = flat(problem.parameters), 0.0

    def watched() -> Tensor:
        nonlocal farthest
        farthest = max(farthest, float((flat(problem.parameters) - start).norm()))
        return problem.closure()

    optimizer = case.build(problem.parameters, max_step_length=limit)
    for _ in range(steps):
        start = flat(problem.parameters)
        optimizer.step(watched)
        farthest = max(farthest, float((flat(problem.parameters) - start).norm()))
    return farthest


@pytest.mark.parametrize("name", MADE)
@every_pair_and_fit
def test_no_trial_and_no_step_is_longer_than_allowed(case: Case, name: str) -> None:
    problem = case.form(MADE[name]())
    rounding = 4.0 * torch.finfo(torch.float64).eps * float(flat(problem.parameters).norm())
    assert 0.9 * LIMIT < longest_distance(case, problem, LIMIT, steps=40) <= LIMIT * (1.0 + 1e-12) + rounding


@every_pair_and_fit
def test_a_limit_that_is_never_reached_changes_no_bit(case: Case) -> None:
    problem, same = case.form(rosenbrock()), case.form(rosenbrock())
    free, limited = drive(case.build(problem.parameters), problem, 40), drive(case.build(same.parameters, max_step_length=1e300), same, 40)
    assert all(torch.equal(a, b) for a, b in zip(free, limited, strict=True))


@every_method_and_fit
def test_short_steps_still_reach_the_minimum(case: Case) -> None:
    problem = case.form(quadratic())
    optimizer = case.build(problem.parameters, max_step_length=0.5)
    first = problem.loss().item()
    drive(optimizer, problem, 100)
    assert problem.loss().item() < 1e-8 * first


@pytest.mark.parametrize("search", [secant.HagerZhang(), secant.StrongWolfe(), secant.Armijo(), secant.FixedStep()], ids=lambda search: type(search).__name__)
def test_where_the_loss_keeps_falling_each_step_has_the_largest_length(search: object) -> None:
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    downhill = torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64)
    optimizer = secant.BFGS([x], globalization=search, max_step_length=0.25)  # type: ignore[arg-type]
    for step in range(1, 4):
        optimizer.step(lambda: -(x @ downhill))
        assert float(x.detach().norm()) == pytest.approx(0.25 * step, rel=1e-12)
    if isinstance(search, secant.HagerZhang | secant.StrongWolfe):
        assert optimizer.outcome is Outcome.LONGEST


def test_a_copy_of_the_optimizer_keeps_the_limit() -> None:
    problem = rosenbrock()
    optimizer, parameters = copy.deepcopy((secant.SSBroyden(problem.parameters, max_step_length=1e-4), problem.parameters))
    before = flat(parameters)
    x = parameters[0]
    optimizer.step(lambda: x.square().sum())
    assert float((flat(parameters) - before).norm()) == pytest.approx(1e-4, rel=1e-9)


def test_minimize_takes_the_limit_as_an_option() -> None:
    result = secant.minimize(lambda x: (x - 3.0).square().sum(), torch.zeros(2, dtype=torch.float64), options={"max_step_length": 0.5, "maxiter": 3})
    assert float(result.x.norm()) == pytest.approx(1.5)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_that_is_not_positive_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="Expected max_step_length > 0"):
        secant.BFGS([torch.zeros(1, requires_grad=True)], max_step_length=limit)
