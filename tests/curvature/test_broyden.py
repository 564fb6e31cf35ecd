"""The Broyden class against the formula of the page, evaluated densely in NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curvature.steps import Corrected, objective_of, point_at, step_to, walk
from secant.curvature.broyden import Broyden
from secant.curvature.scaling import FixedMember, Member, MemberRule, self_scaled_bfgs, self_scaled_broyden
from secant.step import Correction, Outcome

RULES: dict[str, MemberRule] = {
    "bfgs": FixedMember(0.0),
    "dfp": FixedMember(1.0),
    "half": FixedMember(0.5),
    "beyond dfp": FixedMember(3.0),
    "before bfgs": FixedMember(-0.05),
    "ssbfgs": self_scaled_bfgs,
    "ssbroyden": self_scaled_broyden,
}
seeds = st.integers(0, 2**31)
laws = settings(max_examples=40, deadline=None, derandomize=True)


def textbook(H: np.ndarray, s: np.ndarray, y: np.ndarray, member: Member) -> np.ndarray:
    """``H+`` as the papers print it; ``s.Bs`` by a linear solve instead of from the step length."""
    w, rho = H @ y, 1.0 / (s @ y)
    v = rho * s - w / (y @ w)
    a = rho * (y @ w) * rho * (s @ np.linalg.solve(H, s)) - 1.0
    phi = (1.0 - member.theta) / (1.0 + a * member.theta)
    return (H - np.outer(w, w) / (y @ w) + phi * (y @ w) * np.outer(v, v)) / member.tau + rho * np.outer(s, s)


def ratios(done: Corrected) -> tuple[float, float]:
    """``h = y.Hy / s.y`` and ``b = s.Bs / s.y``."""
    sy = done.s @ done.y
    return float(done.y @ done.before @ done.y / sy), float(done.s @ np.linalg.solve(done.before, done.s) / sy)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@laws
@given(n=st.integers(2, 10), seed=seeds, fixed=st.booleans())
def test_corrected_inverse_is_the_textbook_formula(rule: MemberRule, n: int, seed: int, fixed: bool) -> None:
    curvature = Broyden(rule, initial=1.0)
    for done in walk(curvature, n, 4, seed, fixed=fixed):
        h, b = ratios(done)
        member = rule(h, b, n)
        if done.correction is Correction.SKIPPED_THETA:
            assert 1.0 + (h * b - 1.0) * member.theta < 1e-10
            continue
        assert done.correction is Correction.APPLIED
        expected = textbook(done.before, done.s, done.y, member)
        # H y is a difference of two products and s.Bs a solve: both lose digits with the condition of H.
        # Near the degenerate theta every form of the formula loses as much as sigma is small.
        sigma = 1.0 + (h * b - 1.0) * member.theta
        tolerance = 1e-11 * np.linalg.cond(done.before) * max(1.0, h * b / sigma) * (np.abs(done.before).max() / member.tau + np.abs(expected).max())
        assert np.abs(curvature.dense_inverse().numpy() - expected).max() <= tolerance


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@laws
@given(n=st.integers(1, 10), seed=seeds, fixed=st.booleans())
def test_secant_equation_holds_and_the_inverse_stays_positive_definite(rule: MemberRule, n: int, seed: int, fixed: bool) -> None:
    curvature = Broyden(rule, initial=1.0)
    for done in walk(curvature, n, 4, seed, fixed=fixed):
        if done.correction is Correction.SKIPPED_THETA:
            assert np.array_equal(curvature.dense_inverse().numpy(), done.before)
            continue
        H = curvature.dense_inverse().numpy()
        scale = np.linalg.norm(H, 2) * np.linalg.norm(done.y) + np.linalg.norm(done.before, 2) * np.linalg.norm(done.y)
        assert np.linalg.norm(H @ done.y - done.s) <= 1e-11 * scale
        # Far beyond DFP the member is so close to singular that rounding of its largest eigenvalue hides the sign of its least.
        assert np.linalg.eigvalsh(H)[0] > -1e-14 * np.linalg.norm(H, 2)
        if not isinstance(rule, FixedMember) or 0.0 <= rule.theta <= 1.0:
            assert np.linalg.eigvalsh(H)[0] > 0.0


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@laws
@given(n=st.integers(2, 10), seed=seeds)
def test_remembered_product_is_the_corrected_inverse_times_the_new_gradient(rule: MemberRule, n: int, seed: int) -> None:
    curvature = Broyden(rule, initial=1.0)
    for done in walk(curvature, n, 5, seed, fixed=True):
        assert done.last.trial is not None
        gradient = done.last.trial.grad.numpy()
        remembered = curvature.solve(done.last.trial.grad).numpy()
        H = curvature.dense_inverse().numpy()
        scale = (np.linalg.norm(H, 2) + np.linalg.norm(done.before, 2)) * np.linalg.norm(gradient)
        assert np.linalg.norm(remembered - H @ gradient) <= 1e-12 * scale


@laws
@given(n=st.integers(2, 8), seed=seeds, offset=st.sampled_from([0.0, 1e-15, -1e-12, 1e-8, -1e-4]))
def test_member_whose_factor_of_s_s_vanishes_loses_no_digits(n: int, seed: int, offset: float) -> None:
    """Beyond DFP the factor ``rho (1 + phi h)`` of ``s s'`` changes sign; the correction itself is regular there."""
    (probe,) = walk(Broyden(FixedMember(0.0), initial=1.0), n, 1, seed)
    h, b = ratios(probe)
    if h * (1.0 - b) + 1.0 < 0.1 or b > 0.99:
        return
    theta = (1.0 + h) / (h * (1.0 - b) + 1.0) * (1.0 + offset)
    curvature = Broyden(FixedMember(theta), initial=1.0)
    (done,) = walk(curvature, n, 1, seed)
    assert done.correction is Correction.APPLIED
    expected = textbook(done.before, done.s, done.y, Member(theta))
    sigma = 1.0 + (h * b - 1.0) * theta
    tolerance = 1e-12 * max(1.0, h * b / sigma) * (1.0 + np.abs(expected).max())
    assert np.abs(curvature.dense_inverse().numpy() - expected).max() <= tolerance


@pytest.mark.parametrize("rule", [FixedMember(0.0), self_scaled_bfgs, self_scaled_broyden])
def test_one_parameter_gives_the_quotient_of_the_pair(rule: MemberRule) -> None:
    for ratio in (1e-6, 0.3, 1.0, 7.0, 1e6):
        curvature, objective = Broyden(rule, initial=1.0), objective_of(1)
        start = point_at(torch.tensor([2.0]).double(), torch.tensor([-3.0]).double())
        curvature.update(objective, start, None)
        trial = point_at(start.x - 0.5 * start.grad, start.grad - 0.5 * ratio * start.grad)
        assert curvature.update(objective, trial, step_to(start, trial)) is Correction.APPLIED
        # y itself is a difference: 1e-16 of the gradient is 1e-10 of a y of 1e-6.
        assert curvature.dense_inverse().item() == pytest.approx(1.0 / ratio, rel=1e-9)


def test_small_gradient_change_is_multiplied_afresh() -> None:
    """``|H y|`` is 1e-9 of ``|H g|``: the difference of the two products would keep seven digits."""
    torch.manual_seed(0)
    n = 6
    curvature, objective = Broyden(FixedMember(0.0), initial=1.0), objective_of(n)
    for _ in walk(curvature, n, 5, seed=3):
        pass
    H = curvature.dense_inverse()
    # Powers of two and short mantissas make y exact although it is small against g.
    g = torch.round(torch.randn(n).double() * 64.0) / 64.0
    g = torch.where(g == 0.0, torch.ones_like(g), g)
    x = torch.zeros(n, dtype=torch.float64)
    start = point_at(x, g)
    s = -(2.0**-40) * curvature.solve(g)
    y = torch.round(torch.randn(n).double() * 64.0) * 2.0**-40
    y = y if float(y @ s) > 0.0 else -y
    trial = point_at(x + s, g + y)
    assert torch.equal(trial.grad - g, y)
    assert float((H @ y).norm()) < 1e-8 * float((H @ g).norm())
    assert curvature.update(objective, trial, step_to(start, trial)) is Correction.APPLIED
    expected = textbook(H.numpy(), s.numpy(), y.numpy(), Member(0.0))
    assert np.abs(curvature.dense_inverse().numpy() - expected).max() <= 1e-12 * np.abs(expected).max()


@pytest.mark.parametrize("curvature_along", [-1.0, 0.0, 1e-15])
def test_pair_without_positive_curvature_changes_nothing(curvature_along: float) -> None:
    n = 4
    curvature, objective = Broyden(FixedMember(0.0), initial=1.0), objective_of(n)
    start = point_at(torch.zeros(n).double(), torch.tensor([1.0, 0.0, 0.0, 0.0]).double())
    curvature.update(objective, start, None)
    trial = point_at(-start.grad, start.grad + torch.tensor([-curvature_along, 1.0, 0.0, 0.0]).double())
    assert curvature.update(objective, trial, step_to(start, trial)) is Correction.SKIPPED_CURVATURE
    assert torch.equal(curvature.dense_inverse(), torch.eye(n).double())
    assert torch.equal(curvature.solve(trial.grad), trial.grad)


def test_rejected_trial_still_corrects_the_inverse() -> None:
    curvature, objective = Broyden(FixedMember(0.0), initial=1.0), objective_of(2)
    start = point_at(torch.zeros(2).double(), torch.tensor([1.0, 2.0]).double())
    curvature.update(objective, start, None)
    trial = point_at(-start.grad, torch.tensor([-3.0, -5.0]).double())
    assert curvature.update(objective, start, step_to(start, trial, Outcome.NO_DECREASE)) is Correction.APPLIED
    s, y = trial.x - start.x, trial.grad - start.grad
    assert torch.allclose(curvature.dense_inverse() @ y, s, rtol=1e-14)
    assert torch.allclose(curvature.solve(start.grad), curvature.dense_inverse() @ start.grad, rtol=1e-14)


def test_step_without_a_trial_changes_nothing() -> None:
    curvature, objective = Broyden(FixedMember(0.0), initial=1.0), objective_of(2)
    start = point_at(torch.zeros(2).double(), torch.ones(2).double())
    curvature.update(objective, start, None)
    nan = point_at(-start.grad, torch.tensor([math.nan, 1.0]).double())
    for last in (None, step_to(start, start), step_to(start, nan)):
        assert curvature.update(objective, start, last) is Correction.NOTHING_NEW
    assert torch.equal(curvature.dense_inverse(), torch.eye(2).double())


def test_indefinite_inverse_is_noticed_and_reset() -> None:
    curvature, objective = Broyden(FixedMember(0.0), initial=1.0), objective_of(2)
    start = point_at(torch.zeros(2).double(), torch.tensor([1.0, 0.1]).double())
    curvature.update(objective, start, None)
    state = curvature.state()
    # An inverse that lost its definiteness cannot be had from honest pairs: it is loaded.
    curvature.load(state | {"diagonal": torch.tensor([1.0, -5.0]).double()}, start.x)
    s = -curvature.solve(start.grad)
    trial = point_at(start.x + s, start.grad + torch.tensor([-0.5, 3.0]).double())
    assert float(s @ (trial.grad - start.grad)) > 0.0
    assert curvature.update(objective, trial, step_to(start, trial)) is Correction.RESET_INDEFINITE
    assert torch.equal(curvature.dense_inverse(), torch.eye(2).double())


def test_step_drowned_in_the_rounding_of_the_parameters_never_makes_the_inverse_indefinite() -> None:
    """Only the components that survive ``x + a d`` move: ``s.g`` may then be positive although ``d.g`` is not."""
    objective = objective_of(2)
    inverse = torch.tensor([[750.0, -1.0], [-1.0, 0.0019]], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(inverse)
    for rule in (self_scaled_bfgs, self_scaled_broyden, FixedMember(0.0)):
        curvature = Broyden(rule, initial=1.0)
        # g = (1, 1000): d = -H g = (250, -0.9), and 1e16 - 0.9 rounds to 1e16.
        start = point_at(torch.tensor([0.0, 1e16], dtype=torch.float64), torch.tensor([1.0, 1000.0], dtype=torch.float64))
        curvature.update(objective, start, None)
        state = curvature.state()
        rows, weights = state["rows"].clone(), state["weights"].clone()
        rows[:2], weights[:2] = vectors.T, values
        curvature.load(state | {"diagonal": torch.zeros(2, dtype=torch.float64), "rows": rows, "weights": weights, "used": 2}, start.x)
        assert torch.allclose(curvature.dense_inverse(), inverse)
        trial = point_at(start.x - curvature.solve(start.grad), start.grad + torch.tensor([1.0, 0.5], dtype=torch.float64))
        s, y = trial.x - start.x, trial.grad - start.grad
        assert float(s @ start.grad) > 0.0
        assert float(s @ y) > 0.0
        curvature.update(objective, trial, step_to(start, trial))
        assert float(torch.linalg.eigvalsh(curvature.dense_inverse())[0]) > 0.0


def test_first_scale_carries_over_to_the_remembered_product_when_theta_is_skipped() -> None:
    """The automatic scale is applied before theta is judged: a rejected first trial must not leave the old product behind."""
    curvature, objective = Broyden(FixedMember(-1e6), initial="auto"), objective_of(2)
    start = point_at(torch.zeros(2).double(), torch.tensor([3.0, 4.0]).double())
    curvature.update(objective, start, None)
    trial = point_at(-0.5 * curvature.solve(start.grad), torch.tensor([1.0, 7.0]).double() * 2.0)
    correction = curvature.update(objective, start, step_to(start, trial, Outcome.NO_DECREASE))
    if correction is Correction.SKIPPED_CURVATURE:
        trial = point_at(-0.5 * curvature.solve(start.grad), torch.tensor([1.0, -2.0]).double())
        correction = curvature.update(objective, start, step_to(start, trial, Outcome.NO_DECREASE))
    assert correction is Correction.SKIPPED_THETA
    assert torch.allclose(curvature.solve(start.grad), curvature.dense_inverse() @ start.grad, rtol=1e-14)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_permuting_the_parameters_permutes_the_inverse(rule: MemberRule) -> None:
    n, order = 5, torch.tensor([3, 0, 4, 1, 2])
    objective = objective_of(n)
    one, other = Broyden(rule, initial=1.0), Broyden(rule, initial=1.0)
    generator = torch.Generator().manual_seed(1)
    x, g = (torch.randn(n, generator=generator).double() for _ in range(2))
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).double()
    for curvature, index in ((one, torch.arange(n)), (other, order)):
        start = point_at(x[index], g[index])
        curvature.update(objective, start, None)
        for _ in range(3):
            moved = start.x - 0.3 * curvature.solve(start.grad)
            trial = point_at(moved, start.grad + weights[index] * (moved - start.x))
            curvature.update(objective, trial, step_to(start, trial))
            start = trial
    assert torch.allclose(one.dense_inverse()[order][:, order], other.dense_inverse(), rtol=1e-12, atol=1e-13)


def test_float32_follows_float64() -> None:
    for rule in (FixedMember(0.0), self_scaled_broyden):
        narrow = Broyden(rule, initial=1.0)
        for done in walk(narrow, 6, 12, seed=5, dtype=torch.float32, log_condition=1.0):
            h, b = ratios(done)
            expected = textbook(done.before, done.s, done.y, rule(h, b, 6))
            assert narrow.dense_inverse().dtype == torch.float32
            assert np.abs(narrow.dense_inverse().numpy() - expected).max() <= 2e-5 * np.linalg.cond(done.before) * np.abs(expected).max()
