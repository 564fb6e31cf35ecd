"""Minimization as a function call."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor, nn

import secant
from secant import Outcome, minimize
from secant.methods import METHODS
from secant.optimizer import Iteration

DOUBLE = torch.float64
START = torch.tensor([-1.2, 1.0, -1.2, 1.0], dtype=DOUBLE)
FAST = [name for name in METHODS if name != "dfp"]


def rosenbrock(x: Tensor) -> Tensor:
    return ((1.0 - x[:-1]) ** 2).sum() + 100.0 * ((x[1:] - x[:-1] ** 2) ** 2).sum()


@pytest.mark.parametrize("method", FAST)
def test_every_method_finds_the_minimizer_of_rosenbrock(method: str) -> None:
    start = torch.tensor([-1.2, 1.0], dtype=DOUBLE)
    result = minimize(rosenbrock, start, method=method)
    assert result.success
    assert result.status == 0
    torch.testing.assert_close(result.x, torch.ones(2, dtype=DOUBLE))
    assert result.fun == rosenbrock(result.x).item()
    assert result.grad.shape == (2,)
    assert result.jac is result.grad
    assert result.nit == len(result.trace) == result.trace[-1].iteration
    assert result.nfev == result.njev == result.optimizer.counts.losses
    assert result.nfev < 150
    assert result.message == result.outcome.sentence


def test_result_agrees_with_scipy_where_scipy_stops() -> None:
    def fun(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        t = torch.tensor(x, requires_grad=True)
        loss = rosenbrock(t)
        (gradient,) = torch.autograd.grad(loss, t)
        return loss.item(), gradient.numpy()

    theirs = optimize.minimize(fun, START.numpy(), jac=True, method="BFGS")
    ours = minimize(rosenbrock, START, method="bfgs")
    np.testing.assert_allclose(ours.x.numpy(), theirs.x, rtol=1e-4)
    assert ours.fun <= theirs.fun
    assert {"x", "fun", "jac", "nit", "nfev", "njev", "success", "status", "message", "hess_inv"} <= set(dir(ours))


@pytest.mark.parametrize("method", METHODS)
def test_start_is_never_modified(method: str) -> None:
    start = START.clone().requires_grad_()
    result = minimize(rosenbrock, start, method=method, options={"maxiter": 3})
    assert torch.equal(start.detach(), START)
    assert start.grad is None
    assert not result.x.requires_grad
    assert result.x.data_ptr() != start.data_ptr()


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "form",
    [
        lambda a, b: {"a": a, "b": b},
        lambda a, b: [a, b],
        lambda a, b: (a, b),
        lambda a, b: Pair(a, b),
        lambda a, b: {"outer": [a, {"inner": b}]},
    ],
    ids=["dict", "list", "tuple", "namedtuple", "nested"],
)
def test_answer_has_the_form_of_the_start(form: Callable[[Tensor, Tensor], Any]) -> None:
    a, b = torch.zeros(2, dtype=DOUBLE), torch.zeros(2, 2, dtype=DOUBLE)

    def leaves(tree: Any) -> list[Tensor]:
        if isinstance(tree, Tensor):
            return [tree]
        return [leaf for branch in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(branch)]

    result = minimize(lambda tree: sum(((leaf - 2.0) ** 2).sum() for leaf in leaves(tree)), form(a, b))
    assert type(result.x) is type(form(a, b))
    for leaf in leaves(result.x):
        torch.testing.assert_close(leaf, torch.full_like(leaf, 2.0))
    assert not a.any()
    assert not b.any()


def test_complex_numbers_and_expanded_starts_are_taken() -> None:
    target = torch.tensor([1.0 + 2.0j, -1.0j], dtype=torch.complex128)
    assert torch.allclose(minimize(lambda z: (z - target).abs().square().sum(), torch.zeros(2, dtype=torch.complex128)).x, target)
    assert torch.allclose(minimize(lambda x: ((x - 1.0) ** 2).sum(), torch.zeros(1, dtype=DOUBLE).expand(3)).x, torch.ones(3, dtype=DOUBLE))
    assert minimize(lambda x: (x - 1.0) ** 2, torch.tensor(0.0, dtype=DOUBLE)).x.shape == ()


@pytest.mark.parametrize(
    "start", [[torch.zeros(1), 1.0], {"a": np.zeros(2)}, {"a": 1.0}, None], ids=["number in a list", "numpy in a dict", "number in a dict", "None"]
)
def test_start_without_tensors_is_refused_with_the_remedy(start: Any) -> None:
    with pytest.raises(TypeError, match=r"torch\.as_tensor"):
        minimize(lambda x: x, start)


def test_start_of_integers_is_refused() -> None:
    with pytest.raises(TypeError, match=r"floating-point or complex parameters, got torch\.int64"):
        minimize(lambda x: (x**2).sum(), torch.zeros(2, dtype=torch.int64))


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=DOUBLE))
        self.frozen = nn.Parameter(torch.ones(2, dtype=DOUBLE), requires_grad=False)

    def loss(self) -> Tensor:
        return ((self.weight - 3.0 * self.frozen) ** 2).sum()


@pytest.mark.parametrize(
    "call",
    [lambda m: lambda: m.loss(), lambda m: lambda module: module.loss(), lambda m: m.loss, lambda m: lambda module=None: m.loss()],
    ids=["no argument", "the module", "a bound method", "an argument with a default"],
)
def test_module_is_trained_in_place_by_a_function_with_or_without_argument(call: Callable[[Line], Callable[..., Tensor]]) -> None:
    module = Line()
    result = minimize(call(module), module)
    assert result.x is module
    torch.testing.assert_close(module.weight.detach(), torch.full((2,), 3.0, dtype=DOUBLE))
    assert torch.equal(module.frozen, torch.ones(2, dtype=DOUBLE))


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'ssbroyden'"):
        minimize(rosenbrock, START, method="ssbroiden")
    with pytest.raises(ValueError, match="bfgs, broyden, "):
        minimize(rosenbrock, START, method="newton-raphson")


def test_method_is_found_whatever_its_case() -> None:
    assert type(minimize(rosenbrock, START, method="BFGS", options={"maxiter": 1}).optimizer) is secant.BFGS


@pytest.mark.parametrize(
    ("name", "nearest"), [("max_iter", "maxiter"), ("globalisation", "globalization"), ("weightdecay", "weight_decay"), ("maxfev", "maxfun")]
)
def test_unknown_option_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"got '{name}'. Did you mean '{nearest}'"):
        minimize(rosenbrock, START, options={name: 1})


@pytest.mark.parametrize("name", ["callback", "params", "gradient_tolerance", "iterations_per_step", "self"])
def test_options_that_minimize_sets_itself_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"got '{name}'"):
        minimize(rosenbrock, START, options={name: 1})


def test_options_reach_the_constructor() -> None:
    result = minimize(rosenbrock, START, method="sr1", options={"globalization": secant.Armijo(), "initial_scale": 1e-3, "maxiter": 2})
    assert {row.outcome for row in result.trace} <= {Outcome.ARMIJO, Outcome.DECREASE}


@pytest.mark.parametrize("name", ["maxiter", "maxfun", "seconds"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_budget_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Expected {name} > 0"):
        minimize(rosenbrock, START, options={name: value})


@pytest.mark.parametrize("name", ["maxiter", "maxfun", "seconds"])
def test_budget_of_none_is_the_default(name: str) -> None:
    assert minimize(rosenbrock, START, options={name: None}).success


def test_budget_of_iterations_is_kept_and_said() -> None:
    result = minimize(rosenbrock, START, options={"maxiter": 5})
    assert (result.nit, result.outcome, result.status, result.success) == (5, Outcome.BUDGET, 1, False)
    assert "budget" in result.message


def test_budget_of_evaluations_ends_the_run_after_the_iteration_that_spent_it() -> None:
    result = minimize(rosenbrock, START, options={"maxfun": 10})
    assert result.outcome is Outcome.BUDGET
    assert 10 <= result.nfev <= 10 + 40
    assert result.trace[-2].counts.losses < 10


def test_budget_of_seconds_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("secant.run.time.perf_counter", lambda: float(next(clock)))
    result = minimize(rosenbrock, START, options={"seconds": 12.0})
    assert result.outcome is Outcome.BUDGET
    assert 1 <= result.nit < 12


@pytest.mark.parametrize("method", FAST)
def test_tolerance_is_relative_to_the_first_gradient(method: str) -> None:
    loose = minimize(rosenbrock, START, method=method, tol=1e-3)
    scaled = minimize(lambda x: 1e6 * rosenbrock(x), START, method=method, tol=1e-3)
    assert loose.outcome is scaled.outcome is Outcome.CONVERGED
    assert loose.success
    first = torch.autograd.functional.jacobian(rosenbrock, START).abs().max()
    assert loose.grad.abs().max() <= 1e-3 * first
    assert loose.nit == scaled.nit


def test_start_at_the_minimum_is_a_success_without_iterations() -> None:
    result = minimize(lambda x: (x**2).sum(), torch.zeros(3, dtype=DOUBLE))
    assert (result.nit, result.nfev, result.success, result.outcome) == (0, 1, True, Outcome.CONVERGED)
    assert "max |grad|" in str(result)


def test_callback_may_stop_the_run() -> None:
    seen: list[Iteration] = []

    def callback(iteration: Iteration) -> None:
        seen.append(iteration)
        if iteration.number == 3:
            raise StopIteration

    result = minimize(rosenbrock, START, callback=callback)
    assert (result.nit, result.outcome, result.success, result.status) == (3, Outcome.CALLBACK, False, 2)
    assert [i.number for i in seen] == [1, 2, 3]


def test_progress_gets_a_line_per_iteration() -> None:
    lines: list[str] = []
    result = minimize(rosenbrock, START, progress=lines.append)
    assert len(lines) == result.nit
    assert lines[0].startswith("iteration 1: loss")


MATRIX = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]], dtype=DOUBLE)


def test_inverse_hessian_of_a_quadratic_is_recovered_by_sr1() -> None:
    result = minimize(lambda x: 0.5 * (x - 1.0) @ MATRIX @ (x - 1.0), torch.zeros(3, dtype=DOUBLE), method="sr1", tol=1e-9)
    torch.testing.assert_close(result.hess_inv @ MATRIX, torch.eye(3, dtype=DOUBLE), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_inverse_hessian_of_the_result_knows_the_last_step(method: str) -> None:
    result = minimize(lambda x: 0.5 * (x - 1.0) @ MATRIX @ (x - 1.0), torch.zeros(3, dtype=DOUBLE), method=method, tol=1e-6)
    step = result.optimizer.last_step
    assert step is not None
    y, s = step.kept.grad - step.start.grad, step.kept.x - step.start.x
    torch.testing.assert_close(result.hess_inv @ y, s, rtol=1e-6, atol=1e-6 * float(s.norm()))
    assert torch.equal(result.hess_inv, result.hess_inv.T)
    assert torch.linalg.eigvalsh(result.hess_inv)[0] > 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_exception_leaves_the_module_at_the_best_point_of_the_whole_run(method: str, error: type[BaseException]) -> None:
    module, seen = Line(), []

    def fun() -> Tensor:
        if len(seen) == 6:
            raise error("mine")
        loss = rosenbrock(torch.cat([module.weight, module.weight.flip(0)]) - 0.7)
        seen.append((loss.item(), module.weight.detach().clone()))
        return loss

    with pytest.raises(error, match="mine"):
        minimize(fun, module, method=method)
    assert torch.equal(module.weight.detach(), min(seen, key=lambda pair: pair[0])[1])


def test_exception_at_the_first_evaluation_leaves_the_module_alone() -> None:
    module = Line()
    with pytest.raises(ZeroDivisionError):
        minimize(lambda: 1 / 0, module)
    assert not module.weight.any()


@pytest.mark.parametrize("method", METHODS)
def test_region_without_numbers_is_walked_around(method: str) -> None:
    def fun(x: Tensor) -> Tensor:  # not a number for x >= 4, and the first steps want to go there
        return -torch.log(4.0 - x).sum() * 0.1 + ((x - 3.9) ** 2).sum() + torch.exp(-x).sum()

    result = minimize(fun, torch.tensor([-3.0, 1.0], dtype=DOUBLE), method=method, options={"lr": 20.0})
    assert torch.isfinite(result.x).all()
    assert result.grad.abs().max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_not_a_number_from_the_start_is_said(method: str) -> None:
    result = minimize(lambda x: torch.log(x).sum(), -torch.ones(2, dtype=DOUBLE), method=method)
    assert result.outcome is Outcome.NOT_FINITE
    assert not result.success
    assert result.status == 2
    assert torch.equal(result.x, -torch.ones(2, dtype=DOUBLE))


@pytest.mark.parametrize("method", METHODS)
def test_not_a_number_everywhere_else_ends_the_run_at_the_start(method: str) -> None:
    start = torch.ones(2, dtype=DOUBLE)
    result = minimize(lambda x: (x**2).sum() / (x == start).all(), start, method=method)
    assert result.outcome is Outcome.NOT_FINITE
    assert not result.success
    assert torch.equal(result.x, start)


@pytest.mark.parametrize("method", METHODS)
def test_quadratic_that_falls_without_bound_is_called_unbounded(method: str) -> None:
    result = minimize(lambda x: x[0] ** 2 - x[1] ** 2 + x[1], torch.tensor([1.0, 0.1], dtype=DOUBLE), method=method)
    assert result.outcome is Outcome.UNBOUNDED
    assert not result.success
    assert torch.isfinite(result.x).all()


@pytest.mark.parametrize("method", METHODS)
def test_linear_loss_is_called_unbounded(method: str) -> None:
    assert minimize(lambda x: x.sum(), torch.zeros(2, dtype=DOUBLE), method=method).outcome is Outcome.UNBOUNDED


def test_zero_learning_rate_is_said() -> None:
    result = minimize(rosenbrock, START, options={"lr": 0.0})
    assert result.outcome is Outcome.ZERO_LEARNING_RATE
    assert torch.equal(result.x, START)
    assert not result.success


def test_globalization_in_the_options_may_serve_several_runs() -> None:
    options = {"globalization": secant.TrustRegion()}
    first, second = (minimize(rosenbrock, START, method="sr1", options=options) for _ in range(2))
    assert [row.loss for row in first.trace] == [row.loss for row in second.trace]


def test_maximizing_reports_the_function_itself() -> None:
    result = minimize(lambda x: 5.0 - ((x - 1.0) ** 2).sum(), torch.zeros(2, dtype=DOUBLE), options={"maximize": True})
    assert result.fun == pytest.approx(5.0)
    torch.testing.assert_close(result.x, torch.ones(2, dtype=DOUBLE))


@pytest.mark.parametrize("method", METHODS)
def test_fixed_steps_that_run_away_end_at_the_best_point_of_the_run(method: str) -> None:
    seen: list[float] = []

    def fun(x: Tensor) -> Tensor:
        loss = rosenbrock(x)
        seen.append(loss.item())
        return loss

    result = minimize(fun, START, method=method, options={"globalization": secant.FixedStep(), "maxiter": 40})
    assert result.fun <= min(seen) * (1.0 + 1e-14)


def test_float32_run_ends_at_the_floor_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="float32") as caught:
        result = minimize(lambda x: rosenbrock(x) + torch.cosh(x).sum(), START.float())
    assert result.success
    assert caught[0].filename == __file__
    assert result.x.dtype == torch.float32
