"""The curvature of a sum of squares, and what it remembers from point to point."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import secant
from secant import Correction, Outcome
from secant.curvature.gauss_newton import GaussNewton
from secant.linearization.choice import Solver
from secant.objective import Objective
from secant.residuals import Residual, SumOfSquares
from secant.step import Step

DOUBLE = torch.float64
T = torch.linspace(-1.0, 1.0, 12, dtype=DOUBLE)
SOLVERS = [solver.value for solver in Solver]


def curve(x: Tensor) -> Tensor:
    """Twelve residuals of four parameters, none of them zero at the best fit."""
    return x[0] * torch.exp(x[1] * T) + x[2] * torch.sin(3.0 * T + x[3]) - torch.cos(2.0 * T) - 0.5 * T**2


START = (0.7, -0.3, 0.4, 0.1)


def leaf(values: Sequence[float] = START) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE, requires_grad=True)


class Walk:
    """An objective whose points are chosen by the test."""

    def __init__(self, residual: Callable[[Tensor], Tensor] = curve, start: Sequence[float] = START, **options: Any) -> None:
        self.x = leaf(start)
        groups = [{"params": [self.x], "lr": 1.0, "weight_decay": 0.0}]
        self.objective = Objective(groups)
        self.objective.bind(SumOfSquares(lambda: residual(self.x)), groups)
        self.curvature = GaussNewton(**options)
        self.point = self.objective.here()
        self.corrections = [self.curvature.update(self.objective, self.point, None)]

    def go(self, *step: float) -> Correction:
        """Take a step, accepted."""
        trial = self.objective.at(self.point.x + torch.tensor(step, dtype=DOUBLE))
        last = Step(self.point, trial, trial, Outcome.GAIN_RATIO)
        self.point = trial
        self.corrections.append(self.curvature.update(self.objective, trial, last))
        return self.corrections[-1]

    @property
    def jacobian(self) -> Tensor:
        return torch.cat([J for _, J in self.curvature.rows.blocks()])


def exact(x: Tensor, residual: Callable[[Tensor], Tensor] = curve) -> Tensor:
    return torch.func.jacrev(residual)(x.detach())


@pytest.mark.parametrize("solver", SOLVERS)
def test_solve_multiply_and_dense_agree_with_the_jacobian_whatever_the_solver(solver: str) -> None:
    walk = Walk(solver=solver)
    J, v = exact(walk.x), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=DOUBLE)
    torch.testing.assert_close(walk.curvature.multiply(v), J.T @ J @ v)
    torch.testing.assert_close(walk.curvature.dense(), J.T @ J)
    torch.testing.assert_close(walk.curvature.dense_inverse(), torch.linalg.inv(J.T @ J), rtol=1e-8, atol=1e-8)
    if solver != "cg":  # which goes as far as the next step needs
        torch.testing.assert_close(walk.curvature.solve(v), torch.linalg.inv(J.T @ J) @ v, rtol=1e-8, atol=1e-8)
    assert walk.curvature.choice is not None
    assert walk.curvature.choice.solver is Solver(solver)
    assert walk.corrections == [Correction[f"LINEARIZED_{solver.upper()}"]]


@pytest.mark.parametrize("scaling", ["identity", "columns"])
def test_damping_is_relative_to_the_largest_curvature_along_a_parameter(scaling: str) -> None:
    walk = Walk(solver="qr", scaling=scaling)
    J, g = exact(walk.x), walk.point.grad
    D = torch.ones(4, dtype=DOUBLE) if scaling == "identity" else J.square().sum(0)
    unit = float((J.square().sum(0) / D).max())
    expected = torch.linalg.solve(J.T @ J + 0.01 * unit * torch.diag(D), -g)
    torch.testing.assert_close(walk.curvature.damped(0.01).p, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(walk.curvature.damped_solve(-g, 0.01), expected, rtol=1e-9, atol=1e-9)


def test_scaling_by_columns_keeps_the_largest_norm_a_column_has_had() -> None:
    walk = Walk(solver="qr", scaling="columns")
    largest = exact(walk.x).square().sum(0)
    for step in ((0.5, 0.2, -0.1, 0.3), (-1.0, 0.1, 0.4, -0.2), (0.1, -0.6, 0.2, 0.1)):
        walk.go(*step)
        largest = torch.maximum(largest, exact(walk.x).square().sum(0))
    J, g = exact(walk.x), walk.point.grad
    unit = float((J.square().sum(0) / largest).max())
    expected = torch.linalg.solve(J.T @ J + 0.1 * unit * torch.diag(largest), -g)
    torch.testing.assert_close(walk.curvature.damped(0.1).p, expected, rtol=1e-9, atol=1e-9)


def test_scaling_by_columns_leaves_a_parameter_without_influence_where_it_is() -> None:
    walk = Walk(lambda x: x[0] * T - 1.0 + 0.0 * x[1].detach(), (0.5, 2.0), scaling="columns")
    assert walk.curvature.damped(0.01).p[1] == 0.0


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_jacobian_is_exact_at_every_so_manieth_point(every: int) -> None:
    walk = Walk(jacobian_every=every, solver="qr")
    for _ in range(10):
        walk.go(0.05, 0.02, -0.03, 0.01)
    kinds = [correction is Correction.JACOBIAN_CORRECTED for correction in walk.corrections]
    assert kinds == [k % every != 0 for k in range(11)]
    assert walk.objective.counts.jacobians == kinds.count(False)


def test_corrected_jacobian_satisfies_broydens_equation_at_every_step() -> None:
    walk = Walk(jacobian_every=6, solver="qr")
    r, J = curve(walk.x.detach()), walk.jacobian
    for step in ((0.1, 0.2, -0.1, 0.3), (-0.2, 0.1, 0.4, -0.2), (0.1, -0.3, 0.2, 0.1)):
        s = torch.tensor(step, dtype=DOUBLE)
        assert walk.go(*step) is Correction.JACOBIAN_CORRECTED
        after = curve(walk.x.detach())
        torch.testing.assert_close(walk.jacobian @ s, after - r, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(walk.jacobian, J + torch.outer(after - r - J @ s, s) / (s @ s), rtol=1e-12, atol=1e-12)
        r, J = after, walk.jacobian


def test_linear_residuals_are_known_after_one_jacobian() -> None:
    data = torch.randn(12, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    walk = Walk(lambda x: data @ x - 1.0, jacobian_every=50, solver="qr")
    for _ in range(5):
        walk.go(0.3, -0.2, 0.1, 0.5)
        torch.testing.assert_close(walk.jacobian, data)
    assert walk.objective.counts.jacobians == 1


def test_a_rejected_step_leaves_the_linearization_and_its_age() -> None:
    walk = Walk(jacobian_every=3, solver="qr")
    walk.go(0.1, 0.0, 0.0, 0.0)
    before, jacobians = walk.jacobian, walk.objective.counts.jacobians
    trial = walk.objective.at(walk.point.x + 1.0)
    walk.objective.write(walk.point)
    assert walk.curvature.update(walk.objective, walk.point, Step(walk.point, trial, walk.point, Outcome.REJECTED)) is Correction.NOTHING_NEW
    assert torch.equal(walk.jacobian, before)
    assert (walk.objective.counts.jacobians, walk.curvature.age) == (jacobians, 1)


def test_no_correction_spans_a_point_from_elsewhere() -> None:
    walk = Walk(jacobian_every=10, solver="qr")
    walk.go(0.1, 0.0, 0.0, 0.0)
    with torch.no_grad():
        walk.x.add_(1.0)
    walk.point = walk.objective.here()
    assert walk.curvature.update(walk.objective, walk.point, None) is Correction.LINEARIZED_QR
    torch.testing.assert_close(walk.jacobian, exact(walk.x))


def test_auto_leaves_the_normal_equations_for_good_once_they_have_lost_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secant.linearization.choice._ORTHOGONAL_FLOPS", 0.0)
    walk = Walk(lambda x: torch.cat([x[0] * T, x[0] * T + 1e-12 * (x[1] + x[2] + x[3]) * T**2]))
    assert walk.corrections == [Correction.LINEARIZED_CHOLESKY]
    walk.curvature.damped(0.0)
    assert walk.go(0.1, 0.1, 0.1, 0.1) is Correction.LINEARIZED_QR
    assert walk.curvature.choice is not None
    assert "digits" in walk.curvature.choice.reason
    assert walk.go(0.1, 0.1, 0.1, 0.1) is Correction.LINEARIZED_QR


def test_weight_decay_counts_as_residuals_in_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(30, dtype=DOUBLE, requires_grad=True)
    optimizer = secant.LevenbergMarquardt([x])
    optimizer.step(lambda: x[:12] * T - 1.0)
    assert optimizer.choice is not None
    assert optimizer.choice.solver is Solver.WOODBURY
    decayed = secant.LevenbergMarquardt([x], weight_decay=0.1)
    decayed.step(lambda: x[:12] * T - 1.0)
    assert decayed.choice is not None
    assert decayed.choice.solver is not Solver.WOODBURY


class Broken(Residual):
    """Its Jacobian is not a number at chosen calls, though loss and gradient are finite."""

    def __init__(self, x: Tensor, calls: range) -> None:
        self.x = x
        self.calls = calls
        self.count = 0

    @property
    def size(self) -> int:
        return 12

    def rows(self, rows: slice) -> Tensor:
        return curve(self.x)[rows]

    def values(self, rows: slice) -> Tensor:
        return curve(self.x.detach())[rows]

    def linearize(self, rows: slice, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        self.count += 1
        J = exact(self.x)[rows]
        if self.count in self.calls:
            J = J.clone()
            J[3, 1] = float("nan")
        return self.values(rows), J


@pytest.mark.parametrize("options", [{}, {"solver": "cholesky"}, {"solver": "woodbury"}, {"solver": "sketch"}, {"jacobian_every": 3}], ids=str)
@pytest.mark.parametrize("method", [secant.LevenbergMarquardt, secant.GaussNewton])
def test_a_jacobian_that_is_not_finite_makes_gradient_steps_until_it_is(method: type[secant.LevenbergMarquardt], options: dict[str, Any]) -> None:
    x = leaf()
    broken = Broken(x, range(1, 2))
    optimizer = method([x], **options)
    first = float(optimizer.step(broken))
    assert optimizer.correction is Correction.JACOBIAN_UNUSABLE
    assert optimizer.last_step is not None
    assert optimizer.last_step.kept.loss < first
    s, g = optimizer.last_step.kept.x - optimizer.last_step.start.x, optimizer.last_step.start.grad
    assert float(s @ g / (s.norm() * g.norm())) == pytest.approx(-1.0)
    for _ in range(60):
        optimizer.step(broken)
        assert optimizer.correction is not Correction.JACOBIAN_UNUSABLE
        assert optimizer.outcome is not None
        if optimizer.outcome.stops:
            break
    assert optimizer.outcome in (Outcome.ROUNDING_FLOOR, Outcome.CONVERGED)


def through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"jacobian_every": 3},
    {"scaling": "columns"},
    {"solver": "cholesky", "damping": 1e-16},
    {"solver": "sketch"},
    {"solver": "cg"},
    {"solver": "woodbury", "jacobian_every": 2, "scaling": "columns"},
]
WIDE = torch.linspace(-1.0, 1.0, 60, dtype=DOUBLE)


class Fit:
    """Sixty residuals in two blocks, and the one function that gives them."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def residual(self) -> tuple[Tensor, Tensor]:
        x = self.x
        r = x[0] * torch.exp(x[1] * WIDE) + x[2] * torch.sin(3.0 * WIDE + x[3]) - torch.cos(2.0 * WIDE) - 0.5 * WIDE**2
        return r[:20], r[20:]

    def drive(self, optimizer: secant.LevenbergMarquardt, steps: int) -> list[Tensor]:
        path = []
        for _ in range(steps):
            optimizer.step(self.residual)
            path.append(self.x.detach().clone())
        return path


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_a_resumed_run_is_bit_identical(options: dict[str, Any], cut: int) -> None:
    fit = Fit(leaf())
    optimizer = secant.LevenbergMarquardt([fit.x], **options)
    fit.drive(optimizer, cut)
    saved = through_a_file({"x": fit.x.detach(), "optimizer": optimizer.state_dict()})
    expected = fit.drive(optimizer, 9)
    again = Fit(saved["x"].requires_grad_())
    resumed = secant.LevenbergMarquardt([again.x], **options)
    resumed.load_state_dict(saved["optimizer"])
    assert all(torch.equal(a, b) for a, b in zip(expected, again.drive(resumed, 9), strict=True))
    assert resumed.correction is optimizer.correction


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_bit_for_bit_and_shares_nothing(how: Callable[[Any], Any], options: dict[str, Any]) -> None:
    fit = Fit(leaf())
    optimizer = secant.LevenbergMarquardt([fit.x], **options)
    fit.drive(optimizer, 4)
    copied, twin = how((optimizer, fit))
    expected = fit.drive(optimizer, 6)
    assert copied.param_groups[0]["params"][0] is twin.x
    assert all(torch.equal(a, b) for a, b in zip(expected, twin.drive(copied, 6), strict=True))


def test_a_state_saved_between_rejections_goes_on_with_the_same_linearization() -> None:
    walk = Walk(jacobian_every=3, solver="qr")
    walk.go(0.1, 0.0, 0.0, 0.0)
    saved = through_a_file(walk.curvature.state())
    again = GaussNewton(jacobian_every=3, solver="qr")
    again.load(saved, walk.point.x)
    returned = walk.objective.at(walk.point.x.clone())
    again.update(walk.objective, returned, None)
    assert again.age == 1
    assert torch.equal(again.damped(1e-3).p, walk.curvature.damped(1e-3).p)


def test_reset_begins_again() -> None:
    walk = Walk(jacobian_every=5, solver="qr", scaling="columns")
    fresh = walk.curvature.damped(1e-2).p
    walk.go(1.0, 1.0, 1.0, 1.0)
    walk.go(-1.0, -1.0, -1.0, -1.0)
    walk.curvature.reset()
    with pytest.raises(RuntimeError, match="take a step first"):
        walk.curvature.multiply(walk.point.grad)
    with pytest.raises(RuntimeError, match="take a step first"):
        _ = walk.curvature.rows
    assert walk.curvature.update(walk.objective, walk.point, None) is Correction.LINEARIZED_QR
    torch.testing.assert_close(walk.curvature.damped(1e-2).p, fresh, rtol=1e-12, atol=1e-12)
    assert GaussNewton().state() == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"solver": "lu"}, "Expected solver among 'auto', 'cholesky'"),
        ({"scaling": "rows"}, "Expected scaling to be 'identity' or 'columns'"),
        ({"jacobian_every": 0}, "jacobian_every >= 1"),
        ({"jacobian_every": 2, "solver": "cg"}, "keeps the Jacobian"),
        ({"jacobian_every": 2, "solver": "sketch"}, "keeps the Jacobian"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GaussNewton(**options)


@pytest.mark.parametrize("solver", ["cholesky", "qr", "sketch", "cg"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_jacobian_too_large_to_keep_is_streamed_and_takes_the_same_steps(solver: Any, weight_decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, streamed = Fit(leaf()), Fit(leaf())
    options: dict[str, Any] = {"solver": solver, "weight_decay": weight_decay}
    expected = kept.drive(secant.LevenbergMarquardt([kept.x], **options), 6)
    monkeypatch.setattr("secant.curvature.gauss_newton._STORED_BYTES", 0)
    optimizer = secant.LevenbergMarquardt([streamed.x], **options)
    for a, b in zip(expected, streamed.drive(optimizer, 6), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-8)
    assert optimizer.curvature.dense_inverse().shape == (4, 4)
