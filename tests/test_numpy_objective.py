"""Functions of NumPy arrays in ``minimize``, against SciPy's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, sparse
from scipy.optimize import rosen, rosen_der, rosen_hess, rosen_hess_prod

from secant import Outcome, minimize
from secant.numpy_objective import NumpyObjective
from secant.objective import Objective

Array = np.ndarray[Any, Any]
START = np.array([-1.2, 1.0, -1.2, 1.0])


def rosen_both(x: Array) -> tuple[float, Array]:
    return rosen(x), rosen_der(x)


def objective_of(source: NumpyObjective, **options: Any) -> Objective:
    groups = [{"params": [source.variable], "lr": 1.0, "weight_decay": 0.0}]
    objective = Objective(groups, **options)
    objective.bind(source.loss, groups)
    return objective


@pytest.mark.parametrize(("fun", "jac"), [(rosen, rosen_der), (rosen_both, True)], ids=["two functions", "one function"])
def test_answer_is_numpy_and_agrees_with_scipy(fun: Callable[[Array], Any], jac: Any) -> None:
    theirs = optimize.minimize(fun, START, jac=jac, method="BFGS")
    ours = minimize(fun, START, "bfgs", jac=jac)
    assert all(type(part) is np.ndarray and part.dtype == np.float64 for part in (ours.x, ours.grad, ours.jac, ours.hess_inv))
    assert (ours.x.shape, ours.grad.shape, ours.hess_inv.shape) == ((4,), (4,), (4, 4))
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-5)
    np.testing.assert_allclose(ours.hess_inv @ rosen_hess(ours.x), np.eye(4), atol=0.1)
    assert ours.fun <= theirs.fun
    assert np.array_equal(START, [-1.2, 1.0, -1.2, 1.0])
    assert "max |grad|" in str(ours)


def test_the_same_path_is_taken_as_with_tensors() -> None:
    numbers = minimize(rosen, START, jac=rosen_der, options={"maxiter": 10})

    def fun(x: torch.Tensor) -> torch.Tensor:
        return (100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2).sum()

    tensors = minimize(fun, torch.from_numpy(START), options={"maxiter": 10})
    np.testing.assert_allclose(numbers.x, tensors.x.numpy(), rtol=1e-9)
    assert (numbers.nfev, numbers.njev) == (tensors.nfev, tensors.njev)


@pytest.mark.parametrize("jac", [None, False, "2-point", "3-point"])
def test_differences_reach_the_minimum_at_about_scipys_price(jac: Any) -> None:
    calls = 0

    def fun(x: Array) -> float:
        nonlocal calls
        calls += 1
        return float(rosen(x))

    theirs = optimize.minimize(rosen, START, jac=jac or "2-point", method="BFGS")
    ours = minimize(fun, START, jac=jac)
    assert ours.outcome is Outcome.CONVERGED
    np.testing.assert_allclose(ours.x, np.ones(4), atol=1e-6 if jac == "3-point" else 1e-3)
    assert ours.nfev == calls
    assert ours.nfev == ours.njev * (9 if jac == "3-point" else 5)
    assert ours.nfev < 1.5 * theirs.nfev
    assert ours.trace[-1].counts.losses == calls


def test_every_call_is_counted_once() -> None:
    calls = {"fun": 0, "jac": 0}

    def fun(x: Array) -> float:
        calls["fun"] += 1
        return float(rosen(x))

    def jac(x: Array) -> Array:
        calls["jac"] += 1
        return np.asarray(rosen_der(x))

    result = minimize(fun, START, jac=jac)
    assert (result.nfev, result.njev, result.nhev) == (calls["fun"], calls["jac"], 0)


def test_budget_of_evaluations_counts_the_calls_for_differences() -> None:
    result = minimize(rosen, START, options={"maxfun": 60})
    assert result.outcome is Outcome.BUDGET
    assert result.trace[-2].counts.losses < 60 <= result.nfev


def matrix_free(x: Array) -> Any:
    return sparse.linalg.aslinearoperator(rosen_hess(x))


@pytest.mark.parametrize(
    "second",
    [{"hess": rosen_hess}, {"hess": lambda x: sparse.csr_array(rosen_hess(x))}, {"hess": matrix_free}, {"hessp": rosen_hess_prod}],
    ids=["dense", "sparse", "operator", "products"],
)
def test_hessian_products_are_those_of_the_matrix(second: dict[str, Any]) -> None:
    source = NumpyObjective(rosen, START, jac=rosen_der, **second)
    objective = objective_of(source)
    at = np.array([0.3, -0.7, 1.1, 0.2])
    objective.at(torch.from_numpy(at.copy()))
    directions = torch.eye(4, dtype=torch.float64)
    products = torch.stack([objective.hessian_times(direction) for direction in directions])
    np.testing.assert_allclose(products.numpy(), rosen_hess(at), rtol=1e-12, atol=1e-12)
    assert source.counts.hessian_products == (4 if "hessp" in second else 1)
    assert (source.counts.losses, source.counts.gradients) == (1, 1), "the graph was built from what was known"


def test_hessian_products_without_a_hessian_say_what_to_pass() -> None:
    objective = objective_of(NumpyObjective(rosen, START, jac=rosen_der))
    objective.here()
    with pytest.raises(TypeError, match=r"Pass hess= or hessp=, or options="):
        objective.hessian_times(torch.ones(4, dtype=torch.float64))


def test_hessian_products_may_be_differences_of_the_gradient() -> None:
    objective = objective_of(NumpyObjective(rosen, START, jac=rosen_der), hessian="differences")
    objective.here()
    direction = torch.tensor([1.0, -2.0, 0.5, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(objective.hessian_times(direction).numpy(), rosen_hess_prod(START, direction.numpy()), rtol=1e-7)


def test_hessian_of_a_method_that_learns_it_is_called_unused() -> None:
    with pytest.warns(UserWarning, match="bfgs makes no use of hess") as caught:
        minimize(rosen, START, "bfgs", jac=rosen_der, hess=rosen_hess, options={"maxiter": 2})
    assert caught[0].filename == __file__


def test_arguments_reach_every_function() -> None:
    def fun(x: Array, a: float, b: float) -> float:
        return float(a * ((x - b) ** 2).sum())

    def jac(x: Array, a: float, b: float) -> Array:
        return 2.0 * a * (x - b)

    np.testing.assert_allclose(minimize(fun, [0.0, 0.0], args=(2.0, 3.0), jac=jac).x, [3.0, 3.0])
    np.testing.assert_allclose(minimize(lambda x, b: ((x - b) ** 2).sum(), [0.0], args=5.0, jac="3-point").x, [5.0], atol=1e-8)
    second = NumpyObjective(fun, [1.0, 2.0], (2.0, 3.0), jac=jac, hess=lambda x, a, b: 2.0 * a * np.eye(2))
    np.testing.assert_allclose(objective_of(second).hessian_times(torch.ones(2, dtype=torch.float64)).numpy(), [4.0, 4.0])
    target = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(minimize(lambda x, t: ((x - t) ** 2).sum(), torch.zeros(2, dtype=torch.float64), args=(target,)).x, target)
    module = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    minimize(lambda m, t: ((m.weight - t) ** 2).sum(), module, args=(4.0,))
    assert module.weight.item() == pytest.approx(4.0)


@pytest.mark.parametrize("start", [3, 3.0, np.float64(3.0), [3], (3.0,), np.array([3]), np.array(3.0), np.array([True])])
def test_numbers_lists_and_integers_are_taken_as_in_scipy(start: Any) -> None:
    result = minimize(lambda x: float(((x - 0.5) ** 2).sum()), start, jac=lambda x: 2.0 * (x - 0.5))
    assert (result.x.shape, result.x.dtype) == ((1,), np.float64)
    assert result.x == pytest.approx(0.5)


def test_start_of_foreign_order_and_of_a_read_only_view_is_taken() -> None:
    for start in (START.astype(">f8"), START[::-1], np.broadcast_to(np.float64(0.5), (4,))):
        assert minimize(rosen, start, jac=rosen_der).success


def test_functions_may_overwrite_what_they_get() -> None:
    kept = np.empty(4)

    def jac(x: Array) -> Array:
        kept[:] = rosen_der(x)
        x[:] = np.nan
        return kept  # the same memory every time

    def fun(x: Array) -> float:
        loss = float(rosen(x))
        x *= 0.0
        return loss

    np.testing.assert_array_equal(minimize(fun, START, jac=jac).x, minimize(rosen, START, jac=rosen_der).x)


def test_single_precision_is_kept() -> None:
    result = minimize(lambda x: np.float32(((x - 2.0) ** 2).sum()), np.zeros(2, np.float32), jac=lambda x: 2.0 * (x - 2.0), tol=1e-4)
    assert result.x.dtype == result.grad.dtype == np.float32
    np.testing.assert_allclose(result.x, [2.0, 2.0], rtol=1e-5)


@pytest.mark.parametrize("loss", [np.array(1.0), np.array([1.0]), np.array([[1.0]]), 1, True, np.float64(1.0)])
def test_loss_may_be_any_one_number(loss: Any) -> None:
    assert minimize(lambda x: loss, [0.0], jac=lambda x: [0.0]).fun == 1.0


@pytest.mark.parametrize(
    ("fun", "jac", "error", "match"),
    [
        (lambda x: x, None, ValueError, r"fun to return one number, got an array of shape \(2,\)"),
        (lambda x: None, None, TypeError, "got NoneType. End it with"),
        (lambda x: 1j, None, TypeError, "one real number, got complex128"),
        (lambda x: (1.0, x), None, TypeError, "pass jac=True"),
        (lambda x: 1.0, True, TypeError, r"Expected fun to return \(loss, gradient\) because jac=True, got float"),
        (lambda x: 1.0, lambda x: x[:1], ValueError, r"jac to return an array of shape \(2,\), got \(1,\)"),
        (lambda x: 1.0, lambda x: x[None], ValueError, r"got \(1, 2\)"),
        (lambda x: 1.0, lambda x: None, TypeError, "jac to return an array of real numbers, got object"),
        (lambda x: (1.0, x[:1]), True, ValueError, r"the gradient of shape \(2,\), got \(1,\)"),
        (lambda x: 1.0, "cs", ValueError, "'2-point' or '3-point', got 'cs'"),
        (lambda x: 1.0, np.zeros(2), ValueError, "Expected jac to be a function"),
    ],
)
def test_wrong_returns_say_what_was_expected(fun: Any, jac: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        minimize(fun, [0.0, 1.0], jac=jac)


@pytest.mark.parametrize(
    ("start", "error", "match"),
    [
        (np.zeros((2, 2)), ValueError, r"one dimension, got shape \(2, 2\). Pass x0.ravel\(\)"),
        ([], ValueError, "at least one number"),
        ([1j], TypeError, "real numbers, got complex128"),
        (["a"], TypeError, "floating-point numbers"),
        (np.zeros(2, np.longdouble), TypeError, "numpy.asarray"),
        ([torch.zeros(1), 1.0], TypeError, "torch.as_tensor"),
        (None, TypeError, "torch.as_tensor"),
    ],
)
def test_wrong_starts_say_what_was_expected(start: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        minimize(lambda x: 1.0, start)


@pytest.mark.parametrize("options", [{"hess": 1}, {"hessp": "2-point"}])
def test_hessians_that_are_no_functions_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="to be a function"):
        minimize(rosen, START, jac=rosen_der, **options)


def test_hessian_of_the_wrong_shape_is_refused() -> None:
    objective = objective_of(NumpyObjective(rosen, START, jac=rosen_der, hess=lambda x: np.eye(3)))
    with pytest.raises(ValueError, match=r"matrix of shape \(4, 4\), got \(3, 3\)"):
        objective.hessian_times(torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("limits", [{"bounds": [(0, 1)]}, {"constraints": {"type": "eq"}}, {"bounds": optimize.Bounds(0, 1), "constraints": [{}]}])
def test_limits_are_refused_with_the_remedy(limits: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"Expected an unconstrained problem.*scipy\.optimize\.minimize"):
        minimize(rosen, START, **limits)


def test_empty_limits_are_none() -> None:
    assert minimize(rosen, START, jac=rosen_der, bounds=None, constraints=()).success


def test_derivatives_of_functions_of_tensors_are_refused() -> None:
    with pytest.raises(TypeError, match="jac and hess only with an array-like x0"):
        minimize(lambda x: x.sum(), torch.zeros(2), jac=lambda x: x, hess=lambda x: x)


def test_scipys_third_positional_argument_is_told_apart() -> None:
    with pytest.raises(TypeError, match="Pass further arguments of fun as args="):
        minimize(rosen, START, (1.0,))  # type: ignore[arg-type]


@pytest.mark.parametrize("jac", [lambda x: 1.0 / x, None, "3-point"])
def test_not_a_number_from_the_start_is_said(jac: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = minimize(lambda x: np.log(x).sum(), [-1.0, -1.0], jac=jac)
    assert result.outcome is Outcome.NOT_FINITE
    assert np.array_equal(result.x, [-1.0, -1.0])
    assert result.nfev <= 6, "nothing is differenced around a value that is no number"


def test_a_border_of_the_domain_is_walked_around() -> None:
    def fun(x: Array) -> float:
        return float(-np.log(4.0 - x).sum() * 0.1 + ((x - 3.9) ** 2).sum()) if (x < 4.0).all() else np.inf

    theirs = optimize.minimize(fun, [1.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-8})
    np.testing.assert_allclose(minimize(fun, [-3.0, 1.0], options={"lr": 20.0}).x, theirs.x, atol=1e-4)


def test_exceptions_of_the_function_reach_the_caller() -> None:
    def fun(x: Array) -> float:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        minimize(fun, START)


def test_maximizing_and_weight_decay_apply_to_numpy_functions() -> None:
    result = minimize(lambda x: 5.0 - float(((x - 1.0) ** 2).sum()), [0.0, 0.0], jac=lambda x: -2.0 * (x - 1.0), options={"maximize": True})
    assert result.fun == pytest.approx(5.0)
    decayed = minimize(lambda x: float(((x - 1.0) ** 2).sum()), [0.0], jac=lambda x: 2.0 * (x - 1.0), options={"weight_decay": 2.0})
    np.testing.assert_allclose(decayed.x, [0.5])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6))
def test_minimizer_of_a_random_quadratic_solves_its_equations(size: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    root, right = generator.standard_normal((size, size)), generator.standard_normal(size)
    matrix = root @ root.T + np.eye(size)
    result = minimize(lambda x: 0.5 * x @ matrix @ x - right @ x, np.zeros(size), jac=lambda x: matrix @ x - right)
    assert result.success
    np.testing.assert_allclose(result.x, np.linalg.solve(matrix, right), rtol=1e-6, atol=1e-8)
