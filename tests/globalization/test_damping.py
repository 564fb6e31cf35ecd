"""The damping of Levenberg-Marquardt steps, and their bend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

import secant
from secant import Damping, Outcome

DOUBLE = torch.float64

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # inside torch's forward mode


class Fit:
    """A residual, one optimizer with a globalization of its own, and every point where the residual was evaluated."""

    def __init__(self, residual: Callable[[Tensor], Tensor], x0: list[float], *, lr: float = 1.0, longest: float | None = None, **options: Any) -> None:
        self.x = torch.tensor(x0, dtype=DOUBLE, requires_grad=True)
        self.function = residual
        self.visited: list[Tensor] = []
        self.optimizer = secant.LevenbergMarquardt([self.x], lr, globalization=Damping(**({"corrections": 0} | options)), max_step_length=longest)

    def residual(self) -> Tensor:
        self.visited.append(self.x.detach().clone())
        return self.function(self.x)

    def step(self) -> Outcome:
        self.optimizer.step(self.residual)
        assert self.optimizer.outcome is not None
        return self.optimizer.outcome

    @property
    def damping(self) -> float:
        damping = self.optimizer._globalization.memory()["damping"]
        assert damping is not None
        return damping


@pytest.mark.parametrize("lr", [1.0, 0.25])
@pytest.mark.parametrize(("x0", "power"), [(1.0, 2), (0.4, 3), (-2.0, 2), (1.5, 1)])
def test_an_accepted_step_changes_the_damping_by_nielsens_rule(x0: float, power: int, lr: float) -> None:
    fit = Fit(lambda x: x**power - 0.1, [x0], lr=lr, initial=0.2)
    damping, x = 0.2 / lr, x0
    for _ in range(3):
        r, J = x**power - 0.1, power * x ** (power - 1)
        p = -J * r / (J * J * (1.0 + damping))  # relative to the curvature, which is J^2
        predicted = 0.5 * r * r - 0.5 * (r + J * p) ** 2
        ratio = (0.5 * r * r - 0.5 * ((x + p) ** power - 0.1) ** 2) / predicted
        assert fit.step() is Outcome.GAIN_RATIO
        x += p
        assert fit.x.item() == pytest.approx(x, rel=1e-12)
        damping *= max(1.0 / 3.0, 1.0 - (2.0 * ratio - 1.0) ** 3)
        assert fit.damping == pytest.approx(damping, rel=1e-9)


def test_rejected_trials_multiply_the_damping_by_two_four_and_eight_and_an_accepted_one_begins_again() -> None:
    bad = [3]

    def residual(x: Tensor) -> Tensor:
        away = bool((x.detach() != 1.0).any())
        spoiled = away and bad[0] > 0
        bad[0] -= spoiled
        return x * 0.0 + 5.0 if spoiled else x

    fit = Fit(residual, [1.0], initial=0.5)
    assert fit.step() is Outcome.GAIN_RATIO
    tried = [1.0 - v.item() for v in fit.visited if v.item() != 1.0]
    assert tried == pytest.approx([1.0 / (1.0 + d) for d in (0.5, 1.0, 4.0, 32.0)])
    assert fit.damping == pytest.approx(32.0 / 3.0)
    assert fit.optimizer._globalization.memory()["growth"] == 2.0
    assert fit.optimizer.counts.jacobians <= 2, "no Jacobian is spent on a rejected trial"


def quadratic(scale: float) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    A = torch.randn(5, 3, generator=generator, dtype=DOUBLE)
    Q = scale * torch.randn(5, 3, 3, generator=generator, dtype=DOUBLE)
    b = torch.randn(5, generator=generator, dtype=DOUBLE)
    return lambda x: A @ x + 0.5 * torch.einsum("kij,i,j->k", Q, x, x) - b, A, Q


def expected_parts(residual: Callable[[Tensor], Tensor], x: Tensor, relative: float) -> tuple[Tensor, Tensor]:
    """The damped step, and its acceleration from the exact second directional derivative."""
    J, r = torch.func.jacrev(residual)(x), residual(x)
    B = J.T @ J + relative * float(J.square().sum(0).max()) * torch.eye(len(x), dtype=DOUBLE)
    v = torch.linalg.solve(B, -J.T @ r)
    along = lambda y: torch.func.jvp(residual, (y,), (v,))[1]  # noqa: E731
    r_vv = torch.func.jvp(along, (x,), (v,))[1]
    return v, -torch.linalg.solve(B, J.T @ r_vv)


@pytest.mark.parametrize("solver", ["cholesky", "qr", "woodbury", "sketch", "cg"])
@pytest.mark.parametrize("probe", [0.05, 0.5])
def test_the_bend_is_half_the_acceleration_of_the_geodesic(solver: Any, probe: float) -> None:
    residual, _, _ = quadratic(0.3)
    x = torch.full((3,), 0.2, dtype=DOUBLE, requires_grad=True)
    start = x.detach().clone()
    optimizer = secant.LevenbergMarquardt([x], solver=solver, globalization=Damping(initial=0.1, probe=probe, accelerate=True, corrections=0))
    optimizer.step(lambda: residual(x))
    v, a = expected_parts(residual, start, 0.1)
    if solver == "cg":  # its unit is another, and it stops early
        assert optimizer.outcome is Outcome.GAIN_RATIO
        return
    assert 0.05 < float(2.0 * a.norm() / v.norm()) < 0.75
    torch.testing.assert_close(x.detach() - start, v + 0.5 * a, rtol=1e-8, atol=1e-10)


def test_a_bend_that_is_too_large_is_left_out() -> None:
    residual, _, _ = quadratic(0.3)
    start = torch.full((3,), 0.2, dtype=DOUBLE)
    v, a = expected_parts(residual, start, 0.1)
    share = float(2.0 * a.norm() / v.norm())
    for limit, expected in ((0.99 * share, v), (1.01 * share, v + 0.5 * a)):
        fit = Fit(residual, start.tolist(), initial=0.1, largest_bend=limit, accelerate=True)
        fit.step()
        torch.testing.assert_close(fit.x.detach() - start, expected, rtol=1e-8, atol=1e-10)


def test_acceleration_costs_one_evaluation_for_each_trial() -> None:
    residual, _, _ = quadratic(0.3)
    straight, bent = Fit(residual, [0.2] * 3), Fit(residual, [0.2] * 3, accelerate=True)
    for fit in (straight, bent):
        fit.step()
    assert straight.optimizer.counts.losses == 2
    assert bent.optimizer.counts.losses == 3
    assert len(bent.visited) >= 3


def test_a_probe_that_is_not_finite_leaves_the_step_straight() -> None:
    def residual(x: Tensor) -> Tensor:
        spoilt = math.nan if 0.97 < x.item() < 0.99 else 0.0
        return torch.stack((x[0] + spoilt, x[0] ** 2))

    fit = Fit(residual, [1.0], initial=2.0, probe=0.1, accelerate=True)
    assert fit.step() is Outcome.GAIN_RATIO
    assert torch.isfinite(fit.x).all()
    assert any(0.97 < v.item() < 0.99 for v in fit.visited)


@pytest.mark.parametrize("accelerate", [False, True])
def test_no_trial_is_longer_than_allowed(accelerate: bool) -> None:
    residual, _, _ = quadratic(0.6)
    fit = Fit(residual, [2.0, -1.0, 1.5], longest=0.02, accelerate=accelerate)
    for _ in range(20):
        start = fit.x.detach().clone()
        fit.visited.clear()
        fit.step()
        farthest = max(float((v - start).norm()) for v in fit.visited)
        assert farthest <= 0.02 * (1.0 + 1e-9)
    assert farthest > 0.0


def nothing_better(x: Tensor) -> Tensor:
    """Its derivative promises a decrease that is nowhere."""
    return x.detach().abs() + 1.0 + (x - x.detach())


def test_where_no_trial_decreases_the_loss_the_start_is_kept_and_said() -> None:
    fit = Fit(nothing_better, [0.0], budget=5)
    assert fit.step() is Outcome.NO_DECREASE
    assert fit.x.item() == 0.0
    assert fit.damping == 1e-3, "what fails at every length says nothing about the damping"


def test_trials_that_are_not_finite_are_told_from_those_that_are_no_better() -> None:
    fit = Fit(lambda x: x + (0.0 if x.item() == 1.0 else math.nan), [1.0], budget=4)
    assert fit.step() is Outcome.NOT_FINITE
    assert fit.x.item() == 1.0


class BadSlope(torch.autograd.Function):
    """The identity; its derivative is not a number beyond the start."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.is_bad = bool(x != 1.0)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (math.nan if ctx.is_bad else 1.0)


def test_a_trial_with_a_gradient_that_is_not_finite_is_no_step() -> None:
    fit = Fit(lambda x: BadSlope.apply(x), [1.0], budget=3)
    assert fit.step() is Outcome.NOT_FINITE
    assert fit.x.item() == 1.0


def test_at_the_floor_of_the_loss_the_gradient_decides() -> None:
    # the loss is one half everywhere to its last digits, while the second residual still has a slope to lose
    fit = Fit(lambda x: torch.cat([torch.ones(1, dtype=DOUBLE), 1e-8 * (x - 3.0)]), [2.0], initial=1.0)
    assert fit.step() is Outcome.APPROXIMATE_GAIN
    assert fit.x.item() == pytest.approx(3.0)  # a damping that hides in the rounding of the loss is lowered first


def test_memory_is_recalled_and_forgotten() -> None:
    one, other = Damping(), Damping()
    residual, _, _ = quadratic(0.3)
    fit = Fit(residual, [0.2] * 3)
    for _ in range(3):
        fit.step()
    other.recall(fit.optimizer._globalization.memory())
    assert other.memory() == fit.optimizer._globalization.memory()
    other.objective_changed()
    assert other.memory()["damping"] == fit.damping
    other.forget()
    assert other.memory() == one.memory()


@pytest.mark.parametrize(
    "options",
    [
        {"initial": 0.0},
        {"initial": math.inf},
        {"initial": math.nan},
        {"largest_bend": 0.0},
        {"probe": 0.0},
        {"probe": 1.5},
        {"accept": 0.0},
        {"accept": 0.5},
        {"budget": 0},
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Damping needs"):
        Damping(**options)


def test_a_curvature_that_cannot_be_damped_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Damping needs a curvature"):
        secant.SR1([torch.zeros(2, requires_grad=True)], globalization=Damping())  # type: ignore[arg-type]


def curved_valley(x: Tensor) -> Tensor:
    return torch.stack((4.0 * (x[1] - x[0] ** 2), 1.0 - x[0], 0.3 * torch.sin(x[0] * x[1])))


def test_corrections_go_on_to_the_minimizer_of_the_damped_residuals_themselves() -> None:
    start = torch.tensor([0.4, 0.3], dtype=DOUBLE)
    fit = Fit(curved_valley, start.tolist(), initial=0.3, corrections=60)
    assert fit.step() is Outcome.GAIN_RATIO
    J = torch.func.jacrev(curved_valley)(start)
    damping = 0.3 * float(J.square().sum(0).max())
    damped = scipy.optimize.least_squares(
        lambda p: np.concatenate([curved_valley(start + torch.tensor(p)).numpy(), math.sqrt(damping) * p]), np.zeros(2), xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    # corrections with the Jacobian of the start leave what J(x + p) - J(x) says about the remaining residuals
    near = float(np.linalg.norm(fit.x.detach().numpy() - start.numpy() - damped.x))
    straight = Fit(curved_valley, start.tolist(), initial=0.3)
    straight.step()
    assert near < 0.5 * float(np.linalg.norm(straight.x.detach().numpy() - start.numpy() - damped.x))
    p = fit.x.detach() - start
    torch.testing.assert_close(J.T @ curved_valley(start + p), -damping * p, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("corrections", [0, 1, 3])
def test_a_trial_costs_no_more_evaluations_than_corrections_and_one(corrections: int) -> None:
    fit = Fit(curved_valley, [0.4, 0.3], initial=0.3, corrections=corrections)
    fit.step()
    assert fit.optimizer.counts.losses == 2 + corrections


def test_corrections_stop_where_they_do_not_contract() -> None:
    fit = Fit(lambda x: torch.cat([torch.cos(40.0 * x), x - 1.0]), [0.1], initial=1e-3, corrections=50)
    fit.step()
    assert fit.optimizer.counts.losses < 40


@pytest.mark.parametrize("corrections", [0, 6])
def test_linear_residuals_need_no_correction(corrections: int) -> None:
    fit = Fit(lambda x: 2.0 * x - 1.0, [3.0], initial=0.5, corrections=corrections)
    fit.step()
    assert fit.x.item() == pytest.approx(3.0 - 2.5 / 1.5, rel=1e-12)
