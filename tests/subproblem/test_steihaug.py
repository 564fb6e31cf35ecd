"""Steihaug's conjugate gradients against dense answers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secant.space import LocalSpace
from secant.subproblem.exact import exact
from secant.subproblem.solution import Solution
from secant.subproblem.steihaug import boundary_length, steihaug
from subproblem.steps import assert_numbers_belong_to_the_step

laws = settings(max_examples=100, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
radii = st.floats(-3.0, 3.0).map(lambda exponent: 10.0**exponent)
spectra = st.lists(st.floats(-2.0, 2.0).flatmap(lambda e: st.sampled_from([10.0**e, -(10.0**e)])), min_size=1, max_size=8)


def problem(spectrum: list[float], seed: int) -> tuple[Tensor, Tensor]:
    n = len(spectrum)
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    matrix = (vectors * torch.tensor(spectrum, dtype=torch.float64)) @ vectors.T
    return torch.randn(n, generator=generator, dtype=torch.float64), 0.5 * (matrix + matrix.T)


def solve(g: Tensor, B: Tensor, radius: float, tolerance: float = 1e-3) -> Solution:
    return steihaug(g, lambda v: B @ v, radius, LocalSpace(), tolerance=tolerance)


def model(g: Tensor, B: Tensor, p: Tensor) -> float:
    return float(g @ p + 0.5 * p @ (B @ p))


def cauchy(g: Tensor, B: Tensor, radius: float) -> Tensor:
    """The minimizer along ``-g`` within the radius (Nocedal & Wright, eq. 4.11 and 4.12)."""
    norm, gBg = float(g.norm()), float(g @ (B @ g))
    share = min(1.0, norm**3 / (radius * gBg)) if gBg > 0.0 else 1.0
    return -share * radius / norm * g


@laws
@given(spectrum=spectra, radius=radii, seed=seeds)
def test_step_lies_within_the_radius_and_beats_the_cauchy_step(spectrum: list[float], radius: float, seed: int) -> None:
    g, B = problem(spectrum, seed)
    solution = solve(g, B, radius)
    scale = float(torch.linalg.matrix_norm(B, 2)) * radius**2 + float(g.norm()) * radius
    assert model(g, B, solution.p) <= model(g, B, cauchy(g, B, radius)) + 1e-13 * scale
    assert model(g, B, solution.p) >= model(g, B, exact(g, B, radius).p) - 1e-12 * scale
    assert_numbers_belong_to_the_step(solution, g, B, 1e-12 * scale / radius)
    if solution.is_on_boundary:
        assert float(solution.p.norm()) == pytest.approx(radius, rel=1e-12)
    else:
        assert float(solution.p.norm()) < radius
        assert not solution.has_negative_curvature


@laws
@given(spectrum=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=8), seed=seeds)
def test_interior_step_of_a_positive_definite_model_is_the_newton_step(spectrum: list[float], seed: int) -> None:
    g, B = problem(spectrum, seed)
    solution = solve(g, B, 1e6, tolerance=1e-12)
    assert not solution.is_on_boundary
    # n products are the most it takes; rounding in conjugate gradients costs some digits of the tolerance.
    assert float((B @ solution.p + g).norm()) <= 1e-6 * float(g.norm())


@laws
@given(spectrum=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=8), seed=seeds)
def test_residual_meets_the_tolerance(spectrum: list[float], seed: int) -> None:
    g, B = problem(spectrum, seed)
    assert float((B @ solve(g, B, 1e6).p + g).norm()) <= 1.001e-3 * float(g.norm())


@laws
@given(spectrum=spectra, radius=radii, seed=seeds)
def test_products_are_at_most_as_many_as_parameters(spectrum: list[float], radius: float, seed: int) -> None:
    g, B = problem(spectrum, seed)
    products = 0

    def multiply(v: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return B @ v

    steihaug(g, multiply, radius, LocalSpace(), tolerance=1e-14)
    assert products <= len(spectrum)


def test_gradient_is_not_written_to() -> None:
    g, B = problem([1.0, -2.0, 3.0], 0)
    before = g.clone()
    solve(g, B, 0.5)
    assert torch.equal(g, before)


@pytest.mark.parametrize("curvature", [1.0, -1.0])
def test_first_direction_already_ends_on_the_boundary(curvature: float) -> None:
    g = torch.tensor([3.0, 4.0], dtype=torch.float64)
    solution = solve(g, curvature * torch.eye(2, dtype=torch.float64), 2.0)
    assert torch.allclose(solution.p, -2.0 * g / 5.0, rtol=1e-14)
    assert solution.is_on_boundary
    assert solution.has_negative_curvature == (curvature < 0.0)


@laws
@given(p=st.floats(0.0, 0.999999), cosine=st.floats(-1.0, 1.0), log_size=st.floats(-8.0, 8.0), radius=radii)
def test_boundary_length_ends_on_the_boundary(p: float, cosine: float, log_size: float, radius: float) -> None:
    length, size = p * radius, 10.0**log_size
    tau = boundary_length(length**2, length * size * cosine, size**2, radius)
    assert tau >= 0.0
    reached = length**2 + 2.0 * tau * length * size * cosine + (tau * size) ** 2
    assert reached == pytest.approx(radius**2, rel=1e-12)


@pytest.mark.parametrize("gradient", [1e-50, 1e-8, 1.0, 1e50])
@pytest.mark.parametrize("curvature", [1e-50, 1e-8, 1.0, 1e50])
@pytest.mark.parametrize("radius", [1e-50, 1e-8, 1.0, 1e50])
def test_scales_do_not_matter(gradient: float, curvature: float, radius: float) -> None:
    for spectrum in ([1.0, 2.0, 3.0], [-1.0, 2.0, 3.0]):
        B = torch.diag(torch.tensor(spectrum, dtype=torch.float64)) * curvature
        g = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64) * gradient
        p = solve(g, B, radius).p
        assert bool(p.isfinite().all())
        assert 0.0 < float(p.norm()) <= radius * (1.0 + 1e-12)


def test_nearly_flat_model_goes_to_the_boundary() -> None:
    g = torch.ones(3, dtype=torch.float64)
    assert solve(g, 1e-160 * torch.eye(3, dtype=torch.float64), 1.0).is_on_boundary
