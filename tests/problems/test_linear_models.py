import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from secant.problems import Problem, build_linear_regression, build_logistic
from secant.problems.datasets import breast_cancer, diabetes, standardized

BOTH = pytest.mark.parametrize("build", [build_linear_regression, build_logistic])


def minimized(problem: Problem) -> Problem:
    optimizer = torch.optim.LBFGS(problem.parameters, max_iter=500, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss()
        loss.backward()
        return loss

    optimizer.step(closure)
    return problem


@BOTH
def test_a_minimizer_reaches_the_reference_and_not_less(build: Callable[[int], Problem]) -> None:
    problem = build(0)
    assert problem.error is not None
    assert problem.reference is not None
    assert problem.error() > 0.1
    minimized(problem)
    assert problem.loss().item() == pytest.approx(problem.reference, rel=1e-12)
    assert problem.loss().item() >= problem.reference * (1.0 - 1e-14)
    # A line search on the loss cannot resolve a distance much below the square root of rounding, 1.5e-8.
    assert problem.error() < 1e-6


def test_linear_reference_equals_scikit_learn() -> None:
    from sklearn.linear_model import LinearRegression

    features, target = (standardized(data).numpy() for data in diabetes(problem="linear-regression"))
    residual = target - LinearRegression().fit(features, target).predict(features)
    assert build_linear_regression(0).reference == pytest.approx(np.mean(residual**2), rel=1e-13)


def test_gradient_vanishes_at_the_logistic_reference() -> None:
    from secant.problems.logistic import logistic_loss, logistic_optimum

    features, labels = breast_cancer(problem="logistic")
    optimum = logistic_optimum(standardized(features), labels)
    parameters = (optimum[:-1].clone().requires_grad_(), optimum[-1:].clone().requires_grad_())
    gradient = torch.cat(torch.autograd.grad(logistic_loss(parameters, standardized(features), 2.0 * labels - 1.0), parameters))
    assert gradient.abs().max() < 1e-11


def test_logistic_loss_is_exact_for_large_margins() -> None:
    from secant.problems.logistic import logistic_loss

    zero_weight, intercept = torch.zeros(1, dtype=torch.float64), torch.tensor([30.0], dtype=torch.float64)
    loss = logistic_loss((zero_weight, intercept), torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert loss.item() == pytest.approx(np.log1p(np.exp(-30.0)), rel=1e-14)


def test_standardized_columns_have_mean_zero_and_variance_one() -> None:
    features, _ = diabetes(problem="linear-regression")
    columns = standardized(features)
    assert columns.mean(dim=0).abs().max() < 1e-14
    torch.testing.assert_close(columns.square().mean(dim=0), torch.ones(10, dtype=torch.float64), rtol=1e-13, atol=0.0)


def test_data_are_those_of_the_published_records() -> None:
    assert build_linear_regression(0).settings["data_sha256"] == "e9c1f7559552854a24dc45b41c446ce5f79f96e5da081bcce24b57492720b3f7"
    assert build_logistic(0).settings["data_sha256"] == "cdd5f37c36cbdfc2e5ee074cec7540fac54340874afb25917a673e446270d0d0"


@BOTH
def test_absent_scikit_learn_is_reported_with_the_remedy(build: Callable[[int], Problem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r'scikit-learn.*pip install "secant\[race\]"$'):
        build(0)
