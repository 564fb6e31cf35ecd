"""Limited-memory BFGS against the dense recursion."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvature.steps import objective_of, point_at, random_positive_definite, step_to
from secant.curvature.initial import InitialScale
from secant.curvature.limited_bfgs import LimitedBFGS
from secant.step import Correction

laws = settings(max_examples=30, deadline=None, derandomize=True)


def feed(curvature: LimitedBFGS, pairs: list[tuple[Tensor, Tensor]]) -> list[Correction]:
    """Correct with given pairs, each a step of its own away from the point before."""
    n, dtype = pairs[0][0].numel(), pairs[0][0].dtype
    objective = objective_of(n, dtype)
    point = point_at(torch.zeros(n, dtype=dtype), pairs[0][1])
    corrections = [curvature.update(objective, point, None)]
    for s, y in pairs:
        trial = point_at(point.x + s, point.grad + y)
        corrections.append(curvature.update(objective, trial, step_to(point, trial)))
        point = trial
    return corrections


def pairs_of(n: int, count: int, seed: int, log_condition: float = 2.0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    steps = [torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [(s, random_positive_definite(n, log_condition, generator) @ s) for s in steps]


def dense_bfgs(pairs: list[tuple[Tensor, Tensor]], gamma: float) -> Tensor:
    """Nocedal & Wright (2006), eq. 6.17."""
    identity = torch.eye(pairs[0][0].numel(), dtype=torch.float64)
    H = gamma * identity
    for s, y in pairs:
        rho = 1.0 / (s @ y)
        V = identity - rho * torch.outer(y, s)
        H = V.T @ H @ V + rho * torch.outer(s, s)
    return H


@laws
@given(n=st.integers(1, 12), memory=st.integers(1, 15), count=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_compact_form_is_the_dense_recursion_over_the_newest_pairs(n: int, memory: int, count: int, seed: int) -> None:
    pairs = pairs_of(n, count, seed)
    choices: tuple[InitialScale, ...] = (0.7, "auto")
    for initial in choices:
        curvature = LimitedBFGS(memory=memory, initial=initial)
        assert feed(curvature, pairs)[1:] == [Correction.APPLIED] * count
        s, y = pairs[-1]
        expected = dense_bfgs(pairs[-memory:], 0.7 if initial != "auto" else float(s @ y / (y @ y)))
        size = float(expected.abs().max())
        torch.testing.assert_close(curvature.dense_inverse(), expected, rtol=1e-9, atol=1e-9 * size)
        v = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.testing.assert_close(curvature.solve(v), expected @ v, rtol=1e-9, atol=1e-9 * size * n)
        assert float((curvature.solve(y) - s).norm()) <= 1e-9 * size * float(y.norm())


@laws
@given(n=st.integers(2, 12), memory=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_an_overflown_ring_equals_a_fresh_memory_of_the_newest_pairs(n: int, memory: int, seed: int) -> None:
    pairs = pairs_of(n, memory + 5, seed)
    worn, fresh = LimitedBFGS(memory=memory, initial="auto"), LimitedBFGS(memory=memory, initial="auto")
    feed(worn, pairs)
    feed(fresh, pairs[-memory:])
    torch.testing.assert_close(worn.dense_inverse(), fresh.dense_inverse(), rtol=1e-9, atol=1e-9 * float(fresh.dense_inverse().abs().max()))


def test_thousands_of_steps_lose_no_digits() -> None:
    curvature, pairs = LimitedBFGS(memory=7, initial="auto"), pairs_of(5, 3000, seed=1)
    feed(curvature, pairs)
    s, y = pairs[-1]
    expected = dense_bfgs(pairs[-7:], float(s @ y / (y @ y)))
    torch.testing.assert_close(curvature.dense_inverse(), expected, rtol=1e-8, atol=1e-8 * float(expected.abs().max()))


@pytest.mark.parametrize("exponent", [-70, 70])
def test_float32_gradients_of_1e_minus_21_and_1e21_give_the_same_directions(exponent: int) -> None:
    pairs = [(s.float(), y.float()) for s, y in pairs_of(6, 4, seed=2)]
    plain, scaled = LimitedBFGS(memory=3, initial="auto"), LimitedBFGS(memory=3, initial="auto")
    feed(plain, pairs)
    feed(scaled, [(s, y * 2.0**exponent) for s, y in pairs])
    v = torch.linspace(-1.0, 1.0, 6)
    assert torch.equal(plain.solve(v), scaled.solve(v * 2.0**exponent))


def test_a_pair_of_negative_curvature_is_refused_with_its_reason() -> None:
    s, y = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert feed(LimitedBFGS(memory=3, initial="auto"), [(s, y)])[-1] is Correction.SKIPPED_CURVATURE


def test_rates_of_groups_give_the_recursion_from_their_diagonal() -> None:
    pairs, diagonal = pairs_of(4, 3, seed=3), torch.tensor([1.0, 1.0, 0.3, 0.3], dtype=torch.float64)
    curvature = LimitedBFGS(memory=5, initial=2.0)
    objective = objective_of(4)
    objective.initial_scales = lambda: diagonal  # type: ignore[method-assign]
    point = point_at(torch.zeros(4, dtype=torch.float64), pairs[0][1])
    curvature.update(objective, point, None)
    H = 2.0 * torch.diag(diagonal)
    for s, y in pairs:
        trial = point_at(point.x + s, point.grad + y)
        curvature.update(objective, trial, step_to(point, trial))
        point, V = trial, torch.eye(4, dtype=torch.float64) - torch.outer(y, s) / (s @ y)
        H = V.T @ H @ V + torch.outer(s, s) / (s @ y)
    torch.testing.assert_close(curvature.dense_inverse(), H, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(curvature.solve(pairs[0][0]), H @ pairs[0][0], rtol=1e-10, atol=1e-10)
