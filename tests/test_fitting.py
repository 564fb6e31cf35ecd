"""``least_squares`` against SciPy's, and what its arguments and its result promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

import secant
from secant import Outcome
from secant.fitting import LeastSquaresResult
from secant.residuals import RowResidual

DOUBLE = torch.float64
T = torch.linspace(0.0, 2.0, 25, dtype=DOUBLE)
NOISE = 0.05 * torch.randn(25, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


def silent(_: str) -> None:
    """No progress line."""


def fit(residual: Any, x0: Any, method: str = "lm", **options: Any) -> LeastSquaresResult:
    return secant.least_squares(residual, x0, method, progress=options.pop("progress", silent), **options)


def exponential(x: Tensor) -> Tensor:
    return x[0] * torch.exp(-x[1] * T) + x[2] - (2.0 * torch.exp(-1.5 * T) + 0.5 + NOISE)


def rosenbrock(x: Tensor) -> Tensor:
    return torch.stack((10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]))


def powell_singular(x: Tensor) -> Tensor:
    return torch.stack((x[0] + 10.0 * x[1], math.sqrt(5.0) * (x[2] - x[3]), (x[1] - 2.0 * x[2]) ** 2, math.sqrt(10.0) * (x[0] - x[3]) ** 2))


def oscillation(x: Tensor) -> Tensor:
    return x[0] * torch.sin(x[1] * T + x[2]) * torch.exp(-x[3] * T) - (torch.sin(3.0 * T + 0.4) * torch.exp(-0.5 * T) + NOISE)


PROBLEMS: dict[str, tuple[Callable[[Tensor], Tensor], list[float]]] = {
    "exponential": (exponential, [1.0, 1.0, 0.0]),
    "rosenbrock": (rosenbrock, [-1.2, 1.0]),
    "powell singular": (powell_singular, [3.0, -1.0, 0.0, 1.0]),
    "oscillation": (oscillation, [0.8, 2.8, 0.3, 0.3]),
}


def by_scipy(name: str) -> scipy.optimize.OptimizeResult:
    residual, x0 = PROBLEMS[name]
    return scipy.optimize.least_squares(
        lambda p: residual(torch.tensor(p)).numpy(),
        x0,
        jac=lambda p: torch.func.jacrev(residual)(torch.tensor(p)).numpy(),
        method="lm",
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
    )


@pytest.mark.parametrize(("name", "method"), [*((name, "lm") for name in PROBLEMS), ("exponential", "gaussnewton"), ("rosenbrock", "gaussnewton")])
def test_every_field_agrees_with_scipy(name: str, method: str) -> None:
    residual, x0 = PROBLEMS[name]
    found, expected = fit(residual, torch.tensor(x0, dtype=DOUBLE), method), by_scipy(name)
    exact = 1e-4 if name == "powell singular" else 1e-8  # whose Jacobian is singular at the solution
    np.testing.assert_allclose(found.x.numpy(), expected.x, rtol=exact, atol=exact)
    assert found.cost == pytest.approx(expected.cost, rel=1e-10, abs=1e-20)
    np.testing.assert_allclose(found.fun.numpy(), expected.fun, rtol=1e-6, atol=1e-7)
    assert found.jac is not None
    np.testing.assert_allclose(found.jac.numpy(), expected.jac, rtol=1e-6, atol=10.0 * exact)
    assert (found.success, found.status) == (True, 0)
    assert found.outcome.sentence in found.message
    assert found.optimality == float(found.grad.abs().max()) < 1e-7
    torch.testing.assert_close(found.grad, found.jac.T @ found.fun, rtol=1e-6, atol=1e-12)
    assert 0 < found.njev <= found.nit + 2
    assert found.nfev >= found.nit
    assert len(found.trace) == found.nit
    assert found.trace[-1].loss == pytest.approx(found.cost, rel=1e-9, abs=1e-25)
    for word in ("cost", "optimality", "njev", "Steps by"):
        assert word in str(found)


def test_evaluations_are_of_the_order_of_scipys() -> None:
    for name, (residual, x0) in PROBLEMS.items():
        if name == "powell singular":
            continue
        found = fit(residual, torch.tensor(x0, dtype=DOUBLE))
        enough = next(row for row in found.trace if row.loss <= by_scipy(name).cost * (1.0 + 1e-6) + 1e-12)
        assert enough.counts.jacobians <= 2 * by_scipy(name).njev + 3


@pytest.mark.parametrize("options", [{}, {"jacobian_every": 4}, {"solver": "cholesky"}, {"solver": "woodbury"}], ids=str)
def test_jac_is_the_exact_jacobian_at_x_whatever_the_options(options: dict[str, Any]) -> None:
    found = fit(exponential, torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE), options=options)
    assert found.jac is not None
    torch.testing.assert_close(found.jac, torch.func.jacrev(exponential)(found.x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.fun, exponential(found.x), rtol=0.0, atol=0.0)


def test_jac_is_left_out_where_it_was_never_made() -> None:
    found = fit(exponential, torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE), options={"solver": "cg", "maxiter": 200})
    assert found.jac is None
    assert found.cost == pytest.approx(by_scipy("exponential").cost, rel=1e-8)


@pytest.mark.parametrize("options", [{}, {"solver": "cholesky"}, {"solver": "sketch"}, {"jacobian_every": 5}], ids=str)
def test_covariance_is_that_of_curve_fit(options: dict[str, Any]) -> None:
    found = fit(exponential, torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE), options=options)
    data = (2.0 * torch.exp(-1.5 * T) + 0.5 + NOISE).numpy()
    best, covariance = scipy.optimize.curve_fit(lambda t, a, b, c: a * np.exp(-b * t) + c, T.numpy(), data, [1.0, 1.0, 0.0], xtol=1e-14, ftol=1e-14)
    np.testing.assert_allclose(found.x.numpy(), best, rtol=1e-6)
    np.testing.assert_allclose(found.covariance().numpy(), covariance, rtol=1e-5)


def test_covariance_keeps_its_digits_where_the_parameters_have_very_different_units() -> None:
    units = torch.tensor([1e6, 1e-5, 1.0], dtype=DOUBLE)
    plain = fit(exponential, torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE)).covariance()
    scaled = fit(lambda z: exponential(z / units), units * torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE), options={"scaling": "columns"}).covariance()
    torch.testing.assert_close(scaled / units / units[:, None], plain, rtol=1e-5, atol=0.0)


def test_covariance_needs_more_residuals_than_parameters() -> None:
    with pytest.raises(ValueError, match="more residuals than parameters, got 2 and 2"):
        fit(rosenbrock, torch.tensor([-1.2, 1.0], dtype=DOUBLE)).covariance()


class Curve(nn.Module):
    """Three numbers in two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = nn.Parameter(torch.tensor([1.0, 1.0], dtype=DOUBLE))
        self.offset = nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def residual(self) -> Tensor:
        return exponential(torch.cat([self.shape, self.offset[None]]))


def test_a_module_is_updated_in_place() -> None:
    module = Curve()
    found = fit(module.residual, module)
    assert found.x is module
    np.testing.assert_allclose([*module.shape.tolist(), module.offset.item()], by_scipy("exponential").x, rtol=1e-7)


def test_a_tree_keeps_its_form_and_is_never_modified() -> None:
    x0 = {"curve": [torch.tensor([1.0, 1.0], dtype=DOUBLE)], "offset": torch.tensor(0.0, dtype=DOUBLE)}
    found = fit(lambda x: exponential(torch.cat([x["curve"][0], x["offset"][None]])), x0)
    assert x0["curve"][0].tolist() == [1.0, 1.0]
    assert x0["offset"].item() == 0.0
    assert not found.x["offset"].requires_grad
    np.testing.assert_allclose([*found.x["curve"][0].tolist(), found.x["offset"].item()], by_scipy("exponential").x, rtol=1e-7)


def test_x0_is_not_modified_and_needs_no_gradient() -> None:
    for x0 in (torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE), torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE, requires_grad=True)):
        found = fit(exponential, x0)
        assert x0.tolist() == [1.0, 1.0, 0.0]
        assert x0.grad is None
        assert found.x is not x0
        assert not found.x.requires_grad


def test_blocks_lists_and_rows_give_the_same_fit() -> None:
    x0 = torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE)
    expected = by_scipy("exponential").x
    given: list[tuple[Any, dict[str, Any]]] = [
        (lambda x: (exponential(x)[:10], exponential(x)[10:]), {}),
        ([lambda x: exponential(x)[:10], lambda x: exponential(x)[10:]], {}),
        (lambda x, rows: exponential(x)[rows], {"size": 25}),
    ]
    for residual, options in given:
        found = fit(residual, x0, **options)
        np.testing.assert_allclose(found.x.numpy(), expected, rtol=1e-7)
        assert found.jac is not None
        assert found.jac.shape == (25, 3)
    module = Curve()
    fit(lambda rows: module.residual()[rows], module, size=25)
    np.testing.assert_allclose(module.shape.tolist(), expected[:2], rtol=1e-7)
    module = Curve()
    fit([RowResidual(lambda rows: module.residual()[rows], size=25)], module)
    np.testing.assert_allclose(module.shape.tolist(), expected[:2], rtol=1e-7)


def test_weight_decay_is_in_the_gradient_and_not_in_the_cost() -> None:
    found = fit(exponential, torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE), options={"weight_decay": 0.2})
    r = exponential(found.x)
    assert found.cost == pytest.approx(float(0.5 * r @ r), rel=1e-12)
    assert found.jac is not None
    assert found.jac.shape == (25, 3)
    torch.testing.assert_close(found.jac.T @ r + 0.2 * found.x, torch.zeros(3, dtype=DOUBLE), rtol=0.0, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"bounds": (0.0, 1.0)}, TypeError, r"unconstrained problem, got bounds.*scipy\.optimize\.least_squares"),
        ({"method": "dogbox"}, ValueError, "one of gaussnewton, lm, got 'dogbox'"),
        ({"method": 3}, TypeError, "name such as 'lm'"),
        ({"options": {"solvr": "qr"}}, ValueError, "Did you mean 'solver'"),
        ({"options": {"maxiter": 0}}, ValueError, "maxiter > 0"),
        ({"options": {"callback": print}}, ValueError, "got 'callback'"),
        ({"options": {"solver": "lu"}}, ValueError, "Expected solver among"),
        ({"size": -1}, ValueError, "size >= 0"),
        ({"x0": [1.0, 2.0]}, TypeError, "torch.as_tensor"),
        ({"x0": torch.tensor([1, 2, 3])}, TypeError, "floating-point"),
        ({"residual": 3.0}, TypeError, "got float"),
        ({"residual": []}, ValueError, "at least one residual function"),
        ({"residual": RowResidual(lambda rows: T[rows], 25)}, TypeError, "Pass its module as x0"),
        ({"residual": [exponential, exponential], "size": 25}, ValueError, "secant.RowResidual"),
        ({"residual": lambda x: exponential(x).square().sum()}, ValueError, "not their mean or sum of squares"),
        ({"residual": lambda x: exponential(x)[:, None]}, ValueError, r"shape \(N,\)"),
        ({"residual": lambda x: exponential(x) * 1j}, TypeError, "view_as_real"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_done_is_refused_in_a_sentence(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    given: dict[str, Any] = {"residual": exponential, "x0": torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE)} | arguments
    with pytest.raises(error, match=sentence):
        secant.least_squares(**given, progress=silent)


def test_a_number_of_residuals_that_changes_is_an_error() -> None:
    calls = [0]

    def residual(x: Tensor) -> Tensor:
        calls[0] += 1
        return exponential(x)[: 25 - (calls[0] > 4)]

    with pytest.raises(ValueError, match="Expected 25 residuals as before, got 24"):
        fit(residual, torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE))


def test_budgets_end_the_run_with_their_status() -> None:
    x0 = torch.tensor([-1.2, 1.0], dtype=DOUBLE)
    short = fit(rosenbrock, x0, options={"maxiter": 2})
    assert (short.nit, short.status, short.success, short.outcome) == (2, 1, False, Outcome.BUDGET)
    few = fit(rosenbrock, x0, options={"maxfun": 5})
    assert few.status == 1
    assert few.nfev < 30
    brief = fit(rosenbrock, x0, options={"seconds": 1e-9})
    assert (brief.nit, brief.status) == (1, 1)


def test_tol_stops_early() -> None:
    x0 = torch.tensor([1.0, 1.0, 0.0], dtype=DOUBLE)
    loose, tight = fit(exponential, x0, tol=1e-2), fit(exponential, x0, tol=1e-9)
    assert loose.outcome is Outcome.CONVERGED
    assert loose.nit < tight.nit
    first = float(torch.func.jacrev(lambda x: 0.5 * exponential(x).square().sum())(x0).abs().max())
    assert tight.optimality <= 1e-9 * first
    assert loose.optimality <= 1e-2 * first


def test_callback_and_progress_see_every_iteration() -> None:
    lines: list[str] = []
    numbers: list[int] = []

    def callback(iteration: secant.Iteration) -> None:
        numbers.append(iteration.number)
        if iteration.number == 3:
            raise StopIteration

    found = fit(rosenbrock, torch.tensor([-1.2, 1.0], dtype=DOUBLE), callback=callback, progress=lines.append)
    assert numbers == [1, 2, 3]
    assert len(lines) == 3
    assert "loss" in lines[0]
    assert (found.outcome, found.status) == (Outcome.CALLBACK, 2)


def test_a_start_that_is_not_a_number_is_said() -> None:
    found = fit(lambda x: torch.log(x) * T, torch.tensor([-1.0], dtype=DOUBLE))
    assert found.outcome is Outcome.NOT_FINITE
    assert (found.success, found.status) == (False, 2)
    assert found.x.item() == -1.0
    assert found.jac is None


def test_an_exception_leaves_a_module_at_its_best_point() -> None:
    module, calls = Curve(), [0]

    def residual() -> Tensor:
        calls[0] += 1
        if calls[0] == 25:
            raise ZeroDivisionError
        return module.residual()

    before = float(0.5 * module.residual().detach().square().sum())
    with pytest.raises(ZeroDivisionError):
        fit(residual, module)
    assert float(0.5 * module.residual().detach().square().sum()) < before


def test_residuals_that_are_zero_at_the_start_are_a_success_at_once() -> None:
    found = fit(rosenbrock, torch.tensor([1.0, 1.0], dtype=DOUBLE))
    assert (found.success, found.cost, found.nit, found.nfev) == (True, 0.0, 0, 1)
    assert found.jac is not None


def test_complex_variables_are_fitted() -> None:
    target = torch.tensor(2.0 - 1.0j, dtype=torch.complex128)
    found = fit(
        lambda z: torch.view_as_real(torch.exp(1.0j * z * T) - torch.exp(1.0j * target * T)).reshape(-1), torch.tensor(1.8 - 0.8j, dtype=torch.complex128)
    )
    assert abs(found.x.item() - target.item()) < 1e-10


def test_the_optimizer_of_the_result_goes_on_with_the_parameters_where_they_are() -> None:
    module = Curve()
    found = fit(module.residual, module, options={"maxiter": 2})
    with torch.no_grad():
        module.shape.fill_(1.2)
    here = float(0.5 * module.residual().detach().square().sum())
    assert float(found.optimizer.step(found.optimizer._objective._closure)) == pytest.approx(here, rel=1e-14)  # type: ignore[union-attr]
