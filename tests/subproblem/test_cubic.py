"""The cubic subproblem against the conditions that characterize its solution (Cartis, Gould & Toint 2011, theorem 3.1)."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from secant.subproblem.cubic import cubic
from secant.subproblem.eigenbasis import dense_eigenbasis
from secant.subproblem.exact import within_radius
from subproblem.steps import assert_numbers_belong_to_the_step

from .test_exact import problem, radii, seeds, spectra

laws = settings(max_examples=120, deadline=None, derandomize=True)
TOLERANCE = 1e-12


def assert_optimal(g: Tensor, B: Tensor, sigma: float) -> None:
    """``(B + shift) p = -g`` with ``shift = sigma |p|`` and ``B + shift`` positive semidefinite, relative to the sizes at hand."""
    solution = cubic(dense_eigenbasis(g, B), sigma)
    p = solution.p
    shift = sigma * float(p.norm())
    size = float(torch.linalg.matrix_norm(B, 2)) + shift
    scale = size * float(p.norm()) + float(g.norm())
    assert_numbers_belong_to_the_step(solution, g, B, TOLERANCE * scale)
    assert float((B @ p + shift * p + g).norm()) <= TOLERANCE * scale
    assert float(torch.linalg.eigvalsh(B)[0]) + shift >= -TOLERANCE * size
    assert solution.has_negative_curvature == (float(torch.linalg.eigvalsh(B)[0]) < 0.0)


@laws
@given(spectrum=spectra, sigma=radii, seed=seeds)
def test_solution_is_optimal(spectrum: list[float], sigma: float, seed: int) -> None:
    assert_optimal(*problem(spectrum, 1.0, seed), sigma)


@laws
@given(spectrum=spectra, sigma=radii, seed=seeds)
@example(spectrum=[-1.0, -1.0, 2.0], sigma=0.1, seed=0)
@example(spectrum=[-1.0], sigma=1.0, seed=0)
@example(spectrum=[0.0, 1.0, 2.0], sigma=1e-3, seed=0)
def test_solution_is_optimal_in_the_hard_case(spectrum: list[float], sigma: float, seed: int) -> None:
    assert_optimal(*problem(spectrum, 0.0, seed), sigma)


@laws
@given(spectrum=spectra, sigma=radii, seed=seeds, exponent=st.floats(-18.0, -6.0))
def test_solution_is_optimal_near_the_hard_case(spectrum: list[float], sigma: float, seed: int, exponent: float) -> None:
    assert_optimal(*problem(spectrum, 10.0**exponent, seed), sigma)


@pytest.mark.parametrize("gradient", [1e-50, 1e-8, 1.0, 1e50])
@pytest.mark.parametrize("curvature", [1e-50, 1e-8, 1.0, 1e50])
@pytest.mark.parametrize("sigma", [1e-50, 1e-8, 1.0, 1e50])
def test_scales_do_not_matter(gradient: float, curvature: float, sigma: float) -> None:
    for spectrum in ([1.0, 2.0, 3.0], [-1.0, 2.0, 3.0], [0.0, 0.0, 0.0]):
        B = torch.diag(torch.tensor(spectrum, dtype=torch.float64)) * curvature
        g = torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64) * gradient
        p = cubic(dense_eigenbasis(g, B), sigma).p
        assert bool(p.isfinite().all())
        assert float(g @ p) < 0.0


@laws
@given(spectrum=spectra, sigma=radii, seed=seeds)
def test_model_falls_at_least_as_far_as_by_brute_force(spectrum: list[float], sigma: float, seed: int) -> None:
    g, B = problem(spectrum, 1.0, seed)

    def model(p: Tensor) -> Tensor:
        return p @ g + 0.5 * ((p @ B) * p).sum(-1) + sigma / 3.0 * p.norm(dim=-1) ** 3

    found = cubic(dense_eigenbasis(g, B), sigma).p
    length = float(found.norm())
    generator = torch.Generator().manual_seed(seed)
    trials = torch.nn.functional.normalize(torch.randn(2000, len(spectrum), generator=generator, dtype=torch.float64), dim=1)
    trials = trials * 2.0 * length * torch.rand(2000, 1, generator=generator, dtype=torch.float64)
    scale = float(torch.linalg.matrix_norm(B, 2)) * length**2 + float(g.norm()) * length + sigma * length**3
    assert float(model(found)) <= float(model(trials).min()) + 1e-12 * scale


@laws
@given(spectrum=spectra, sigma=radii, seed=seeds)
def test_cubic_step_is_the_trust_region_step_of_its_own_length(spectrum: list[float], sigma: float, seed: int) -> None:
    g, B = problem(spectrum, 1.0, seed)
    basis = dense_eigenbasis(g, B)
    p = cubic(basis, sigma).p
    same = within_radius(basis, float(p.norm())).p
    assert float((p - same).norm()) <= 1e-5 * float(p.norm())
