import functools
import itertools
import math

import numpy as np
import pytest
from numpy.polynomial.chebyshev import chebder, chebval
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from secant.problems.burgers import burgers_solution
from secant.problems.spectral import even_reaction_diffusion, exponential_runge_kutta, periodic_advection


def test_exponential_runge_kutta_is_exact_on_a_linear_equation() -> None:
    linear = np.array([0.0, -1e-9, -1.0, -1e4, 3j, -2.0 + 500j])
    start = np.arange(1.0, 7.0) + 0j
    states = exponential_runge_kutta(linear, np.zeros_like, start, duration=0.5, intervals=2, steps_per_interval=3)
    expected = start * np.exp(np.outer([0.0, 0.25, 0.5], linear))
    np.testing.assert_allclose(states, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("stiffness", [0.0, -1.0, -300.0])
def test_exponential_runge_kutta_has_order_four(stiffness: float) -> None:
    linear = np.array([stiffness])

    def cubic(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.cos(v) - v**3

    def final(steps: int) -> float:
        return float(exponential_runge_kutta(linear, cubic, np.array([0.3]), duration=2.0, intervals=1, steps_per_interval=steps)[-1, 0])

    exact = solve_ivp(lambda _, v: linear * v + cubic(v), (0.0, 2.0), [0.3], method="Radau", rtol=1e-12, atol=1e-14).y[0, -1]
    errors = np.abs([final(steps) - exact for steps in (10, 20, 40)])
    assert errors[-1] < 1e-6
    # Below 1e-11 the oracle's own error shows.
    assert all(fine < coarse / 11.0 or coarse < 1e-11 for coarse, fine in itertools.pairwise(errors))


def test_periodic_advection_equals_the_cole_hopf_solution() -> None:
    viscosity = 0.05
    positions, solution = periodic_advection(lambda waves: -viscosity * waves**2, lambda x: -np.sin(np.pi * x), nodes=256, intervals=4, steps_per_interval=100)
    times = np.linspace(0.0, 1.0, 5)
    expected = burgers_solution(np.repeat(times, 256), np.tile(positions, 5), viscosity=viscosity).reshape(5, 256)
    np.testing.assert_allclose(solution, expected, atol=1e-10)


def test_periodic_advection_moves_a_soliton_of_the_korteweg_de_vries_equation() -> None:
    # u = 3 c sech^2((x - c t) / (2 delta)), delta^2 = dispersion / c: narrow enough to be periodic to rounding.
    dispersion, speed = 4e-4, 0.5
    width = math.sqrt(dispersion / speed)

    def soliton(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        wrapped = (distance + 1.0) % 2.0 - 1.0
        return 3.0 * speed / np.cosh(wrapped / (2.0 * width)) ** 2

    positions, solution = periodic_advection(lambda waves: 1j * dispersion * waves**3, soliton, nodes=256, intervals=2, steps_per_interval=1000)
    for time, row in zip((0.0, 0.5, 1.0), solution, strict=True):
        np.testing.assert_allclose(row, soliton(positions - speed * time), atol=1e-8)


def test_reaction_diffusion_without_reaction_is_the_heat_equation() -> None:
    coefficients = even_reaction_diffusion(0.3, np.zeros_like, lambda x: 2.0 + np.cos(1.5 * np.pi * x), degree=32, intervals=3, steps_per_interval=1)
    x = np.linspace(-1.0, 1.0, 41)
    decay = np.exp(-0.3 * (1.5 * np.pi) ** 2 * np.linspace(0.0, 1.0, 4))
    np.testing.assert_allclose(chebval(x, coefficients.T), 2.0 + decay[:, None] * np.cos(1.5 * np.pi * x), atol=1e-12)


@functools.cache
def reaction_diffusion(degree: int, steps: int) -> NDArray[np.float64]:
    return even_reaction_diffusion(0.02, lambda u: 3.0 * (u - u**3), lambda x: x**2 * np.cos(np.pi * x), degree=degree, intervals=100, steps_per_interval=steps)


def test_reaction_diffusion_solves_its_equation_between_the_returned_times() -> None:
    # Differences in time and derivatives of Chebyshev series in space share nothing with how the solution was found. The start does not meet the
    # equation at the wall, so that the first times are left out.
    coefficients = reaction_diffusion(128, 10)
    x = np.linspace(-1.0, 1.0, 101)
    u = chebval(x, coefficients.T)
    step = 0.01
    weights = np.array([-1.0, 9.0, -45.0, 0.0, 45.0, -9.0, 1.0]) / (60.0 * step)
    for middle in (30, 60, 90):
        u_t = weights @ u[middle - 3 : middle + 4]
        u_xx = chebval(x, chebder(coefficients[middle], 2))
        now = u[middle]
        np.testing.assert_allclose(u_t, 0.02 * u_xx + 3.0 * (now - now**3), atol=2e-8)
    np.testing.assert_allclose(u[:, [0, -1]], -1.0, atol=1e-13)


def test_reaction_diffusion_has_converged_in_space_and_time() -> None:
    x = np.linspace(-1.0, 1.0, 101)
    fine = chebval(x, reaction_diffusion(160, 20).T)
    assert np.abs(chebval(x, reaction_diffusion(128, 20).T) - fine).max() < 1e-10
    assert np.abs(chebval(x, reaction_diffusion(160, 10).T) - fine).max() < 1e-10
