"""What an outcome says about a step is true, recomputed from the step's two points and the curvature it was taken with."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from conformance.cases import Case, every_method, every_pair, every_pair_and_fit, flat, quadratic, rosenbrock, tanh_net
from secant import Outcome
from secant.curvature.curvature import QuadraticModel
from secant.optimizer import CurvatureOptimizer

EPSILON = torch.finfo(torch.float64).eps
MADE = {"rosenbrock": rosenbrock, "tanh_net": tanh_net}
SEARCH_OUTCOMES = {
    "HagerZhang": {Outcome.WOLFE, Outcome.APPROXIMATE_WOLFE},
    "StrongWolfe": {Outcome.STRONG_WOLFE},
    "Armijo": {Outcome.ARMIJO},
    "FixedStep": {Outcome.FIXED, Outcome.NOT_FINITE},
    "TrustRegion": {Outcome.GAIN_RATIO, Outcome.APPROXIMATE_GAIN, Outcome.REJECTED},
}
ENDS = {Outcome.DECREASE, Outcome.ROUNDING_FLOOR, Outcome.NO_DECREASE, Outcome.STUCK}


def check(optimizer: CurvatureOptimizer[Any], outcome: Outcome) -> None:
    """The inequalities of one accepted outcome; the tolerance is that of forming ``s`` by subtraction."""
    step = optimizer.last_step
    assert step is not None
    assert step.trial is not None
    search: Any = optimizer._globalization
    start, trial = step.start, step.trial
    s = trial.x - start.x
    first, last = float(start.grad @ s), float(trial.grad @ s)
    blur = 8.0 * EPSILON * (float(start.x.norm()) * float(start.grad.norm()) + abs(start.loss))
    decrease = trial.loss - start.loss
    if outcome is Outcome.WOLFE:
        assert decrease <= search._decrease * first + blur
        assert last >= search._curvature * first - blur
    elif outcome is Outcome.APPROXIMATE_WOLFE:
        assert search._curvature * first - blur <= last <= (2.0 * search._decrease - 1.0) * first + blur
        assert decrease <= 8.0 * EPSILON * abs(start.loss)
    elif outcome is Outcome.STRONG_WOLFE:
        assert decrease <= search._decrease * first + blur
        assert abs(last) <= search._curvature * abs(first) + blur
    elif outcome is Outcome.ARMIJO:
        assert decrease <= search._decrease * first + blur
    elif outcome is Outcome.GAIN_RATIO:
        assert isinstance(optimizer.curvature, QuadraticModel)
        predicted = -(first + 0.5 * float(s @ optimizer.curvature.multiply(s)))
        assert -decrease > search._accept * predicted - blur
    elif outcome is Outcome.APPROXIMATE_GAIN:
        assert abs(decrease) <= 8.0 * EPSILON * abs(start.loss)
        assert trial.largest_grad < start.largest_grad
    elif outcome is Outcome.DECREASE:
        assert decrease < 0.0
    if search.needs is not QuadraticModel and s.norm() > 1e-9 * start.x.norm():
        direction = optimizer.curvature.solve(start.grad).neg()
        assert float(torch.dot(s, direction) / (s.norm() * direction.norm())) > 1.0 - 1e-6
    if outcome is Outcome.FIXED and start.loss < 1e3:
        torch.testing.assert_close(s, optimizer.curvature.solve(start.grad).neg(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", MADE)
@every_pair
def test_every_accepted_step_meets_the_conditions_its_outcome_names(case: Case, name: str) -> None:
    problem = MADE[name]()
    optimizer = case.build(problem.parameters)
    outcomes: Counter[Outcome] = Counter()
    for _ in range(100):
        before = problem.loss().item()
        optimizer.step(problem.loss)
        step = optimizer.last_step
        assert step is not None
        assert step.start.loss == before
        assert torch.equal(step.kept.x, flat(problem.parameters))
        assert step.kept.loss == problem.loss().item()
        assert step.kept is (step.trial if step.outcome.is_accepted else step.start)
        outcomes[step.outcome] += 1
        if step.outcome.is_accepted:
            check(optimizer, step.outcome)
        if optimizer.outcome is not None and optimizer.outcome.stops:
            break
    assert case.globalization is not None
    assert set(outcomes) <= SEARCH_OUTCOMES.get(case.globalization, set(outcomes)) | ENDS, outcomes
    assert outcomes[Outcome.DECREASE] <= 0.05 * outcomes.total(), outcomes
    assert outcomes[Outcome.NO_DECREASE] <= 0.05 * outcomes.total(), outcomes


@pytest.mark.parametrize("name", MADE)
@every_pair_and_fit
def test_losses_never_rise_beyond_rounding(case: Case, name: str) -> None:
    if not case.is_monotone:
        pytest.skip("a fixed step tests nothing")
    problem = case.form(MADE[name]())
    optimizer = case.build(problem.parameters)
    for _ in range(80):
        before = problem.loss().item()
        optimizer.step(problem.closure)
        assert problem.loss().item() <= before + 8.0 * EPSILON * abs(before)


@every_pair
def test_one_step_costs_about_one_evaluation(case: Case) -> None:
    problem = tanh_net()
    optimizer = case.build(problem.parameters)
    steps = 0
    while steps < 60 and not (optimizer.outcome is not None and optimizer.outcome.stops):
        optimizer.step(problem.loss)
        steps += 1
    limit = {"dfp": 2.5}.get(case.method, 1.7)
    assert optimizer.counts.losses <= limit * steps + 10
    assert optimizer.counts.losses == optimizer.counts.gradients


@every_pair_and_fit
def test_a_smooth_fit_ends_at_the_rounding_floor_and_says_so(case: Case) -> None:
    if case.method == "dfp" or not case.is_monotone:
        pytest.skip("no promise of speed")
    problem = case.form(tanh_net(ridge=1e-2))
    optimizer = case.build(problem.parameters)
    largest = []
    for _ in range(300):
        optimizer.step(problem.closure)
        assert optimizer.point is not None
        largest.append(optimizer.point.largest_grad)
        if optimizer.outcome is not None and optimizer.outcome.stops:
            break
    assert optimizer.outcome in (Outcome.ROUNDING_FLOOR, Outcome.CONVERGED)
    assert min(largest) < 1e-7 * largest[0]


@every_method
def test_a_floor_above_the_last_digit_of_the_loss_is_not_called_a_disagreement(case: Case) -> None:
    # The minimum is 1, in numbers that were summed as 1e6 + 1 - 1e6: the loss is rounded a million times more coarsely than its own last digit.
    problem = quadratic(n=4, condition=5.0, minimizer=1.0)
    optimizer = case.build(problem.parameters)
    outcomes = []
    for _ in range(60):
        optimizer.step(lambda: (problem.loss() + 1.0 + 1e6) - 1e6)
        outcomes.append(optimizer.outcome)
        if optimizer.outcome is not None and optimizer.outcome.stops:
            break
    assert outcomes[-1] in (Outcome.ROUNDING_FLOOR, Outcome.CONVERGED), outcomes[-3:]
    assert optimizer.counts.losses < 4 * len(outcomes) + 40


@pytest.mark.parametrize("method", ["bfgs", "ssbfgs", "ssbroyden"])
def test_a_loss_noisier_than_its_last_digit_ends_at_the_floor_and_cheaply(method: str) -> None:
    # Without the ridge the weights grow, and sums of large terms cancel: the loss is 4e-4, its noise 1e-15, a thousand times its last digit.
    problem = tanh_net()
    optimizer = Case(method, "HagerZhang").build(problem.parameters)
    for _ in range(400):
        optimizer.step(problem.loss)
        if optimizer.outcome is not None and optimizer.outcome.stops:
            break
    assert optimizer.outcome is Outcome.ROUNDING_FLOOR
    assert optimizer.counts.losses < 1.5 * optimizer.iteration
