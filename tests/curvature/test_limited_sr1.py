"""Limited-memory SR1 against the dense recursion, and its eigenbasis against a dense eigendecomposition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvature.steps import objective_of, point_at, step_to
from secant.curvature.initial import InitialScale
from secant.curvature.limited_sr1 import SHARE, SOFTENING, LimitedSR1
from secant.step import Correction, Outcome
from secant.subproblem.exact import within_radius

laws = settings(max_examples=30, deadline=None, derandomize=True)


def feed(curvature: LimitedSR1, pairs: list[tuple[Tensor, Tensor]]) -> list[Correction]:
    """Correct with given pairs, each a step of its own away from the point before."""
    n = pairs[0][0].numel()
    objective = objective_of(n)
    point = point_at(torch.zeros(n, dtype=torch.float64), pairs[0][1])
    curvature.update(objective, point, None)
    corrections = []
    for s, y in pairs:
        trial = point_at(point.x + s, point.grad + y)
        corrections.append(curvature.update(objective, trial, step_to(point, trial)))
        point = trial
    return corrections


def indefinite_pairs(n: int, count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        matrix = torch.randn(n, n, generator=generator, dtype=torch.float64)
        s = torch.randn(n, generator=generator, dtype=torch.float64)
        pairs.append((s, (matrix + matrix.T) @ s))
    return pairs


def dense_sr1(pairs: list[tuple[Tensor, Tensor]], b: float) -> tuple[Tensor, float]:
    """Nocedal & Wright (2006), eq. 6.24, and the smallest cosine of its denominators, for ``B`` and its inverse."""
    B, least = b * torch.eye(pairs[0][0].numel(), dtype=torch.float64), 1.0
    for s, y in pairs:
        r, u = y - B @ s, s - torch.linalg.solve(B, y)
        least = min(least, float((r @ s).abs() / (r.norm() * s.norm())), float((u @ y).abs() / (u.norm() * y.norm())))
        B = B + torch.outer(r, r) / (r @ s)
    return B, least


@laws
@given(n=st.integers(2, 12), memory=st.integers(1, 14), count=st.integers(1, 10), seed=st.integers(0, 2**31))
def test_compact_form_is_the_dense_recursion_over_the_newest_pairs(n: int, memory: int, count: int, seed: int) -> None:
    count = min(count, n - 1)  # the n-th residual and later ones depend on each other
    pairs = indefinite_pairs(n, count, seed)
    expected, least = dense_sr1(pairs[-memory:], 1.0 / 0.7)
    curvature = LimitedSR1(memory=memory, initial=0.7)
    assume(set(feed(curvature, pairs)) == {Correction.APPLIED})
    condition = float(torch.linalg.cond(expected))
    tolerance = 1e-12 * condition / least**2 + 1e-10
    size = float(expected.abs().max())
    torch.testing.assert_close(curvature.dense(), expected, rtol=tolerance, atol=tolerance * size)
    v = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(curvature.multiply(v), expected @ v, rtol=tolerance, atol=tolerance * size * n)
    assert float((curvature.multiply(curvature.solve(v)) - v).norm()) <= tolerance * condition * float(v.norm())
    s, y = pairs[-1]
    assert float((curvature.multiply(s) - y).norm()) <= tolerance * size * float(s.norm()), "secant equation"


def test_ten_pairs_of_one_example_agree_to_1e_minus_9() -> None:
    pairs = indefinite_pairs(30, 10, seed=8)
    curvature = LimitedSR1(memory=10, initial=0.2)
    assert set(feed(curvature, pairs)) == {Correction.APPLIED}
    expected, _ = dense_sr1(pairs, 5.0)
    torch.testing.assert_close(curvature.dense(), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert curvature.negative_eigenvalues == int((torch.linalg.eigvalsh(expected) < 0.0).sum()) > 0


@laws
@given(n=st.integers(3, 14), count=st.integers(1, 6), seed=st.integers(0, 2**31), log_radius=st.floats(-3.0, 2.0), hard=st.booleans())
def test_trust_region_step_meets_the_optimality_conditions(n: int, count: int, seed: int, log_radius: float, hard: bool) -> None:
    """Nocedal & Wright (2006), theorem 4.1, against the dense eigenvalues; and at least the Cauchy decrease."""
    curvature = LimitedSR1(memory=10, initial=0.5)
    feed(curvature, indefinite_pairs(n, count, seed))
    B, radius = curvature.dense(), 10.0**log_radius
    values, vectors = torch.linalg.eigh(B)
    g = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if hard:
        g = g - vectors[:, 0] * (vectors[:, 0] @ g)
    basis = curvature.eigenbasis(g)
    assert basis is not None
    p = within_radius(basis, radius).p
    size = float(values.abs().max())
    assert float(p.norm()) <= radius * (1.0 + 1e-10)
    shift = float(-(p @ (B @ p + g)) / (p @ p))
    assert shift >= -1e-7 * size
    assert float(values[0]) + shift >= -1e-6 * size
    assert shift * (radius - float(p.norm())) <= 1e-6 * size * radius
    assert float((B @ p + shift * p + g).norm()) <= 1e-6 * (size * float(p.norm()) + float(g.norm()))
    length, bend = float(g.norm()), float(g @ B @ g)
    cauchy = radius / length if bend <= 0.0 else min(radius / length, length**2 / bend)
    decrease = -float(g @ p + 0.5 * p @ B @ p)
    assert decrease >= (cauchy * length**2 - 0.5 * cauchy**2 * bend) * (1.0 - 1e-9)


@laws
@given(n=st.integers(4, 12), memory=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_an_overflown_ring_equals_a_fresh_memory_of_the_newest_pairs(n: int, memory: int, seed: int) -> None:
    pairs = indefinite_pairs(n, memory + 3, seed)
    worn, fresh = LimitedSR1(memory=memory, initial=0.7), LimitedSR1(memory=memory, initial=0.7)
    assume({*feed(worn, pairs), *feed(fresh, pairs[-memory:])} == {Correction.APPLIED})
    size, (_, least) = float(fresh.dense().abs().max()), dense_sr1(pairs[-memory:], 1.0 / 0.7)
    torch.testing.assert_close(worn.dense(), fresh.dense(), rtol=1e-9, atol=1e-12 * size / least**2)


def test_automatic_scale_follows_the_newest_pair_of_positive_curvature() -> None:
    curvature = LimitedSR1(memory=3, initial="auto")
    s = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    feed(curvature, [(s, torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)), (s.roll(1), torch.tensor([0.5, -3.0, 0.0], dtype=torch.float64))])
    assert float(curvature.dense()[2, 2]) == pytest.approx(SHARE * 2.5)
    assert curvature.negative_eigenvalues == 1


def test_a_pair_the_model_predicts_is_skipped_and_changes_nothing() -> None:
    s = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    curvature = LimitedSR1(memory=3, initial=0.5)
    assert feed(curvature, [(s, 2.0 * s)]) == [Correction.SKIPPED_KNOWN]
    torch.testing.assert_close(curvature.dense(), 2.0 * torch.eye(3, dtype=torch.float64))


def moved(
    n: int, s: Tensor, y: Tensor, *, x: float = 0.0, initial: InitialScale = "auto", outcomes: tuple[Outcome, ...]
) -> tuple[LimitedSR1, list[Correction]]:
    """One and the same pair from one and the same point, with a unit gradient, so that ``b`` starts at 1."""
    curvature, objective = LimitedSR1(memory=3, initial=initial), objective_of(n)
    start = point_at(torch.full((n,), x, dtype=torch.float64), torch.full((n,), n**-0.5, dtype=torch.float64))
    curvature.update(objective, start, None)
    corrections = []
    for outcome in outcomes:
        step = step_to(start, point_at(start.x + s, start.grad + y), outcome)
        corrections.append(curvature.update(objective, step.kept, step))
    return curvature, corrections


def test_straight_loss_softens_the_automatic_scale_alone() -> None:
    s, y = -torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    curvature, corrections = moved(2, s, y, outcomes=(Outcome.GAIN_RATIO,))
    assert corrections == [Correction.DAMPED]
    torch.testing.assert_close(curvature.dense(), 0.1 * torch.eye(2, dtype=torch.float64))
    curvature, corrections = moved(2, s, y, initial=1.0, outcomes=(Outcome.GAIN_RATIO,))
    assert corrections == [Correction.SKIPPED_DENOMINATOR]
    torch.testing.assert_close(curvature.dense(), torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize(("initial", "expected"), [("auto", SOFTENING), (1.0, 1.0)])
def test_step_that_ends_in_rounding_softens_the_automatic_scale_alone(initial: InitialScale, expected: float) -> None:
    s = torch.full((2,), 1e-15, dtype=torch.float64)
    curvature, corrections = moved(2, s, s, x=1.0, initial=initial, outcomes=(Outcome.APPROXIMATE_GAIN,))
    assert corrections == [Correction.SKIPPED_ROUNDING]
    torch.testing.assert_close(curvature.dense(), expected * torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize(("outcome", "expected"), [(Outcome.GAIN_RATIO, Correction.SKIPPED_KNOWN), (Outcome.REJECTED, Correction.APPLIED)])
def test_pair_of_a_rejected_step_drives_out_the_pairs_that_claim_to_know_it(outcome: Outcome, expected: Correction) -> None:
    s, y = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([3.0, 1.0], dtype=torch.float64)
    curvature, corrections = moved(2, s, y, outcomes=(Outcome.GAIN_RATIO, outcome))
    assert corrections == [Correction.APPLIED, expected]
    torch.testing.assert_close(curvature.multiply(s), y)


def test_eigenvalues_far_below_the_scale_keep_their_digits() -> None:
    """As shifts of ``b`` they would be lost: 1e-12 is below the rounding of 50."""
    vectors = torch.linalg.qr(torch.tensor([[3.0, 1.0], [1.0, -3.0]], dtype=torch.float64)).Q
    values = torch.tensor([1e-12, 1.0], dtype=torch.float64)
    curvature = LimitedSR1(memory=5, initial=0.02)
    pairs = [(vectors[:, i], values[i] * vectors[:, i]) for i in range(2)]
    assert set(feed_exactly(curvature, pairs)) == {Correction.APPLIED}
    basis = curvature.eigenbasis(vectors[:, 0] + vectors[:, 1])
    assert basis is not None
    torch.testing.assert_close(basis.values.sort().values[:2], values, rtol=1e-9, atol=0.0)


def feed_exactly(curvature: LimitedSR1, pairs: list[tuple[Tensor, Tensor]]) -> list[Correction]:
    """Every pair from the origin with gradient zero, so that it is stored without rounding."""
    zero = torch.zeros_like(pairs[0][0])
    start, objective = point_at(zero, zero), objective_of(zero.numel())
    curvature.update(objective, start, None)
    return [curvature.update(objective, start, step_to(start, point_at(s, y), Outcome.GAIN_RATIO)) for s, y in pairs]
