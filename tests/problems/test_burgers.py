import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from secant.problems.burgers import VISCOSITY, build_burgers, burgers_solution, collocation_points


def flat_gradient(loss: Tensor, parameters: tuple[Tensor, ...], *, create_graph: bool = False) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=create_graph)])


def relative(actual: Tensor, expected: Tensor) -> float:
    return float(torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected))


def test_grid_solution_has_converged_in_the_number_of_nodes() -> None:
    times, positions = (axis.ravel() for axis in np.meshgrid(np.linspace(0.0, 0.99, 100), np.linspace(-1.0, 1.0, 256), indexing="ij"))
    fine = burgers_solution(times, positions, nodes=200)
    assert np.abs(burgers_solution(times, positions) - fine).max() < 1e-14
    assert np.abs(burgers_solution(times, positions, nodes=80) - fine).max() < 1e-12


def test_solution_equals_the_trapezoidal_rule() -> None:
    # The trapezoidal rule converges exponentially for this integrand, and shares nothing with the nodes and weights of Gauss and Hermite.
    times = np.repeat(np.linspace(0.05, 0.99, 7), 31)
    positions = np.tile(np.linspace(-1.0, 1.0, 31), 7)
    z = np.linspace(-18.0, 18.0, 1601)
    y = positions[:, None] - np.sqrt(4.0 * VISCOSITY * times)[:, None] * z
    exponents = -np.cos(np.pi * y) / (2.0 * np.pi * VISCOSITY) - z * z
    masses = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    expected = -(np.sin(np.pi * y) * masses).sum(axis=1) / masses.sum(axis=1)
    assert np.abs(burgers_solution(times, positions) - expected).max() < 1e-13


def test_solution_has_the_published_slope_at_the_shock() -> None:
    # Basdevant et al. (1986): the slope at x = 0 is largest, -152.00516, at t = 1.6037 / pi.
    step = 3e-5
    offsets = np.array([-2.0, -1.0, 1.0, 2.0])
    u = burgers_solution(np.full(4, 1.6037 / math.pi), step * offsets)
    slope = (u[0] - 8.0 * u[1] + 8.0 * u[2] - u[3]) / (12.0 * step)
    assert slope == pytest.approx(-152.00516, abs=1e-5)


def test_solution_satisfies_the_equation_away_from_the_shock() -> None:
    random = np.random.default_rng(0)
    times = random.uniform(0.05, 0.95, 200)
    positions = random.choice([-1.0, 1.0], 200) * random.uniform(0.2, 0.9, 200)
    step = 1e-3

    def u(time_steps: int, position_steps: int) -> NDArray[np.float64]:
        return burgers_solution(times + time_steps * step, positions + position_steps * step)

    u_t = (u(-2, 0) - 8.0 * u(-1, 0) + 8.0 * u(1, 0) - u(2, 0)) / (12.0 * step)
    u_x = (u(0, -2) - 8.0 * u(0, -1) + 8.0 * u(0, 1) - u(0, 2)) / (12.0 * step)
    u_xx = (-u(0, -2) + 16.0 * u(0, -1) - 30.0 * u(0, 0) + 16.0 * u(0, 1) - u(0, 2)) / (12.0 * step**2)
    # Fourth-order differences leave 9.4e-10; u_t itself is of order 1.
    assert np.abs(u_t + u(0, 0) * u_x - VISCOSITY * u_xx).max() < 2e-9


def test_solution_meets_initial_and_boundary_data() -> None:
    positions = np.linspace(-1.0, 1.0, 41)
    np.testing.assert_allclose(burgers_solution(np.zeros(41), positions), -np.sin(np.pi * positions), atol=1e-14)
    times = np.linspace(0.0, 1.0, 21)
    for wall in (-1.0, 1.0):
        np.testing.assert_allclose(burgers_solution(times, np.full(21, wall)), 0.0, atol=1e-12)


def test_half_of_the_points_lie_near_the_shock() -> None:
    points = collocation_points()
    assert points.shape == (3000, 2)
    assert points[:1500, 1].abs().max() > 0.99
    assert points[1500:, 1].abs().max() <= 0.1
    assert points[:, 0].min() >= 0.0
    assert points[:, 0].max() <= 1.0


def test_points_are_those_of_the_published_records() -> None:
    assert build_burgers(0).settings["points_sha256"] == "1528af16f1c49d8f4f9ad8f3961f86a166fe53f8d7a41f3575752b9033444927"


@pytest.mark.parametrize("seed", [0, 1])
def test_forward_loss_and_gradient_equal_the_nested_ones(seed: int) -> None:
    forward, nested = build_burgers(seed), build_burgers(seed, derivatives="nested")
    assert sum(p.numel() for p in forward.parameters) == 941
    loss, expected = forward.loss(), nested.loss()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert relative(flat_gradient(loss, forward.parameters), flat_gradient(expected, nested.parameters)) < 1e-10


def test_forward_hessian_product_equals_the_nested_one() -> None:
    v = torch.randn(941, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    forward, nested = build_burgers(0), build_burgers(0, derivatives="nested")
    products = [flat_gradient(flat_gradient(problem.loss(), problem.parameters, create_graph=True) @ v, problem.parameters) for problem in (forward, nested)]
    assert relative(*products) < 1e-9


def test_error_of_the_zero_network_is_that_of_the_initial_data() -> None:
    problem = build_burgers(0)
    with torch.no_grad():
        for parameter in problem.parameters:
            parameter.zero_()
    times, positions = (axis.ravel() for axis in np.meshgrid(np.linspace(0.0, 0.99, 100), np.linspace(-1.0, 1.0, 256), indexing="ij"))
    exact = burgers_solution(times, positions)
    expected = np.linalg.norm(-np.sin(np.pi * positions) - exact) / np.linalg.norm(exact)
    assert problem.error is not None
    assert problem.error() == pytest.approx(expected, rel=1e-12)


def test_nested_derivatives_refuse_to_compile() -> None:
    with pytest.raises(ValueError, match="compiles only"):
        build_burgers(0, compile=True, derivatives="nested")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # Raised inside the compiler of torch 2.13.
def test_compiled_loss_and_gradient_equal_the_eager_ones() -> None:
    eager, compiled = build_burgers(0), build_burgers(0, compile=True)
    loss, expected = compiled.loss(), eager.loss()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert relative(flat_gradient(loss, compiled.parameters), flat_gradient(expected, eager.parameters)) < 1e-12
