"""Laws of every problem whose loss is a sum of squares of residuals at points."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from secant.derivatives import Field, PointResidual
from secant.problems import (
    PROBLEMS,
    Problem,
    build_allen_cahn,
    build_burgers,
    build_burgers_inverse,
    build_burgers_nu001,
    build_burgers_soft,
    build_kdv,
    build_poisson_2d,
    build_wave,
)
from secant.problems.allen_cahn import allen_cahn_solution
from secant.problems.burgers import VISCOSITY, burgers_solution
from secant.problems.kdv import kdv_solution
from secant.problems.networks import partial_derivatives
from secant.problems.wave import wave_solution

PARAMETERS = {
    "burgers": 941,
    "burgers-shallow": 161,
    "burgers-soft": 1341,
    "burgers-nu001": 1361,
    "burgers-inverse": 1343,
    "allen-cahn": 921,
    "wave-1d": 1801,
    "kdv": 1361,
    "poisson-2d": 921,
    "poisson-2d-shallow": 151,
    "poisson-3d": 1217,
}
"""Names and trained numbers."""


@cache
def built(name: str) -> Problem:
    return PROBLEMS[name].build(0)


@pytest.fixture(params=list(PARAMETERS))
def problem(request: pytest.FixtureRequest) -> Problem:
    return built(str(request.param))


def blocks(problem: Problem) -> list[PointResidual]:
    return [block for block in problem.residual if isinstance(block, PointResidual)]


def flat_gradient(loss: Tensor, problem: Problem) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, problem.parameters)])


def nested(function: Callable[[Tensor], Tensor], points: Tensor, name: tuple[str, ...] | str, coordinates: tuple[str, ...]) -> Tensor:
    """One derivative by nested automatic differentiation."""
    points = points.clone().requires_grad_()
    value = function(points).reshape(len(points), -1)[:, 0]
    if name == "laplacian":
        slopes = partial_derivatives(value, points)
        return torch.stack([partial_derivatives(slopes[:, axis], points)[:, axis] for axis in range(points.shape[1])]).sum(0)
    for coordinate in name:
        value = partial_derivatives(value, points)[:, coordinates.index(coordinate)]
    return value


def test_parameters_are_as_many_as_stated(problem: Problem) -> None:
    assert sum(parameter.numel() for parameter in problem.parameters) == PARAMETERS[problem.name]


def test_loss_is_half_the_sum_of_squares_of_the_residuals(problem: Problem) -> None:
    total = sum(0.5 * block().square().sum() for block in problem.residual)
    assert isinstance(total, Tensor)
    assert problem.loss().item() == pytest.approx(total.item(), rel=1e-12)
    expected = flat_gradient(total, problem)
    assert torch.linalg.vector_norm(flat_gradient(problem.loss(), problem) - expected) < 1e-11 * torch.linalg.vector_norm(expected)


def test_residuals_equal_those_of_nested_automatic_differentiation(problem: Problem) -> None:
    for block in blocks(problem):
        points = block.points[:40]
        derivatives = [nested(block.field, points, name, block.field.coordinates) for name in block.derivatives]
        expected = block.scale * block.equation(points, *derivatives, *block.coefficients)
        torch.testing.assert_close(block.rows(slice(0, 40)), expected.detach(), rtol=1e-10, atol=1e-12, check_stride=False)


def test_jacobian_gives_the_gradient(problem: Problem) -> None:
    gradient = torch.zeros(PARAMETERS[problem.name], dtype=torch.float64)
    for block in blocks(problem):
        rows = slice(0, block.size)
        residual, jacobian = block.linearize(rows, problem.parameters)
        assert jacobian.shape == (block.size, PARAMETERS[problem.name])
        gradient += jacobian.T @ residual
    expected = flat_gradient(problem.loss(), problem)
    assert torch.linalg.vector_norm(gradient - expected) < 1e-10 * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("name", ["burgers-shallow", "burgers-nu001", "kdv", "poisson-2d-shallow"])
def test_a_short_run_reduces_loss_and_error(name: str) -> None:
    problem = PROBLEMS[name].build(1)
    assert problem.error is not None
    loss, error = problem.loss().item(), problem.error()
    optimizer = torch.optim.LBFGS(problem.parameters, max_iter=25, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert problem.loss().item() < 0.5 * loss
    assert problem.error() < error


@pytest.mark.parametrize(
    ("build", "widths"),
    [
        (build_burgers, (2, 10, 1)),
        (build_burgers_soft, (3, 10, 1)),
        (build_burgers_nu001, (3, 1)),
        (build_burgers_inverse, (2, 10, 2)),
        (build_allen_cahn, (3, 10, 1)),
        (build_wave, (1, 10, 1)),
        (build_kdv, (2, 10, 1)),
        (build_poisson_2d, (3, 10, 1)),
    ],
)
def test_widths_of_another_network_are_refused(build: Callable[..., Problem], widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="needs widths that start with"):
        build(0, widths=widths)


class Exact(torch.nn.Module):
    """A solution in place of the network, so that its residuals must vanish."""

    def __init__(self, solution: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.solution = solution

    def forward(self, points: Tensor) -> Tensor:
        return self.solution(points)


def with_solution(problem: Problem, solution: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The residuals of a problem whose whole field is replaced by a solution."""
    field = Field(Exact(solution), "tx")
    return [PointResidual(field, block.points[:, :2], block.equation, block.derivatives, scale=block.scale)() for block in blocks(problem)]


def test_the_exact_wave_leaves_no_residual() -> None:
    for residual in with_solution(built("wave-1d"), wave_solution):
        # Terms of size 300 cancel.
        assert residual.abs().max() < 1e-13


def test_allen_cahn_reference_has_converged_and_meets_its_data() -> None:
    positions = np.linspace(-1.0, 1.0, 201)
    solution = allen_cahn_solution(positions)
    assert np.abs(allen_cahn_solution(positions, degree=800) - solution).max() < 1e-10
    assert np.abs(allen_cahn_solution(positions, steps_per_interval=20) - solution).max() < 1e-11
    np.testing.assert_allclose(solution[0], positions**2 * np.cos(np.pi * positions), atol=1e-13)
    np.testing.assert_allclose(solution[:, [0, -1]], -1.0, atol=1e-13)


def test_kdv_reference_has_converged_and_keeps_mass_momentum_and_energy() -> None:
    positions, solution = kdv_solution()
    _, fine = kdv_solution(nodes=512, steps_per_interval=100)
    assert np.abs(fine[:, ::2] - solution).max() < 1e-9
    waves = 1j * np.pi * np.arange(129)
    slope = np.fft.irfft(waves * np.fft.rfft(solution), 256)
    for invariant in (solution, solution**2, solution**3 / 3.0 - 0.0025 * slope**2):
        means = invariant.mean(axis=1)
        np.testing.assert_allclose(means, means[0], atol=1e-9)
    np.testing.assert_allclose(solution[0], np.cos(np.pi * positions), atol=1e-13)


def test_solution_of_another_viscosity_solves_its_equation() -> None:
    random = np.random.default_rng(0)
    t, x, step = random.uniform(0.1, 0.9, 100), random.uniform(-1.0, 1.0, 100), 1e-3

    def u(ahead: int, aside: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return burgers_solution(t + ahead * step, x + aside * step, viscosity=0.1)

    u_t = (u(-2, 0) - 8.0 * u(-1, 0) + 8.0 * u(1, 0) - u(2, 0)) / (12.0 * step)
    u_x = (u(0, -2) - 8.0 * u(0, -1) + 8.0 * u(0, 1) - u(0, 2)) / (12.0 * step)
    u_xx = (-u(0, -2) + 16.0 * u(0, -1) - 30.0 * u(0, 0) + 16.0 * u(0, 1) - u(0, 2)) / (12.0 * step**2)
    assert np.abs(u_t + u(0, 0) * u_x - 0.1 * u_xx).max() < 1e-7


def test_inverse_problem_states_the_error_of_its_worse_coefficient() -> None:
    problem = PROBLEMS["burgers-inverse"].build(0)
    assert problem.error is not None
    assert problem.error() == 1.0
    *_, convection, log_viscosity = problem.parameters
    with torch.no_grad():
        convection.fill_(1.01)
        log_viscosity.fill_(math.log(1.03 * VISCOSITY))
    assert problem.error() == pytest.approx(0.03, rel=1e-9)


def test_data_of_the_inverse_problem_are_exact() -> None:
    values = blocks(built("burgers-inverse"))[1].points
    t, x, u = values.numpy().T
    np.testing.assert_allclose(u, burgers_solution(t, x, nodes=200), atol=1e-13)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # Raised inside the compiler of torch 2.13.
def test_compiled_loss_and_gradient_of_the_third_derivative_equal_the_eager_ones() -> None:
    eager, compiled = built("kdv"), PROBLEMS["kdv"].build(0, compile=True)
    assert compiled.loss().item() == pytest.approx(eager.loss().item(), rel=1e-12)
    expected = flat_gradient(eager.loss(), eager)
    assert torch.linalg.vector_norm(flat_gradient(compiled.loss(), compiled) - expected) < 1e-11 * torch.linalg.vector_norm(expected)
