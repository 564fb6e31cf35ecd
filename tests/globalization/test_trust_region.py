"""The trust region: its radius, its ratio, its promises."""

import math

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


def scripted_step(losses: list[float], gradient: list[float], radius: float, *, region: TrustRegion | None = None) -> tuple[Step, TrustRegion, Objective]:
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
    region.recall({"radius": radius})
    return region.advance(objective, start, curvature, 1.0), region, objective


def radius_of(region: TrustRegion) -> float:
    radius = region.memory()["radius"]
    assert radius is not None
    return radius


# g = (3, 4) and radius 1: p = -g / 5, slope -5, predicted decrease 5 - 1/2 = 4.5.
@pytest.mark.parametrize(
    ("ratio", "outcome", "radius"),
    [
        (1.0, Outcome.GAIN_RATIO, 2.0),
        (0.76, Outcome.GAIN_RATIO, 2.0),
        (0.74, Outcome.GAIN_RATIO, 1.0),
        (0.11, Outcome.GAIN_RATIO, 1.0),
        (0.09, Outcome.GAIN_RATIO, 0.5),  # the parabola's minimizer 5 / (2 (5 - 0.405)) = 0.54 is cut to a half
        (-0.5, Outcome.REJECTED, 5.0 / (2.0 * (5.0 + 2.25))),
        (-100.0, Outcome.REJECTED, 0.1),
        (1e-5, Outcome.REJECTED, 0.5),
    ],
)
def test_radius_follows_the_gain_ratio_on_the_boundary(ratio: float, outcome: Outcome, radius: float) -> None:
    step, region, _ = scripted_step([0.0, -4.5 * ratio], [3.0, 4.0], 1.0)
    assert step.outcome is outcome
    assert radius_of(region) == pytest.approx(radius, rel=1e-12)
    assert (step.kept is step.trial) == outcome.is_accepted
    assert step.trial is not None
    assert torch.allclose(step.trial.x, torch.tensor([-0.6, -0.8], dtype=torch.float64), rtol=1e-12)


def test_interior_step_does_not_widen_the_radius() -> None:
    """p = -g has length 5 in a radius of 7: below 0.8 of it; predicted 12.5."""
    step, region, _ = scripted_step([0.0, -12.5], [3.0, 4.0], 7.0)
    assert step.outcome is Outcome.GAIN_RATIO
    assert radius_of(region) == 7.0


def test_interior_step_that_fails_shrinks_from_its_own_length() -> None:
    step, region, _ = scripted_step([0.0, 1e9], [3.0, 4.0], 7.0)
    assert step.outcome is Outcome.REJECTED
    assert radius_of(region) == pytest.approx(0.5)


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
        region.recall({"radius": radius})
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


@pytest.mark.parametrize("options", [{"accept": 0.0}, {"accept": 0.2}, {"budget": 0}, {"exact_below": -1}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="TrustRegion needs"):
        TrustRegion(**options)
