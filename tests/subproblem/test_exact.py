"""The exact subproblem against the conditions that characterize its solution (Nocedal & Wright, theorem 4.1)."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secant.subproblem.exact import exact
from subproblem.steps import assert_numbers_belong_to_the_step

laws = settings(max_examples=120, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
TOLERANCE = 1e-12


def problem(spectrum: list[float], along_lowest: float, seed: int) -> tuple[Tensor, Tensor]:
    """A gradient whose component along the lowest eigenvector is multiplied by ``along_lowest``, and the matrix."""
    n = len(spectrum)
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    coefficients = torch.randn(n, generator=generator, dtype=torch.float64)
    coefficients[0] *= along_lowest
    matrix = (vectors * torch.tensor(sorted(spectrum), dtype=torch.float64)) @ vectors.T
    return vectors @ coefficients, 0.5 * (matrix + matrix.T)


def assert_optimal(g: Tensor, B: Tensor, radius: float) -> None:
    """``(B + shift) p = -g`` with ``B + shift`` positive semidefinite, ``shift >= 0`` and ``shift (radius - |p|) = 0``, relative to the sizes at hand."""
    solution = exact(g, B, radius)
    p = solution.p
    size = float(torch.linalg.matrix_norm(B, 2))
    scale = size * radius + float(g.norm())
    assert_numbers_belong_to_the_step(solution, g, B, TOLERANCE * scale)
    assert float(p.norm()) <= radius * (1.0 + TOLERANCE)
    shift = 0.0
    if solution.is_on_boundary:
        assert float(p.norm()) == pytest.approx(radius, rel=TOLERANCE)
        shift = -float(p @ (g + B @ p)) / float(p @ p)
    assert shift >= -TOLERANCE * scale / radius
    assert float((B @ p + shift * p + g).norm()) <= TOLERANCE * scale
    assert float(torch.linalg.eigvalsh(B)[0]) + shift >= -TOLERANCE * scale / radius


spectra = st.lists(st.floats(-3.0, 3.0).flatmap(lambda e: st.sampled_from([10.0**e, -(10.0**e)])), min_size=1, max_size=7)
radii = st.floats(-3.0, 3.0).map(lambda exponent: 10.0**exponent)


@laws
@given(spectrum=spectra, radius=radii, seed=seeds)
def test_solution_is_optimal(spectrum: list[float], radius: float, seed: int) -> None:
    assert_optimal(*problem(spectrum, 1.0, seed), radius)


@laws
@given(spectrum=spectra, radius=radii, seed=seeds)
@example(spectrum=[-1.0, -1.0, 2.0], radius=10.0, seed=0)
@example(spectrum=[0.0, 1.0, 2.0], radius=1e3, seed=0)
def test_solution_is_optimal_in_the_hard_case(spectrum: list[float], radius: float, seed: int) -> None:
    assert_optimal(*problem(spectrum, 0.0, seed), radius)


@laws
@given(spectrum=spectra, radius=radii, seed=seeds, exponent=st.floats(-18.0, -6.0))
def test_solution_is_optimal_near_the_hard_case(spectrum: list[float], radius: float, seed: int, exponent: float) -> None:
    assert_optimal(*problem(spectrum, 10.0**exponent, seed), radius)


@laws
@given(spectrum=st.lists(st.sampled_from([0.0, 0.0, 1.0, 3.0]), min_size=1, max_size=6), along=st.sampled_from([0.0, 1.0]), radius=radii, seed=seeds)
def test_solution_is_optimal_for_a_singular_matrix(spectrum: list[float], along: float, radius: float, seed: int) -> None:
    assert_optimal(*problem(spectrum, along, seed), radius)


@pytest.mark.parametrize("gradient", [1e-50, 1e-8, 1.0, 1e50])
@pytest.mark.parametrize("curvature", [1e-50, 1e-8, 1.0, 1e50])
@pytest.mark.parametrize("radius", [1e-50, 1e-8, 1.0, 1e50])
def test_scales_do_not_matter(gradient: float, curvature: float, radius: float) -> None:
    """The sizes whose squares stay in range; the answer must be a finite step within the radius that lowers the model."""
    for spectrum in ([1.0, 2.0, 3.0], [-1.0, 2.0, 3.0]):
        B = torch.diag(torch.tensor(spectrum, dtype=torch.float64)) * curvature
        g = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64) * gradient
        p = exact(g, B, radius).p
        assert bool(p.isfinite().all())
        assert 0.0 < float(p.norm()) <= radius * (1.0 + 1e-12)
        assert float(g @ p) < 0.0


def test_gradient_whose_square_underflows_still_has_a_step() -> None:
    g, B = problem([2.0, 6.0], 1.0, 0)
    p = exact(g * 1e-162, B, 1e-163).p
    assert torch.allclose(p * 1e162, exact(g, B, 0.1).p, rtol=1e-12, atol=0.0)
    assert float(exact(torch.zeros_like(g), B, 1.0).p.norm()) == 0.0


@laws
@given(spectrum=spectra, radius=radii, seed=seeds)
def test_model_falls_at_least_as_far_as_by_brute_force(spectrum: list[float], radius: float, seed: int) -> None:
    g, B = problem(spectrum, 1.0, seed)

    def model(p: Tensor) -> Tensor:
        return p @ g + 0.5 * ((p @ B) * p).sum(-1)

    generator = torch.Generator().manual_seed(seed)
    trials = torch.nn.functional.normalize(torch.randn(2000, len(spectrum), generator=generator, dtype=torch.float64), dim=1)
    trials = trials * radius * torch.rand(2000, 1, generator=generator, dtype=torch.float64)
    scale = float(torch.linalg.matrix_norm(B, 2)) * radius**2 + float(g.norm()) * radius
    assert float(model(exact(g, B, radius).p)) <= float(model(trials).min()) + 1e-12 * scale


def test_newton_step_is_taken_where_it_fits() -> None:
    g, B = problem([1.0, 4.0, 9.0], 1.0, 0)
    solution = exact(g, B, 1e3)
    assert not solution.is_on_boundary
    assert not solution.has_negative_curvature
    assert torch.allclose(solution.p, -torch.linalg.solve(B, g), rtol=1e-12)


def test_singular_model_is_not_left_for_the_boundary() -> None:
    """Close to a minimizer, where the gradient is small against ``|B| radius``, rounding along the null direction would outweigh the whole decrease."""
    rises = 0
    for seed in range(20):
        g, B = problem([0.0, 1.0, 2.0], 0.0, seed)
        g = g * 1e-9
        p = exact(g, B, 1.0).p
        rises += float(g @ p + 0.5 * p @ B @ p) >= 0.0
    assert rises == 0
