"""Limited self-scaled Broyden against the dense recursion, and what forgetting keeps."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import secant
from conformance.cases import PROBLEMS, Problem, drive, flat, quadratic, rosenbrock
from curvature.steps import objective_of, point_at, random_positive_definite, step_to, walk
from secant.curvature.broyden import Broyden
from secant.curvature.gradient_basis import GradientBasis
from secant.curvature.limited_broyden import LimitedBroyden
from secant.curvature.scaling import FixedMember, MemberRule, self_scaled_bfgs, self_scaled_broyden
from secant.curvature.subspace_inverse import SubspaceInverse
from secant.objective import Objective
from secant.space import LocalSpace
from secant.step import Correction, Outcome, Point, Step

RULES: dict[str, MemberRule] = {
    "bfgs": FixedMember(0.0),
    "dfp": FixedMember(1.0),
    "beyond dfp": FixedMember(3.0),
    "ssbfgs": self_scaled_bfgs,
    "ssbroyden": self_scaled_broyden,
}
seeds = st.integers(0, 2**31)
laws = settings(max_examples=25, deadline=None, derandomize=True)


def bowl_walk(
    curvature: Broyden | LimitedBroyden, n: int, corrections: int, seed: int, objective: Objective | None = None
) -> Iterator[tuple[Correction, Step]]:
    """Steps of random length along ``-H g`` in one quadratic bowl."""
    generator = torch.Generator().manual_seed(seed)
    objective = objective or objective_of(n)
    matrix = random_positive_definite(n, 2.0, generator)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    point = point_at(x, matrix @ x)
    assert curvature.update(objective, point, None) is Correction.INITIAL
    for _ in range(corrections):
        length = 0.5 + float(torch.rand((), generator=generator, dtype=torch.float64))
        x = point.x - length * curvature.solve(point.grad)
        trial = point_at(x, matrix @ x)
        last = step_to(point, trial)
        yield curvature.update(objective, trial, last), last
        point = trial


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@laws
@given(n=st.integers(1, 14), seed=seeds)
def test_with_memory_for_all_steps_it_is_the_dense_recursion(rule: MemberRule, n: int, seed: int) -> None:
    dense, limited = Broyden(rule, initial="auto"), LimitedBroyden(rule, initial="auto", memory=40)
    for (expected, _), (found, _) in zip(bowl_walk(dense, n, 8, seed), bowl_walk(limited, n, 8, seed), strict=True):
        if expected is not found:
            return  # one of two pairs at the edge of a skip rule
        H = dense.dense_inverse()
        assert_close(limited.dense_inverse(), H, 1e-10 * float(torch.linalg.cond(H)))


@laws
@given(n=st.integers(20, 60), seed=seeds)
def test_while_the_memory_lasts_it_is_the_dense_recursion_also_outside_the_span(n: int, seed: int) -> None:
    dense, limited = Broyden(self_scaled_broyden, initial="auto"), LimitedBroyden(self_scaled_broyden, initial="auto", memory=16)
    for _ in zip(bowl_walk(dense, n, 10, seed), bowl_walk(limited, n, 10, seed), strict=True):
        pass
    assert_close(limited.dense_inverse(), dense.dense_inverse(), 1e-10)


@laws
@given(n=st.integers(2, 12), seed=seeds)
def test_gradient_that_changes_between_two_steps_costs_rows_but_no_accuracy(n: int, seed: int) -> None:
    dense, limited = Broyden(self_scaled_broyden, initial=1.0), LimitedBroyden(self_scaled_broyden, initial=1.0, memory=40)
    # Here every step starts at a gradient that no update has seen.
    pairs = zip(walk(dense, n, 6, seed), walk(limited, n, 6, seed), strict=True)  # type: ignore[arg-type]
    for expected, found in pairs:
        if expected.correction is not found.correction:
            return
        condition = float(np.linalg.cond(expected.before))
        assert_close(limited.dense_inverse(), dense.dense_inverse(), 1e-11 * max(condition, 1e2) ** 2)


@laws
@given(n=st.integers(30, 60), memory=st.integers(8, 24), seed=seeds)
def test_secant_equation_holds_until_something_is_forgotten_and_the_inverse_stays_positive_definite(n: int, memory: int, seed: int) -> None:
    curvature = LimitedBroyden(self_scaled_broyden, initial="auto", memory=memory)
    for number, (correction, last) in enumerate(bowl_walk(curvature, n, 60, seed), start=2):
        assert correction in (Correction.APPLIED, Correction.SKIPPED_ROUNDING, Correction.SKIPPED_CURVATURE)
        assert last.trial is not None
        H = curvature.dense_inverse()
        assert float(torch.linalg.eigvalsh(H)[0]) > 0.0
        if correction is Correction.APPLIED and number + 3 <= memory:
            s, y = last.trial.x - last.start.x, last.trial.grad - last.start.grad
            assert float((H @ y - s).norm()) <= 1e-11 * float(torch.linalg.matrix_norm(H, 2) * y.norm())


@laws
@given(n=st.integers(20, 60), seed=seeds)
def test_product_that_is_known_is_the_product_with_the_dense_form(n: int, seed: int) -> None:
    curvature = LimitedBroyden(self_scaled_broyden, initial="auto", memory=12)
    generator = torch.Generator().manual_seed(seed)
    for _, last in bowl_walk(curvature, n, 30, seed):
        assert last.trial is not None
        H, v = curvature.dense_inverse(), torch.randn(n, generator=generator, dtype=torch.float64)
        for vector in (last.trial.grad, v):
            scale = float(torch.linalg.matrix_norm(H, 2) * vector.norm())
            assert float((curvature.solve(vector) - H @ vector).norm()) <= 1e-12 * scale


@laws
@given(n=st.integers(20, 40), seed=seeds)
def test_forgetting_keeps_the_extreme_eigenvalues_and_gives_all_others_their_geometric_mean(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inverse = SubspaceInverse(2.0, torch.ones(n, dtype=torch.float64), 12)
    for _ in range(11):
        seen = inverse.look_at(torch.randn(n, generator=generator, dtype=torch.float64))
        inverse.add(10.0 ** float(torch.randn((), generator=generator)), seen.coordinates)
    seen = inverse.remember(type(seen)(seen.gradient, seen.coordinates, inverse.times_coordinates(seen.coordinates)))
    before, vectors = torch.linalg.eigh(inverse.dense())
    assert not inverse.has_room
    assert inverse.forget_half()
    assert inverse.has_room
    order = (before / 2.0).log().abs().argsort(descending=True)
    kept, dropped = order[:6], order[6:11]  # the other n - 11 are the multiple of the identity outside
    expected = before.clone()
    expected[order[6:]] = before[dropped].log().mean().exp()
    found = inverse.dense()
    assert torch.allclose(torch.linalg.eigvalsh(found), expected.sort().values, rtol=1e-10)
    assert torch.allclose(found @ vectors[:, kept], vectors[:, kept] * before[kept], rtol=1e-9, atol=1e-9 * float(before.max()))
    assert torch.allclose(inverse.times(seen.gradient), found @ seen.gradient, rtol=1e-10, atol=1e-10 * float(before.max()))
    assert inverse.look_at(seen.gradient) is not seen
    coordinates = inverse.coordinates(seen.gradient)
    assert float(coordinates.norm()) == pytest.approx(float(seen.gradient.norm()), rel=1e-12), "the gradient stays in the span"


def test_groups_with_their_own_learning_rate_start_from_their_own_scale() -> None:
    n = 9
    values = [torch.zeros(4, dtype=torch.float64, requires_grad=True), torch.zeros(5, dtype=torch.float64, requires_grad=True)]
    objective = Objective([{"params": [values[0]], "lr": 1.0, "weight_decay": 0.0}, {"params": [values[1]], "lr": 0.3, "weight_decay": 0.0}])
    dense, limited = Broyden(self_scaled_broyden, initial=0.5), LimitedBroyden(self_scaled_broyden, initial=0.5, memory=40)
    walks = zip(bowl_walk(dense, n, 6, 1, objective), bowl_walk(limited, n, 6, 1, objective), strict=True)
    for (expected, _), (found, _) in walks:
        assert expected is found is Correction.APPLIED
        assert_close(limited.dense_inverse(), dense.dense_inverse(), 1e-10)
    v = torch.arange(9.0, dtype=torch.float64)
    assert torch.allclose(limited.solve(v), limited.dense_inverse() @ v, rtol=1e-12)


def test_step_that_did_not_leave_along_the_direction_is_skipped() -> None:
    curvature, objective = LimitedBroyden(self_scaled_broyden, initial=1.0, memory=20), objective_of(3)
    start = point_at(torch.zeros(3).double(), torch.tensor([1.0, 0.0, 0.0]).double())
    curvature.update(objective, start, None)
    trial = point_at(torch.tensor([-1.0, 1.0, 0.0]).double(), torch.tensor([0.1, 3.0, 0.0]).double())
    assert curvature.update(objective, trial, step_to(start, trial)) is Correction.SKIPPED_ROUNDING
    assert torch.allclose(curvature.dense_inverse(), torch.eye(3).double(), rtol=1e-15, atol=1e-15)


def test_rejected_trial_still_corrects_the_inverse() -> None:
    curvature, objective = LimitedBroyden(FixedMember(0.0), initial=1.0, memory=20), objective_of(2)
    start = point_at(torch.zeros(2).double(), torch.tensor([1.0, 2.0]).double())
    curvature.update(objective, start, None)
    trial = point_at(-start.grad, torch.tensor([-3.0, -5.0]).double())
    assert curvature.update(objective, start, step_to(start, trial, Outcome.NO_DECREASE)) is Correction.APPLIED
    s, y = trial.x - start.x, trial.grad - start.grad
    assert torch.allclose(curvature.dense_inverse() @ y, s, rtol=1e-14)
    assert torch.allclose(curvature.solve(start.grad), curvature.dense_inverse() @ start.grad, rtol=1e-14)


def test_small_gradient_change_keeps_its_digits() -> None:
    """``|y|`` is 1e-10 of ``|g|``: the difference of the coordinates of two gradients would keep six digits."""
    n = 6
    curvature, objective = LimitedBroyden(FixedMember(0.0), initial=1.0, memory=20), objective_of(n)
    g = torch.tensor([1.0, -2.0, 3.0, 4.0, -5.0, 0.7], dtype=torch.float64).round(decimals=0)
    start = point_at(torch.zeros(n, dtype=torch.float64), g)
    curvature.update(objective, start, None)
    s = -(2.0**-33) * g
    y = torch.tensor([-3.0, 1.0, 2.0, -7.0, 5.0, 1.0], dtype=torch.float64) * 2.0**-33
    trial = point_at(s, g + y)
    assert torch.equal(trial.grad - g, y)
    assert curvature.update(objective, trial, step_to(start, trial)) is Correction.APPLIED
    assert float((curvature.dense_inverse() @ y - s).norm()) <= 1e-13 * float(s.norm())


@pytest.mark.parametrize("memory", [8, 9, 12])
@pytest.mark.parametrize("name", PROBLEMS)
def test_run_that_forgets_resumes_bit_for_bit(name: str, memory: int) -> None:
    problem, again = PROBLEMS[name](), PROBLEMS[name]()
    optimizer = secant.LSSBroyden(problem.parameters, memory=memory)
    drive(optimizer, problem, 23)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        for parameter, value in zip(again.parameters, problem.parameters, strict=True):
            parameter.copy_(value)
    expected = drive(optimizer, problem, 20)
    restored = secant.LSSBroyden(again.parameters, memory=memory)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(expected, drive(restored, again, 20), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("exponent", [-26, 26])
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.filterwarnings("ignore:float32 no longer resolves")
def test_run_that_forgets_does_not_know_the_scale_of_the_loss(name: str, exponent: int, dtype: torch.dtype) -> None:
    problem, scaled = PROBLEMS[name](dtype), PROBLEMS[name](dtype)
    steps, factor = 40 if dtype == torch.float64 else 15, 2.0**exponent
    expected = drive(secant.LSSBroyden(problem.parameters, memory=8), problem, steps)
    found = drive(secant.LSSBroyden(scaled.parameters, memory=8), Problem(scaled.parameters, lambda: factor * scaled.loss()), steps)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_permuting_the_parameters_permutes_the_run_that_forgets() -> None:
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    weights = torch.logspace(0, 2, 30, dtype=torch.float64)
    x, z = (torch.ones(30, dtype=torch.float64, requires_grad=True) for _ in range(2))
    one = drive(secant.LSSBroyden([x], memory=10), Problem([x], lambda: (weights * (x - x.mean() ** 2) ** 2).sum() + x.pow(4).sum()), 16)
    other = drive(secant.LSSBroyden([z], memory=10), Problem([z], lambda: (weights[order] * (z - z.mean() ** 2) ** 2).sum() + z.pow(4).sum()), 16)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a[order], b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("memory", [8, 20, 60])
@pytest.mark.filterwarnings("ignore:float32 no longer resolves")
def test_large_problem_is_solved_with_little_memory(memory: int, dtype: torch.dtype) -> None:
    problem = quadratic(dtype, n=200, condition=1e3, minimizer=0.5)
    optimizer = secant.LSSBroyden(problem.parameters, memory=memory)
    first = problem.loss().item()
    drive(optimizer, problem, 700)
    assert problem.loss().item() < (1e-12 if dtype == torch.float64 else 1e-7) * first


def test_rosenbrock_takes_the_path_of_the_dense_method() -> None:
    dense, limited = rosenbrock(), rosenbrock()
    expected = drive(secant.SSBroyden(dense.parameters), dense, 12)
    found = drive(secant.LSSBroyden(limited.parameters), limited, 12)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_gradient_of_zero_leaves_nothing_to_remember_and_can_be_saved() -> None:
    curvature, objective = LimitedBroyden(self_scaled_broyden, initial=2.0, memory=8), objective_of(3)
    start = point_at(torch.ones(3).double(), torch.zeros(3).double())
    assert curvature.update(objective, start, None) is Correction.INITIAL
    again = LimitedBroyden(self_scaled_broyden, initial=2.0, memory=8)
    again.load(curvature.state(), start.x)
    assert torch.equal(again.dense_inverse(), 2.0 * torch.eye(3).double())
    assert torch.equal(again.solve(torch.ones(3).double()), torch.full((3,), 2.0).double())


def test_indefinite_inverse_is_noticed_and_reset() -> None:
    curvature, objective = LimitedBroyden(FixedMember(0.0), initial=1.0, memory=8), objective_of(2)
    start = point_at(torch.zeros(2).double(), torch.tensor([1.0, 0.0]).double())
    curvature.update(objective, start, None)
    # An inverse that lost its definiteness cannot be had from honest pairs: it is loaded.
    curvature.load(curvature.state() | {"small_diagonal": torch.tensor([1.0, -5.0]).double()}, start.x)
    trial = point_at(start.x - start.grad, torch.tensor([0.5, 3.0]).double())
    assert curvature.update(objective, trial, step_to(start, trial)) is Correction.RESET_INDEFINITE
    assert torch.allclose(curvature.dense_inverse(), torch.eye(2).double(), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("broken", [-1.0, -1e-20, 0.0, float("inf"), float("nan")])
def test_full_memory_with_an_inverse_that_is_not_positive_definite_is_mended_or_reset(broken: float) -> None:
    curvature, objective = LimitedBroyden(self_scaled_broyden, initial=1.0, memory=8), objective_of(20)
    generator = torch.Generator().manual_seed(0)
    point = point_at(torch.zeros(20).double(), torch.randn(20, generator=generator).double())
    curvature.update(objective, point, None)
    for _ in range(4):  # gradients that come from nowhere fill the rows
        point = point_at(point.x, torch.randn(20, generator=generator).double())
        assert curvature.update(objective, point, None) is Correction.NOTHING_NEW
    diagonal = torch.ones(8).double()
    diagonal[0] = broken
    curvature.load(curvature.state() | {"small_diagonal": diagonal}, point.x)
    point = point_at(point.x, torch.randn(20, generator=generator).double())
    expected = Correction.NOTHING_NEW if -1e-15 < broken < 1.0 else Correction.RESET_INDEFINITE  # rounding is raised to where it is seen
    assert curvature.update(objective, point, None) is expected
    assert float(torch.linalg.eigvalsh(curvature.dense_inverse())[0]) > 0.0


@laws
@given(n=st.integers(1, 40), capacity=st.integers(1, 40), seed=seeds)
def test_basis_is_orthonormal_and_reproduces_what_it_has_seen(n: int, capacity: int, seed: int) -> None:
    generator, space = torch.Generator().manual_seed(seed), LocalSpace()
    basis = GradientBasis(torch.zeros(n, dtype=torch.float64), min(capacity, n))
    inner = torch.randn(3, n, generator=generator, dtype=torch.float64)
    for number in range(60):
        size = 10.0 ** float(torch.randint(-130, 150, (), generator=generator))
        v = size * (inner.T @ torch.randn(3, generator=generator, dtype=torch.float64))
        if number % 3 == 0:  # hardly out of the span
            v += 1e-10 * size * torch.randn(n, generator=generator, dtype=torch.float64)
        had_room = basis.used < basis.capacity
        coordinates = basis.coordinates(v, space)
        if had_room:
            assert float((basis.combination(coordinates) - v).norm()) <= 1e-14 * float(v.norm())
    rows = basis.rows
    assert float((rows @ rows.T - torch.eye(basis.used).double()).abs().max()) < 1e-14
    if min(capacity, n) > 25:
        assert basis.used == 23, "three vectors span the plane, twenty stand out of it"


def test_basis_stays_orthonormal_after_many_rotations() -> None:
    generator, space = torch.Generator().manual_seed(0), LocalSpace()
    basis = GradientBasis(torch.zeros(200, dtype=torch.float64), 20)
    for _ in range(300):
        while basis.used < 18:
            basis.coordinates(torch.randn(200, generator=generator, dtype=torch.float64), space)
        basis.rotate(torch.linalg.qr(torch.randn(18, 18, generator=generator, dtype=torch.float64)).Q[:10])
    assert float((basis.rows @ basis.rows.T - torch.eye(10).double()).abs().max()) < 1e-13


def test_memory_grows_with_the_steps_and_never_beyond_what_was_announced() -> None:
    n, memory = 3000, 100
    curvature, objective = LimitedBroyden(self_scaled_broyden, initial="auto", memory=memory), objective_of(n)
    generator = torch.Generator().manual_seed(0)
    room = []
    for number in range(300):
        point = Point(torch.zeros(n).double(), 0.0, torch.randn(n, generator=generator).double(), 1.0, torch.tensor(0.0))
        curvature.update(objective, point, None)
        assert curvature._inverse is not None
        room.append(curvature._inverse._basis._rows.nbytes)
        assert number > 20 or room[-1] <= 8 * n * 32
    assert max(room) == 8 * n * memory
    assert curvature.bytes_needed(n, 8) >= 1.5 * max(room)
    assert curvature.bytes_needed(10, 8) < 1e5


def test_memory_below_the_rows_of_a_few_updates_is_refused() -> None:
    with pytest.raises(ValueError, match=r"memory >= 8, got memory=7"):
        secant.LSSBroyden([torch.zeros(3, requires_grad=True)], memory=7)


def test_copy_of_a_state_does_not_change_while_the_run_goes_on() -> None:
    problem = rosenbrock()
    optimizer = secant.LSSBroyden(problem.parameters, memory=8)
    drive(optimizer, problem, 15)
    state = optimizer.curvature.state()
    before = {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}
    drive(optimizer, problem, 15)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in state.items() if isinstance(value, Tensor))
    assert torch.isfinite(flat(problem.parameters)).all()
