"""SR1, of the inverse alone and of the Hessian beside it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curvature.steps import objective_of, point_at, step_to, walk
from secant.curvature.sr1 import SR1, InverseSR1
from secant.step import Correction, Outcome

seeds = st.integers(0, 2**31)
laws = settings(max_examples=40, deadline=None, derandomize=True)


def pairs_of(A: torch.Tensor, count: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    steps = [torch.randn(A.shape[0], generator=generator, dtype=torch.float64) for _ in range(count)]
    return [(s, A @ s) for s in steps]


def feed(curvature: SR1 | InverseSR1, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[Correction]:
    """Correct with given pairs: every step starts at the origin with a zero gradient, so that nothing is rounded."""
    n = pairs[0][0].numel()
    objective = objective_of(n)
    origin = point_at(torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))
    curvature.update(objective, origin, None)
    return [curvature.update(objective, origin, step_to(origin, point_at(s, y), Outcome.REJECTED)) for s, y in pairs]


def symmetric(n: int, log_condition: float, indefinite: bool, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(0.0, log_condition, n, dtype=torch.float64)
    if indefinite:
        values[::2] *= -1.0
    matrix = (vectors * values) @ vectors.T
    return 0.5 * (matrix + matrix.T)


@pytest.mark.parametrize("kind", [SR1, InverseSR1])
@laws
@given(n=st.integers(1, 10), seed=seeds)
def test_corrected_inverse_is_the_textbook_formula(kind: type[SR1 | InverseSR1], n: int, seed: int) -> None:
    curvature = kind(initial=1.0)
    for done in walk(curvature, n, 5, seed):
        r = done.s - done.before @ done.y
        relative = abs(r @ done.y) / (np.linalg.norm(r) * np.linalg.norm(done.y) or 1.0)
        if done.correction is Correction.SKIPPED_DENOMINATOR:
            assert np.array_equal(curvature.dense_inverse().numpy(), done.before)
            assert relative < 1e-6 or kind is SR1
            continue
        assert relative > 1e-9
        expected = done.before + np.outer(r, r) / (r @ done.y)
        H = curvature.dense_inverse().numpy()
        # r itself is a difference whose digits go with its size against s and H y, and the quotient divides by relative.
        scale = np.abs(done.before).max() + np.abs(expected).max()
        loss = (np.linalg.norm(done.s) + np.linalg.norm(done.before, 2) * np.linalg.norm(done.last.start.grad.numpy() + done.y)) / np.linalg.norm(r) / relative
        assert np.abs(H - expected).max() <= 1e-14 * loss * n * scale
        assert np.linalg.norm(H @ done.y - done.s) <= 1e-14 * loss * n * scale * np.linalg.norm(done.y)


@laws
@given(n=st.integers(1, 10), log_condition=st.floats(0.0, 3.0), indefinite=st.booleans(), seed=seeds)
def test_model_and_inverse_stay_inverse_to_each_other(n: int, log_condition: float, indefinite: bool, seed: int) -> None:
    curvature = SR1(initial=0.7)
    feed(curvature, pairs_of(symmetric(n, log_condition, indefinite, seed), n, seed))
    B = curvature.dense()
    assert torch.equal(B, B.T)
    v = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert torch.allclose(curvature.multiply(v), B @ v, rtol=1e-11, atol=1e-12 * float(B.abs().max()) * n)
    # Corrections close to their skip limit lose up to eight digits.
    tolerance = 1e-6 * max(1.0, 1e-6 * float(torch.linalg.cond(B)))
    assert float((curvature.multiply(curvature.solve(v)) - v).norm()) <= tolerance * float(v.norm())


@laws
@given(n=st.integers(1, 12), log_condition=st.floats(0.0, 3.0), indefinite=st.booleans(), seed=seeds)
def test_inertia_is_counted_right_without_a_factorization(n: int, log_condition: float, indefinite: bool, seed: int) -> None:
    curvature = SR1(initial=0.7)
    objective = objective_of(n)
    origin = point_at(torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))
    curvature.update(objective, origin, None)
    for s, y in pairs_of(symmetric(n, log_condition, indefinite, seed), n + 2, seed):
        curvature.update(objective, origin, step_to(origin, point_at(s, y), Outcome.REJECTED))
        values = torch.linalg.eigvalsh(curvature.dense())
        if float(values.abs().min() / values.abs().max()) > 1e-9:
            assert curvature.negative_eigenvalues == int((values < 0.0).sum())


@pytest.mark.parametrize("indefinite", [False, True])
@pytest.mark.parametrize("n", [10, 30])
@pytest.mark.parametrize("log_condition", [0.0, 2.0, 4.0])
def test_independent_pairs_recover_the_quadratic(n: int, log_condition: float, indefinite: bool) -> None:
    """n random independent pairs give ``||H A - I|| <= 1e-6`` for conditions up to 1e4, indefinite or not (Nocedal & Wright, theorem 6.1)."""
    for seed in range(3):
        A = symmetric(n, log_condition, indefinite, seed)
        for kind in (SR1, InverseSR1):
            curvature = kind(initial=0.7)
            corrections = feed(curvature, pairs_of(A, n, seed + 50))
            assert set(corrections) <= {Correction.APPLIED} or log_condition == 0.0
            assert float((curvature.dense_inverse() @ A - torch.eye(n).double()).norm()) <= 1e-6


def test_pair_the_model_knows_already_is_skipped() -> None:
    curvature = SR1(initial=1.0)
    s = torch.tensor([1.0, 2.0]).double()
    assert feed(curvature, [(s, s)]) == [Correction.SKIPPED_DENOMINATOR]
    assert torch.equal(curvature.dense(), torch.eye(2).double())
    assert curvature.negative_eigenvalues == 0


@pytest.mark.parametrize(("angle", "expected"), [(0.9e-8, Correction.SKIPPED_DENOMINATOR), (1.2e-8, Correction.APPLIED)])
def test_correction_is_skipped_where_its_denominator_is_below_the_stated_share(angle: float, expected: Correction) -> None:
    """``|r.y| < 1e-8 |r| |y|`` with ``r = s - y`` for ``H = I``; the dual condition for ``B`` holds with the same numbers."""
    y = torch.tensor([1.0, 0.0]).double()
    r = torch.tensor([angle, 1.0]).double()
    assert feed(InverseSR1(initial=1.0), [(y + r, y)]) == [expected]


def test_negative_curvature_is_learned() -> None:
    curvature = SR1(initial=1.0)
    assert feed(curvature, [(torch.tensor([1.0, 0.0]).double(), torch.tensor([-2.0, 0.0]).double())]) == [Correction.APPLIED]
    assert torch.allclose(curvature.dense(), torch.diag(torch.tensor([-2.0, 1.0]).double()))
    assert curvature.negative_eigenvalues == 1


def test_tiny_curvatures_are_counted_without_underflow() -> None:
    """Both denominators are 1e-170: their product is zero in floating point, their signs are not."""
    curvature = SR1(initial=1.0)
    s = torch.tensor([2.0**-282, 0.0], dtype=torch.float64)
    assert feed(curvature, [(s, -2.0 * s)]) == [Correction.APPLIED]
    assert float(torch.linalg.eigvalsh(curvature.dense())[0]) < 0.0
    assert curvature.negative_eigenvalues == 1


@laws
@given(n=st.integers(2, 10), seed=seeds)
def test_remembered_product_is_the_corrected_inverse_times_the_new_gradient(n: int, seed: int) -> None:
    curvature = SR1(initial=1.0)
    for done in walk(curvature, n, 6, seed, fixed=True):
        assert done.last.trial is not None
        gradient = done.last.trial.grad
        H = curvature.dense_inverse()
        scale = (float(torch.linalg.matrix_norm(H, 2)) + np.linalg.norm(done.before, 2)) * float(gradient.norm())
        assert float((curvature.solve(gradient) - H @ gradient).norm()) <= 1e-11 * scale


def test_restored_curvature_goes_on_bit_for_bit() -> None:
    curvature, restored = SR1(initial=1.0), SR1(initial=1.0)
    for _ in walk(curvature, 5, 20, seed=0):
        pass
    restored.load(curvature.state(), torch.empty(0, dtype=torch.float64))
    objective = objective_of(5)
    generator = torch.Generator().manual_seed(3)
    start = point_at(*(torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(2)))
    trial = point_at(*(torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(2)))
    assert curvature.update(objective, trial, step_to(start, trial)) is restored.update(objective, trial, step_to(start, trial))
    assert torch.equal(curvature.dense(), restored.dense())
    assert torch.equal(curvature.solve(trial.grad), restored.solve(trial.grad))
    assert curvature.negative_eigenvalues == restored.negative_eigenvalues
