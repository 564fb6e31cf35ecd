"""The exact Hessian as a curvature: products, what they cost, and what is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import secant
from secant import Correction, Outcome
from secant.curvature.exact import ExactHessian
from secant.objective import Counts, Objective

DOUBLE = torch.float64


def rosenbrock(x: Tensor) -> Tensor:
    return ((1.0 - x[:-1]) ** 2).sum() + 100.0 * ((x[1:] - x[:-1] ** 2) ** 2).sum()


def at_start(curvature: ExactHessian, loss: Callable[[Tensor], Tensor] = rosenbrock, n: int = 6, **options: Any) -> tuple[Objective, Tensor, Tensor]:
    """The curvature updated at a random point, with the dense Hessian there."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=DOUBLE).requires_grad_()
    groups = [{"params": [x], "lr": 1.0, "weight_decay": 0.0}]
    objective = Objective(groups, **{"keeps_graph": True, **options})
    objective.bind(lambda: loss(x), groups)
    B = torch.autograd.functional.hessian(loss, x.detach())
    curvature.update(objective, objective.here(), None)
    return objective, x, B


def test_products_are_those_of_the_hessian_wherever_the_parameters_go() -> None:
    curvature = ExactHessian()
    objective, x, B = at_start(curvature)
    v = torch.linspace(-1.0, 1.0, 6, dtype=DOUBLE)
    start = objective.here()
    expected = curvature.multiply(v)
    torch.testing.assert_close(expected, B @ v, rtol=1e-12, atol=1e-10)
    objective.at(start.x + 1.0)
    assert torch.equal(curvature.multiply(v), expected)
    with torch.no_grad():
        x.mul_(3.0)
    assert torch.equal(curvature.multiply(v), expected)
    assert objective.counts == Counts(losses=2, gradients=2, hessian_products=4)


def test_product_with_the_gradient_is_made_once() -> None:
    curvature = ExactHessian()
    objective, _, B = at_start(curvature)
    g = objective.here().grad
    torch.testing.assert_close(curvature.multiply(g), B @ g, rtol=1e-12, atol=1e-10)
    assert torch.equal(curvature.multiply(-g), -curvature.multiply(g))
    assert objective.counts.hessian_products == 1


@pytest.mark.parametrize("krylov_limit", [0, 100])
def test_direction_and_eigenbasis_are_made_once_per_point(krylov_limit: int) -> None:
    curvature = ExactHessian(krylov_limit=krylov_limit)
    objective, _, _ = at_start(curvature)
    point = objective.here()
    direction = curvature.solve(point.grad)
    spent = objective.counts
    assert torch.equal(curvature.solve(point.grad), direction)
    curvature.eigenbasis(point.grad)
    assert curvature.update(objective, point, None) is Correction.NOTHING_NEW
    assert torch.equal(curvature.solve(point.grad), direction)
    assert objective.counts == spent
    assert float(direction @ point.grad) > 0.0


def test_dense_forms_are_the_hessian_and_its_inverse() -> None:
    curvature = ExactHessian()
    _, _, B = at_start(curvature)
    torch.testing.assert_close(curvature.dense(), B, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(curvature.dense_inverse(), torch.linalg.inv(B), rtol=1e-9, atol=1e-12)


def test_negative_curvature_is_known_once_a_product_met_it() -> None:
    curvature = ExactHessian()
    at_start(curvature, lambda x: x[0] ** 2 - 3.0 * x[1] ** 2 + 4.0 * (x[2:] ** 2).sum())
    assert curvature.negative_eigenvalues is None
    curvature.multiply(torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=DOUBLE))
    assert curvature.negative_eigenvalues == 1


def test_closure_that_calls_backward_gets_differences_and_the_correction_says_so() -> None:
    x = torch.tensor([-1.2, 1.0], dtype=DOUBLE, requires_grad=True)

    def closure() -> Tensor:
        loss = rosenbrock(x)
        loss.backward()
        return loss

    optimizer = secant.NewtonCG([x])
    optimizer.step(closure)
    assert optimizer.correction is Correction.DIFFERENCES
    assert optimizer.counts.hessian_products == 0
    assert optimizer.counts.gradients >= 4
    for _ in range(60):
        optimizer.step(closure)
    torch.testing.assert_close(x.detach(), torch.ones(2, dtype=DOUBLE), rtol=1e-7, atol=1e-7)
    with torch.no_grad():
        x.mul_(2.0)
    with pytest.raises(RuntimeError, match="hessian='differences'"):
        secant.NewtonCG([x], hessian="exact").step(closure)


def test_exact_and_difference_products_take_the_same_first_steps() -> None:
    paths = {}
    for hessian in ("exact", "differences"):
        x = torch.tensor([-1.2, 1.0, 0.5, -0.3], dtype=DOUBLE, requires_grad=True)
        optimizer = secant.CubicNewton([x], hessian=hessian, iterations_per_step=5)
        optimizer.step(lambda x=x: rosenbrock(x))
        paths[hessian] = x.detach()
    torch.testing.assert_close(paths["exact"], paths["differences"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [secant.NewtonCG, secant.CubicNewton, secant.SaddleFreeNewton])
def test_no_point_is_evaluated_twice_for_its_products_after_rejected_trials_neither(method: Any) -> None:
    x = torch.tensor([-1.2, 1.0] * 4, dtype=DOUBLE, requires_grad=True)
    seen = []

    def closure() -> Tensor:
        seen.append(tuple(x.detach().tolist()))
        return rosenbrock(x)

    optimizer = method([x], globalization=secant.TrustRegion() if method is secant.NewtonCG else secant.Cubic())
    rejected = 0
    for _ in range(25):
        optimizer.step(closure)
        rejected += optimizer.last_step.outcome is Outcome.REJECTED
    assert rejected > 0
    assert len(set(seen)) == len(seen) == optimizer.counts.losses == optimizer.counts.gradients


def test_rejected_trial_costs_no_product() -> None:
    x = torch.tensor([-1.2, 1.0] * 4, dtype=DOUBLE, requires_grad=True)
    optimizer = secant.CubicNewton([x])
    closure = lambda: rosenbrock(x)  # noqa: E731
    seen = 0
    for _ in range(40):
        before = optimizer.counts.hessian_products
        was_rejected = optimizer.last_step is not None and optimizer.last_step.outcome is Outcome.REJECTED
        optimizer.step(closure)
        if was_rejected:
            seen += 1
            assert optimizer.counts.hessian_products == before
            assert optimizer.correction is Correction.NOTHING_NEW
    assert seen > 0


def test_hessian_that_is_not_finite_is_said_and_the_gradient_followed() -> None:
    x = torch.tensor([0.0, 2.0], dtype=DOUBLE, requires_grad=True)
    optimizer = secant.NewtonCG([x])
    optimizer.step(lambda: x[0].abs() ** 1.5 + x[0] + (x[1] - 1.0) ** 2)  # at 0 the second derivative of |x|^1.5 is infinite, the first is not
    assert optimizer.correction is Correction.HESSIAN_UNUSABLE
    assert optimizer.outcome is not None
    assert optimizer.outcome.is_accepted


def test_gradient_left_for_the_user_is_a_plain_tensor() -> None:
    x = torch.tensor([-1.2, 1.0], dtype=DOUBLE, requires_grad=True)
    optimizer = secant.CubicNewton([x])
    optimizer.step(lambda: rosenbrock(x))
    assert x.grad is not None
    assert x.grad.grad_fn is None
    assert not x.grad.requires_grad


def test_copy_shares_no_graph_and_small_states_hold_the_inverse() -> None:
    x = torch.tensor([-1.2, 1.0], dtype=DOUBLE, requires_grad=True)
    optimizer = secant.NewtonCG([x])
    optimizer.step(lambda: rosenbrock(x))
    expected = optimizer.curvature.dense_inverse()
    assert copy.deepcopy(optimizer).curvature.state()["steepest"] == optimizer.curvature.state()["steepest"]
    fresh = secant.NewtonCG([x])
    with pytest.raises(RuntimeError, match="take a step first"):
        fresh.curvature.dense_inverse()
    fresh.load_state_dict(optimizer.state_dict())
    assert torch.equal(fresh.curvature.dense_inverse(), expected)


def test_impossible_options_are_refused() -> None:
    x = [torch.zeros(2, requires_grad=True)]
    with pytest.raises(ValueError, match="krylov_limit"):
        secant.CubicNewton(x, krylov_limit=-1)
    with pytest.raises(ValueError, match="hessian"):
        secant.NewtonCG(x, hessian="finite")
    for options in ({"accept": 0.0}, {"accept": 0.5}, {"budget": 0}):
        with pytest.raises(ValueError, match="Cubic needs"):
            secant.Cubic(**options)


def test_modules_with_tied_and_reused_weights_keep_their_products_after_writes() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 5, generator=generator, dtype=DOUBLE)
    W = torch.randn(5, 5, generator=generator, dtype=DOUBLE).requires_grad_()
    groups = [{"params": [W], "lr": 1.0, "weight_decay": 0.0}]
    objective = Objective(groups, keeps_graph=True)
    objective.bind(lambda: (torch.tanh(torch.tanh(inputs @ W) @ W.T) - inputs).square().mean(), groups)
    start = objective.here()
    product = objective.hessian_at(start)
    v = torch.ones(25, dtype=DOUBLE)
    expected = product(v)
    objective.at(start.x * 2.0)
    assert torch.equal(product(v), expected)
    objective.write(start)
    torch.testing.assert_close(objective.hessian_at(start)(v), expected, rtol=1e-13, atol=1e-15)
    assert objective.counts.losses == 3
