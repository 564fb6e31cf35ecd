import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from secant.problems import Problem, build_poisson_2d, build_poisson_3d
from secant.problems.networks import partial_derivatives
from secant.problems.poisson import exact_solution

BOTH = pytest.mark.parametrize(("build", "parameters"), [(build_poisson_2d, 921), (build_poisson_3d, 1217)])


def flat_gradient(problem: Problem) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(problem.loss(), problem.parameters)])


@BOTH
def test_forward_loss_and_gradient_equal_the_nested_ones(build: Callable[..., Problem], parameters: int) -> None:
    forward, nested = build(0), build(0, derivatives="nested")
    assert sum(p.numel() for p in forward.parameters) == parameters
    assert forward.loss().item() == pytest.approx(nested.loss().item(), rel=1e-10)
    expected = flat_gradient(nested)
    assert torch.linalg.vector_norm(flat_gradient(forward) - expected) < 1e-10 * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("dimension", [2, 3])
def test_source_is_the_negative_laplacian_of_the_solution(dimension: int) -> None:
    points = torch.rand(50, dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    u = exact_solution(points)
    slopes = partial_derivatives(u, points)
    laplacian = torch.stack([partial_derivatives(slopes[:, axis], points)[:, axis] for axis in range(dimension)]).sum(0)
    torch.testing.assert_close(-laplacian, dimension * math.pi**2 * u, rtol=1e-12, atol=1e-12)


@BOTH
def test_zero_network_has_error_one_and_the_loss_of_the_source(build: Callable[..., Problem], parameters: int) -> None:
    problem = build(0)
    with torch.no_grad():
        for parameter in problem.parameters:
            parameter.zero_()
    assert problem.error is not None
    assert problem.error() == 1.0
    dimension = problem.parameters[0].shape[1]
    weight = {2: 1.0, 3: 0.5}[dimension]
    # The mean of sin^2 over a period is 1/2 per axis; Sobol points integrate it to within a percent.
    assert problem.loss().item() == pytest.approx(weight * (dimension * math.pi**2) ** 2 / 2**dimension, rel=0.01)


def test_a_short_run_reduces_loss_and_error() -> None:
    problem = build_poisson_2d(0)
    optimizer = torch.optim.LBFGS(problem.parameters, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    assert problem.loss().item() < 0.1 * first
    assert problem.error is not None
    assert problem.error() < 0.2


def test_points_are_those_of_the_published_records() -> None:
    assert build_poisson_2d(0).settings["points_sha256"] == "91aeb0906e305b8ee367e68b11ab5a4cf3a67f09b3385977c36abaf4c795be5f"
    assert build_poisson_3d(0).settings["points_sha256"] == "a970d9677309f39fd3182cd76210a4043c49e2e3b74af9a4bf1287d9dd036a15"


@BOTH
def test_nested_derivatives_refuse_to_compile(build: Callable[..., Problem], parameters: int) -> None:
    with pytest.raises(ValueError, match="compiles only"):
        build(0, compile=True, derivatives="nested")
