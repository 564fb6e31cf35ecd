"""The Krylov eigenbasis, the truncated and the absolute inverse, against dense algebra."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secant.space import LocalSpace
from secant.subproblem.cubic import cubic
from secant.subproblem.eigenbasis import Eigenbasis, dense_eigenbasis
from secant.subproblem.exact import within_radius
from secant.subproblem.krylov import krylov_eigenbasis
from secant.subproblem.saddle_free import absolute_inverse
from secant.subproblem.truncated import truncated_inverse
from subproblem.steps import assert_numbers_belong_to_the_step

from .test_exact import problem, seeds, spectra

laws = settings(max_examples=80, deadline=None, derandomize=True)
SPACE = LocalSpace()


class Counted:
    def __init__(self, B: Tensor) -> None:
        self.B, self.products = B, 0

    def __call__(self, v: Tensor) -> Tensor:
        self.products += 1
        return self.B @ v


def whole(g: Tensor, B: Tensor, limit: int = 1000) -> Eigenbasis:
    return krylov_eigenbasis(g, lambda v: B @ v, SPACE, is_enough=lambda _: False, limit=limit)


@laws
@given(spectrum=spectra, seed=seeds)
def test_solutions_in_the_whole_krylov_space_are_those_of_the_dense_matrix(spectrum: list[float], seed: int) -> None:
    g, B = problem(spectrum, 1.0, seed)
    dense, krylov = dense_eigenbasis(g, B), whole(g, B)
    size = float(torch.linalg.matrix_norm(B, 2))

    def model(p: Tensor) -> float:
        return float(g @ p + 0.5 * p @ B @ p)

    for radius in (1e-2, 1.0, 1e2):
        expected, found = within_radius(dense, radius), within_radius(krylov, radius)
        assert model(found.p) <= model(expected.p) + 1e-10 * (size * radius**2 + float(g.norm()) * radius)
        assert_numbers_belong_to_the_step(found, g, B, 1e-11 * (size * radius + float(g.norm())))


def test_residual_is_the_gradient_of_the_whole_model_at_the_minimizer_within_the_space() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(40, 40, generator=generator, dtype=torch.float64)
    B, g = A + A.T, torch.randn(40, generator=generator, dtype=torch.float64)
    seen = []

    def is_enough(ritz: object) -> bool:
        seen.append(ritz)
        return len(seen) == 9

    basis = krylov_eigenbasis(g, lambda v: B @ v, SPACE, is_enough=is_enough, limit=40)
    for sigma in (1e-2, 1.0, 1e2):
        p = cubic(basis, sigma).p
        shift = sigma * p.norm()
        coordinates = -basis.coefficients / (basis.values + shift)
        assert seen[-1].residual(coordinates) == pytest.approx(float((g + B @ p + shift * p).norm()), rel=1e-9)


def test_space_stops_growing_when_it_is_enough_and_at_its_limit() -> None:
    g, B = torch.ones(50, dtype=torch.float64), Counted(torch.diag(torch.linspace(1.0, 9.0, 50, dtype=torch.float64)))
    basis = krylov_eigenbasis(g, B, SPACE, is_enough=lambda ritz: ritz.residual(ritz.coefficients / ritz.values) < 1e-3, limit=50)
    assert B.products == basis.values.numel() < 20
    p = basis.vector(basis.coefficients / basis.values)
    assert float((B.B @ p - g).norm()) < 1e-3
    assert whole(g, B.B, limit=7).values.numel() == 7


@pytest.mark.parametrize("n", [2, 10, 50, 300])
@pytest.mark.parametrize("negative", [1, 3])
def test_negative_curvature_orthogonal_to_the_gradient_is_found(n: int, negative: int) -> None:
    values = torch.linspace(1.0, 10.0, n, dtype=torch.float64)
    negative = min(negative, n - 1)
    values[:negative] = torch.tensor([-2.0, -0.5, -1.0], dtype=torch.float64)[:negative]
    g = torch.zeros(n, dtype=torch.float64)
    g[-1] = 1e-12
    B = Counted(torch.diag(values))
    basis = krylov_eigenbasis(g, B, SPACE, is_enough=lambda _: True, limit=1000)
    assert basis.lowest <= -1.7
    assert B.products <= 5 + 2 * 9
    p = cubic(basis, 1.0).p
    assert float(p @ B.B @ p) < 0.0


def test_multiple_of_the_identity_costs_one_product_more_than_it_needs() -> None:
    B = Counted(3.0 * torch.eye(30, dtype=torch.float64))
    basis = krylov_eigenbasis(torch.ones(30, dtype=torch.float64), B, SPACE, is_enough=lambda _: False, limit=30)
    assert B.products == 2
    assert torch.equal(basis.values, torch.full((2,), 3.0, dtype=torch.float64))


def test_known_product_is_not_asked_for_again() -> None:
    g, B = problem([1.0, 2.0, 3.0], 1.0, 0)
    counted = Counted(B)
    basis = krylov_eigenbasis(g, counted, SPACE, is_enough=lambda _: False, limit=3, Bg=B @ g)
    assert counted.products == 2
    torch.testing.assert_close(basis.values, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


def test_product_that_is_not_finite_ends_the_search_with_what_is_known() -> None:
    g, B = problem([1.0, 2.0, 3.0, 4.0], 1.0, 0)
    products = iter([B, B, B * torch.nan])
    basis = krylov_eigenbasis(g, lambda v: next(products) @ v, SPACE, is_enough=lambda _: False, limit=4)
    assert basis.values.numel() == 2
    assert bool(basis.values.isfinite().all())


def test_float32_space_keeps_its_vectors_orthogonal() -> None:
    values = torch.logspace(-6, 0, 60)
    basis = whole(torch.ones(60), torch.diag(values))
    V = torch.stack([basis.vector(e) for e in torch.eye(basis.values.numel(), dtype=torch.float64)])
    assert float((V @ V.T - torch.eye(len(V))).abs().max()) < 1e-5
    assert basis.values.dtype == torch.float64


@laws
@given(spectrum=spectra, seed=seeds)
def test_absolute_inverse_is_that_of_the_dense_matrix_and_points_downhill(spectrum: list[float], seed: int) -> None:
    g, B = problem(spectrum, 1.0, seed)
    basis = dense_eigenbasis(g, B)
    product = absolute_inverse(basis)
    assert float(product @ g) > 0.0
    lowest = int(basis.values.argmin())
    if basis.lowest > 0.0 or abs(float(basis.coefficients[lowest])) > 0.1 * float(g.norm()):
        values, vectors = torch.linalg.eigh(B)
        torch.testing.assert_close(product, vectors @ ((vectors.T @ g) / values.abs()), rtol=1e-5, atol=1e-9 * float(product.norm()))


def test_absolute_inverse_leaves_a_saddle_the_gradient_does_not_see() -> None:
    B = torch.diag(torch.tensor([2.0, -1.0], dtype=torch.float64))
    product = absolute_inverse(whole(torch.tensor([1e-12, 0.0], dtype=torch.float64), B))
    torch.testing.assert_close(product.abs(), torch.tensor([5e-13, 1e-13], dtype=torch.float64))


@laws
@given(eigenvalues=st.lists(st.floats(-3.0, 3.0).map(lambda e: 10.0**e), min_size=1, max_size=6), seed=seeds)
def test_truncated_inverse_of_a_positive_matrix_meets_its_residual(eigenvalues: list[float], seed: int) -> None:
    g, B = problem(eigenvalues, 1.0, seed)
    for forcing in (0.5, 1e-2):
        d = truncated_inverse(g, lambda v: B @ v, SPACE, forcing)
        assert d is not None
        assert float((B @ d - g).norm()) <= 1.001 * forcing * float(g.norm()) or len(eigenvalues) > 4
        assert float(d @ g) > 0.0


@laws
@given(spectrum=spectra, seed=seeds)
def test_truncated_inverse_points_downhill_whatever_the_signs(spectrum: list[float], seed: int) -> None:
    g, B = problem(spectrum, 1.0, seed)
    d = truncated_inverse(g, lambda v: B @ v, SPACE, 1e-3)
    assert d is not None
    assert float(d @ g) > 0.0


def test_truncated_inverse_goes_against_the_gradient_on_a_ridge() -> None:
    B = torch.diag(torch.tensor([-2.0, -2.0], dtype=torch.float64))
    g = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert torch.equal(truncated_inverse(g, lambda v: B @ v, SPACE, 0.5), 0.5 * g)


def test_truncated_inverse_of_zero_is_left_to_the_caller() -> None:
    assert truncated_inverse(torch.ones(3), torch.zeros_like, SPACE, 0.5) is None
