"""The trust region: its radius, its ratio, its promises."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from globalization.lines import Given
from secant.curvature.sr1 import SR1
from secant.globalization.trust_region import TrustRegion
from secant.objective import Objective
from secant.step import Outcome, Point, Step

laws = settings(max_examples=40, deadline=None, derandomize=True)


def scripted_step(
    losses: list[float], gradient: list[float], radius: float, *, region: TrustRegion | None = None, floor_rejections: float | None = 0.0
) -> tuple[Step, TrustRegion, Objective]:
    """One step with ``H = B = I`` from the origin: the model step is ``-g`` or its part within the radius."""
    x = torch.zeros(len(gradient), dtype=torch.float64, requires_grad=True)
    groups = [{"params": [x], "lr": 1.0, "weight_decay": 0.0}]
    objective, remaining = Objective(groups), list(losses)
    g = torch.tensor(gradient, dtype=torch.float64)
    objective.bind(lambda: Given.apply(x, remaining.pop(0), g), groups)  # type: ignore[no-untyped-call]
    start = objective.here()
    curvature = SR1(initial=1.0)
    curvature.update(objective, start, None)
    region = region or TrustRegion()
    region.recall({"radius": radius, "floor_rejections": floor_rejections, "steepest": 0.0})
    return region.advance(objective, start, curvature, 1.0), region, objective


def radius_of(region: TrustRegion) -> float:
    radius = region.memory()["radius"]
    assert radius is not None
    return radius


# g = (3, 4) and radius 1: p = -g / 5, slope -5 at both ends, predicted decrease 5 - 1/2 = 4.5.
@pytest.mark.parametrize(
    ("ratio", "outcome", "radius"),
    [
        (1.0, Outcome.GAIN_RATIO, 10.0),  # the slope has not changed: its zero is nowhere
        (0.76, Outcome.GAIN_RATIO, 10.0),
        (0.74, Outcome.GAIN_RATIO, 1.0),
        (0.11, Outcome.GAIN_RATIO, 1.0),
        (0.09, Outcome.GAIN_RATIO, 0.238),
        (-0.5, Outcome.REJECTED, 0.132),
        (1e-5, Outcome.REJECTED, 0.211),
    ],
)
def test_radius_follows_the_gain_ratio_on_the_boundary(ratio: float, outcome: Outcome, radius: float) -> None:
    step, region, _ = scripted_step([0.0, -4.5 * ratio], [3.0, 4.0], 1.0)
    assert step.outcome is outcome
    if ratio < 0.1:
        radius = cubic_minimum(0.0, -4.5 * ratio, -5.0, -5.0)
    assert radius_of(region) == pytest.approx(radius, rel=1e-9)
    assert (step.kept is step.trial) == outcome.is_accepted
    assert step.trial is not None
    assert torch.allclose(step.trial.x, torch.tensor([-0.6, -0.8], dtype=torch.float64), rtol=1e-12)


def cubic_minimum(loss_0: float, loss_1: float, slope_0: float, slope_1: float) -> float:
    """The minimizer of the Hermite cubic on [0, 1], from its coefficients."""
    a = 2.0 * (loss_0 - loss_1) + slope_0 + slope_1
    b = 3.0 * (loss_1 - loss_0) - 2.0 * slope_0 - slope_1
    return max(np.roots([3.0 * a, 2.0 * b, slope_0]), key=lambda t: 6.0 * a * t + 2.0 * b)


@pytest.mark.parametrize(("far", "growth"), [(-4.0, 5.0), (-1.0, 2.0), (3.0, 2.0), (-4.9, 10.0)])
def test_radius_grows_to_where_the_slope_extrapolates_to_zero(far: float, growth: float) -> None:
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    groups, values = [{"params": [x], "lr": 1.0, "weight_decay": 0.0}], [(0.0, -5.0), (-4.5, far)]
    objective = Objective(groups)
    objective.bind(lambda: Given.apply(x, *(lambda loss, slope: (loss, torch.tensor([slope], dtype=torch.float64)))(*values.pop(0))), groups)  # type: ignore[no-untyped-call]
    start, curvature, region = objective.here(), SR1(initial=1.0), TrustRegion()
    curvature.update(objective, start, None)
    region.recall({"radius": 1.0, "floor_rejections": 0.0, "steepest": 0.0})
    assert region.advance(objective, start, curvature, 1.0).outcome is Outcome.GAIN_RATIO
    assert radius_of(region) == pytest.approx(growth, rel=1e-12)


def test_distant_trial_is_not_a_lesson_and_the_search_goes_on_along_the_step() -> None:
    """The loss rises by 100 times what was promised to fall: the parabola's minimizer 5 / (2 (5 + 450)) of the step is tried next."""
    step, region, objective = scripted_step([0.0, 450.0, -0.025], [3.0, 4.0], 1.0)
    assert step.outcome is Outcome.GAIN_RATIO
    assert step.trial is not None
    assert float(step.trial.x.norm()) == pytest.approx(5.0 / 910.0, rel=1e-12)
    assert objective.counts.losses == 3
    assert radius_of(region) == pytest.approx(10.0 * 5.0 / 910.0, rel=1e-12)


def test_model_that_promises_nothing_three_times_is_called_wrong() -> None:
    """The loss and its gradient do not move at all: the first two rejections are the floor's, then the loop may start a fresh model."""
    region = TrustRegion()
    outcomes = []
    for _ in range(4):
        memory = region.memory()
        step, region, _ = scripted_step([1e20, 1e20], [3e-9, 4e-9], 1.0, region=region, floor_rejections=memory["floor_rejections"])
        outcomes.append(step.outcome)
    assert outcomes == [Outcome.REJECTED, Outcome.REJECTED, Outcome.NO_DECREASE, Outcome.NO_DECREASE]


def test_interior_step_does_not_widen_the_radius() -> None:
    """p = -g has length 5 in a radius of 7: below 0.8 of it; predicted 12.5."""
    step, region, _ = scripted_step([0.0, -12.5], [3.0, 4.0], 7.0)
    assert step.outcome is Outcome.GAIN_RATIO
    assert radius_of(region) == 7.0


def test_interior_step_that_fails_shrinks_from_its_own_length() -> None:
    step, region, _ = scripted_step([0.0, 5.0], [3.0, 4.0], 7.0)
    assert step.outcome is Outcome.REJECTED
    assert radius_of(region) == pytest.approx(5.0 * cubic_minimum(0.0, 5.0, -25.0, -25.0))


def test_first_radius_is_the_learning_rate_times_the_full_step() -> None:
    region = TrustRegion()
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    groups = [{"params": [x], "lr": 0.25, "weight_decay": 0.0}]
    objective = Objective(groups)
    objective.bind(lambda: 3.0 * x[0] + 4.0 * x[1], groups)
    curvature = SR1(initial=2.0)
    curvature.update(objective, objective.here(), None)
    step = region.advance(objective, objective.here(), curvature, 0.25)
    assert step.trial is not None
    assert float(step.trial.x.norm()) == pytest.approx(0.25 * 2.0 * 5.0)


def test_values_that_are_not_finite_shrink_the_radius_tenfold() -> None:
    step, _, objective = scripted_step([0.0, math.nan, math.inf, -0.04], [3.0, 4.0], 1.0)
    assert step.outcome is Outcome.GAIN_RATIO
    assert step.trial is not None
    assert float(step.trial.x.norm()) == pytest.approx(0.01)
    assert objective.counts.losses == 4


def test_no_finite_value_within_the_budget_keeps_the_start() -> None:
    step, _, objective = scripted_step([0.0] + [math.nan] * 6, [3.0, 4.0], 1.0, region=TrustRegion(budget=6))
    assert step.outcome is Outcome.NOT_FINITE
    assert step.kept is step.start
    assert objective.counts.losses == 7


@pytest.mark.parametrize(("gradient_falls", "outcome"), [(True, Outcome.APPROXIMATE_GAIN), (False, Outcome.REJECTED)])
def test_gradient_decides_where_the_loss_is_lost_in_rounding(gradient_falls: bool, outcome: Outcome) -> None:
    x = torch.tensor([1e-9], dtype=torch.float64, requires_grad=True)
    groups = [{"params": [x], "lr": 1.0, "weight_decay": 0.0}]
    objective = Objective(groups)
    objective.bind(lambda: Given.apply(x, 1.0, x.detach() if gradient_falls else torch.full_like(x, 1e-9)), groups)  # type: ignore[no-untyped-call]
    curvature = SR1(initial=0.5)
    curvature.update(objective, objective.here(), None)
    assert TrustRegion().advance(objective, objective.here(), curvature, 1.0).outcome is outcome


def model_decrease(start: Point, B: Tensor, p: Tensor) -> float:
    return -float(start.grad @ p + 0.5 * p @ (B @ p))


@pytest.mark.parametrize("exact_below", [0, 60])
@laws
@given(n=st.integers(1, 7), log_radius=st.floats(-3.0, 3.0), seed=st.integers(0, 2**31))
def test_model_decrease_is_at_least_the_cauchy_decrease(exact_below: int, n: int, log_radius: float, seed: int) -> None:
    """Nocedal & Wright, eq. 4.20 with c1 = 1/2, on models that SR1 learned from an indefinite quadratic; and the step stays within the radius."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(n, n, generator=generator, dtype=torch.float64)
    A = A + A.T
    x = torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_()
    groups = [{"params": [x], "lr": 1.0, "weight_decay": 0.0}]
    objective = Objective(groups)
    objective.bind(lambda: 0.5 * torch.dot(x, A @ x), groups)
    start = objective.here()
    curvature, region = SR1(initial=1.0), TrustRegion(exact_below=exact_below)
    curvature.update(objective, start, None)
    last: Step | None = None
    for _ in range(3):
        curvature.update(objective, start, last)
        B = curvature.dense()
        radius = 10.0**log_radius
        region.recall({"radius": radius, "floor_rejections": 0.0, "steepest": 0.0})
        last = region.advance(objective, start, curvature, 1.0)
        if last.trial is None:
            return
        p = last.trial.x - start.x
        norm, size = float(start.grad.norm()), float(torch.linalg.matrix_norm(B, 2))
        least = 0.5 * norm * min(radius, norm / size)
        rounding = 1e-10 * (size * radius**2 + norm * radius) + 1e-14 * float(start.x.norm()) * (norm + size * radius)
        assert model_decrease(start, B, p) >= least - rounding
        assert float(p.norm()) <= radius * (1.0 + 1e-9) + 1e-14 * float(start.x.norm())
        objective.write(last.kept)
        start = last.kept
        if start.largest_grad == 0.0:
            return


@pytest.mark.parametrize("options", [{"tolerance": 0.0}, {"accept": 0.0}, {"accept": 0.2}, {"budget": 0}, {"exact_below": -1}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="TrustRegion needs"):
        TrustRegion(**options)
