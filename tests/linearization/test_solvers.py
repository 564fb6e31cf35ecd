"""Every solver finds the step of the dense least-squares problem."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import secant.linearization.orthogonal as orthogonal
import secant.linearization.woodbury as woodbury
from linearization.models import DIRECT, DOUBLE, MODELS, Linear, random_linear, reference
from secant.linearization.cholesky import NormalEquations

SHAPES = [(7, 12), (9, 9), (60, 9), (5, 1), (1, 6), (1, 1)]
EXACT = ["qr", "woodbury", "sketch of all rows"]

every_model = pytest.mark.parametrize("name", MODELS)
every_direct = pytest.mark.parametrize("name", DIRECT)


def ones(linear: Linear) -> torch.Tensor:
    return torch.ones(linear.J.shape[1], dtype=DOUBLE)


@pytest.mark.parametrize("damping", [1e-6, 1e-2, 10.0])
@pytest.mark.parametrize(("rows", "size"), SHAPES)
@every_model
def test_damped_step_is_that_of_the_stacked_least_squares_problem(name: str, rows: int, size: int, damping: float) -> None:
    linear = random_linear(rows, size)
    for scale in (ones(linear), torch.logspace(-1, 1, size, dtype=DOUBLE)):
        step = MODELS[name](linear.blocks()).damped(damping, scale)
        torch.testing.assert_close(step.p, reference(linear, damping, scale), rtol=1e-8, atol=1e-8)


@every_model
def test_what_the_model_promises_is_the_decrease_of_the_linear_residuals(name: str) -> None:
    linear = random_linear(20, 6, seed=1)
    step = MODELS[name](linear.blocks()).damped(0.05, ones(linear))
    left = 0.5 * (linear.r + linear.J @ step.p).square().sum()
    assert step.predicted == pytest.approx(float(0.5 * linear.r.square().sum() - left), rel=1e-9)
    assert step.slope == pytest.approx(float(linear.g @ step.p), rel=1e-9)
    assert step.length == pytest.approx(float(step.p.norm()), rel=1e-12)
    assert step.curvature == pytest.approx(float((linear.J @ step.p).square().sum()), rel=1e-9)


@pytest.mark.parametrize(("rows", "size", "rank"), [(30, 8, 5), (8, 8, 3), (5, 8, 5), (5, 8, 2), (6, 1, 1)])
@pytest.mark.parametrize("name", EXACT)
def test_without_damping_the_step_is_the_shortest_minimizer(name: str, rows: int, size: int, rank: int) -> None:
    linear = random_linear(rows, size, rank=rank)
    model = MODELS[name](linear.blocks())
    expected = -torch.linalg.pinv(linear.J, rtol=1e-12) @ linear.r
    torch.testing.assert_close(model.damped(0.0, ones(linear)).p, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.solve(linear.g), -expected, rtol=1e-8, atol=1e-8)


def test_normal_equations_of_deficient_rank_leave_the_residual_of_the_minimizer_and_say_that_digits_were_lost() -> None:
    linear = random_linear(30, 8, rank=5)
    model = NormalEquations(linear.blocks(), 8)
    assert not model.is_at_rounding
    p = model.damped(0.0, ones(linear)).p
    best = linear.r - linear.J @ torch.linalg.pinv(linear.J, rtol=1e-12) @ linear.r
    assert float((linear.r + linear.J @ p).norm()) == pytest.approx(float(best.norm()), rel=1e-8)
    assert model.is_at_rounding


@every_model
def test_damped_solve_inverts_the_damped_matrix_for_what_the_rows_reach(name: str) -> None:
    linear = random_linear(40, 6, seed=2)
    scale = torch.logspace(-1, 1, 6, dtype=DOUBLE)
    u = torch.randn(40, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    found = MODELS[name](linear.blocks()).damped_solve(linear.J.T @ u, 0.03, scale)
    torch.testing.assert_close(found, reference(linear, 0.03, scale, linear.J.T @ u), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["qr", "woodbury"])
def test_damped_solve_keeps_its_digits_where_the_damping_is_below_rounding(name: str) -> None:
    linear = random_linear(6, 10, condition=1e5)
    u = torch.randn(6, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    found = MODELS[name](linear.blocks()).damped_solve(linear.J.T @ u, 1e-17, ones(linear))
    torch.testing.assert_close(found, torch.linalg.pinv(linear.J) @ u, rtol=1e-5, atol=1e-5 * float(u.norm()))


@every_model
def test_product_dense_matrix_and_column_norms_are_those_of_the_jacobian(name: str) -> None:
    linear = random_linear(25, 7, seed=4)
    model = MODELS[name](linear.blocks())
    v = torch.linspace(-1.0, 2.0, 7, dtype=DOUBLE)
    torch.testing.assert_close(model.multiply(v), linear.J.T @ (linear.J @ v))
    torch.testing.assert_close(model.dense(), linear.J.T @ linear.J)
    if name != "cg":
        torch.testing.assert_close(model.column_squares, linear.J.square().sum(0))


@pytest.mark.parametrize("sizes", [(1, 30, 2), (13,), (0, 20), (1, 1, 1, 1)])
@every_model
def test_ragged_blocks_change_nothing_beyond_rounding(name: str, sizes: tuple[int, ...]) -> None:
    linear = random_linear(41, 9, seed=5)
    whole = MODELS[name](linear.blocks()).damped(1e-3, ones(linear)).p
    torch.testing.assert_close(MODELS[name](linear.blocks(*sizes)).damped(1e-3, ones(linear)).p, whole, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@every_model
def test_zero_jacobian_gives_the_zero_step(name: str, damping: float) -> None:
    linear = Linear(torch.ones(4, dtype=DOUBLE), torch.zeros(4, 3, dtype=DOUBLE))
    step = MODELS[name](linear.blocks()).damped(damping, ones(linear))
    assert torch.equal(step.p, torch.zeros(3, dtype=DOUBLE))
    assert step.predicted == 0.0


@every_direct
def test_a_parameter_without_influence_stays_where_it_is(name: str) -> None:
    linear = random_linear(12, 4, seed=6)
    linear.J[:, 2] = 0.0
    for damping in (0.0, 1e-2):
        p = DIRECT[name](linear.blocks()).damped(damping, ones(linear)).p
        assert abs(float(p[2])) <= 1e-12 * float(p.norm())
        torch.testing.assert_close(p, reference(linear, damping, ones(linear)), rtol=1e-8, atol=1e-9)


@every_direct
def test_columns_of_very_different_lengths_keep_their_digits(name: str) -> None:
    linear = random_linear(30, 6, seed=7)
    units = torch.logspace(4, -7, 6, dtype=DOUBLE)
    scaled = Linear(linear.r, linear.J * units)
    squares = scaled.J.square().sum(0)
    step = DIRECT[name](scaled.blocks()).damped(1e-3, squares)
    torch.testing.assert_close(step.p * units, reference(linear, 1e-3, linear.J.square().sum(0)), rtol=1e-8, atol=1e-9)
    step = DIRECT[name](scaled.blocks()).damped(0.0, squares)
    torch.testing.assert_close(step.p * units, -torch.linalg.pinv(linear.J) @ linear.r, rtol=1e-7, atol=1e-8)


def test_normal_equations_at_rounding_keep_the_digits_of_short_columns() -> None:
    linear = random_linear(30, 6, seed=7)
    linear.J[:, 1] = linear.J[:, 0]
    units = torch.tensor([1.0, 1.0, 1.0, 1e-9, 1.0, 1.0], dtype=DOUBLE)
    step = NormalEquations(Linear(linear.r, linear.J * units).blocks(), 6).damped(0.0, ones(linear))
    torch.testing.assert_close((step.p * units)[2:], (-torch.linalg.pinv(linear.J) @ linear.r)[2:], rtol=1e-6, atol=1e-7)


@every_direct
def test_single_precision_rows_are_worked_on_in_double_precision(name: str) -> None:
    linear = random_linear(30, 8, seed=8, condition=1e3)
    narrow = Linear(linear.r.float(), linear.J.float())
    step = DIRECT[name](narrow.blocks()).damped(1e-8, ones(linear))
    torch.testing.assert_close(step.p.double(), reference(narrow, 1e-8, ones(linear)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["qr", "woodbury"])
def test_small_singular_values_keep_digits_that_the_squared_condition_would_lose(name: str) -> None:
    linear = random_linear(12, 12 if name == "qr" else 20, seed=9, condition=1e10)
    step = MODELS[name](linear.blocks()).damped(1e-24, ones(linear))
    assert float((linear.r + linear.J @ step.p).norm()) < 1e-4 * float(linear.r.norm())


@pytest.mark.parametrize("damping", [1e-2, 1e-24])
def test_the_two_ways_to_decompose_agree_and_small_damping_takes_the_accurate_one(damping: float, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = random_linear(12, 20, seed=9, condition=1e10)
    expected = MODELS["woodbury"](linear.blocks()).damped(damping, ones(linear)).p
    monkeypatch.setattr(woodbury, "FACTORS_BELOW", 0)
    found = MODELS["woodbury"](linear.blocks()).damped(damping, ones(linear)).p
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.norm()))


@pytest.mark.parametrize("rows", [5, 12, 40])
def test_singular_values_and_triangles_give_the_same_step(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, scale = random_linear(rows, 12, seed=10), torch.logspace(-1, 1, 12, dtype=DOUBLE)
    v = linear.J.T @ torch.ones(rows, dtype=DOUBLE)
    monkeypatch.setattr(orthogonal, "_DECOMPOSED_FROM", 0)
    expected, solved = MODELS["qr"](linear.blocks()).damped(1e-4, scale).p, MODELS["qr"](linear.blocks()).damped_solve(v, 1e-4, scale)
    monkeypatch.setattr(orthogonal, "DECOMPOSED_BELOW", 0)
    torch.testing.assert_close(MODELS["qr"](linear.blocks()).damped(1e-4, scale).p, expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(MODELS["qr"](linear.blocks()).damped_solve(v, 1e-4, scale), solved, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(("rows", "rank"), [(30, 6), (30, 3), (4, 4)])
def test_dense_inverse_of_the_factors_is_the_pseudo_inverse(rows: int, rank: int) -> None:
    linear = random_linear(rows, 6, rank=min(rank, rows), seed=11)
    expected = torch.linalg.pinv(linear.J, rtol=1e-12)
    found = orthogonal.OrthogonalFactors(linear.blocks(), 6).dense_inverse()
    torch.testing.assert_close(found, expected @ expected.T, rtol=1e-9, atol=1e-9)
    assert torch.equal(found, found.T)


@every_direct
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 12), size=st.integers(1, 12), exponent=st.integers(-60, 60), log_damping=st.floats(-8.0, 3.0), seed=st.integers(0, 10**6))
def test_residuals_times_a_power_of_two_change_no_bit_of_the_step(name: str, rows: int, size: int, exponent: int, log_damping: float, seed: int) -> None:
    linear = random_linear(rows, size, seed=seed)
    factor, damping = 2.0**exponent, 10.0**log_damping
    scaled = Linear(linear.r * factor, linear.J * factor)
    expected = DIRECT[name](linear.blocks()).damped(damping, ones(linear)).p
    assert torch.equal(DIRECT[name](scaled.blocks()).damped(damping * factor**2, ones(linear)).p, expected)


@every_direct
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 15), size=st.integers(1, 10), rank=st.integers(1, 10), log_damping=st.floats(-6.0, 2.0), seed=st.integers(0, 10**6))
def test_more_damping_makes_a_shorter_step_that_promises_less(name: str, rows: int, size: int, rank: int, log_damping: float, seed: int) -> None:
    linear = random_linear(rows, size, seed=seed, rank=min(rank, rows, size))
    model = DIRECT[name](linear.blocks())
    near, far = model.damped(10.0**log_damping, ones(linear)), model.damped(10.0 ** (log_damping + 1.0), ones(linear))
    assert far.length <= near.length * (1.0 + 1e-9)
    assert far.predicted <= near.predicted * (1.0 + 1e-9)
    assert far.predicted >= 0.0
