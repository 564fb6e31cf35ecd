"""Linear classifiers against scikit-learn's optimum."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn import linear_model, svm
from sklearn.datasets import load_breast_cancer, load_iris, load_wine, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from secant.estimators import LinearSVC, LogisticRegression
from secant.methods import METHODS

Array = np.ndarray[Any, Any]
DATA = {"breast cancer": load_breast_cancer, "iris": load_iris, "wine": load_wine}


def scaled(name: str) -> tuple[Array, Array]:
    X, y = DATA[name](return_X_y=True)
    return StandardScaler().fit_transform(X), y


def assert_same_model(ours: Any, theirs: Any) -> None:
    size = np.abs(theirs.coef_).max()
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6 * size, rtol=0.0)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-6 * max(size, np.abs(theirs.intercept_).max()), rtol=0.0)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("options", [{}, {"C": 0.01}, {"C": 100.0}, {"fit_intercept": False}, {"class_weight": "balanced"}], ids=str)
def test_logistic_regression_agrees_with_scikit_learns_newton(data: str, options: dict[str, Any]) -> None:
    X, y = scaled(data)
    theirs = linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-13, max_iter=200, **options).fit(X, y)
    ours = LogisticRegression(tol=1e-10, **options).fit(X, y)
    assert_same_model(ours, theirs)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("options", [{}, {"C": 0.01}, {"fit_intercept": False}, {"intercept_scaling": 10.0}, {"class_weight": {1: 3.0}}], ids=str)
def test_linear_svc_agrees_with_scikit_learns_liblinear(data: str, options: dict[str, Any]) -> None:
    X, y = scaled(data)
    theirs = svm.LinearSVC(dual=False, tol=1e-13, max_iter=10_000, **options).fit(X, y)
    ours = LinearSVC(tol=1e-11, **options).fit(X, y)
    assert_same_model(ours, theirs)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-5)


@pytest.mark.parametrize("data", DATA)
def test_loss_is_the_objective_that_scikit_learn_documents(data: str) -> None:
    X, y = scaled(data)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    logistic = LogisticRegression(C=0.7).fit(X, y, weights)
    log_proba = logistic.predict_log_proba(X)[np.arange(len(y)), y]
    assert logistic.loss_ == pytest.approx(0.7 * -(weights * log_proba).sum() + 0.5 * (logistic.coef_**2).sum(), rel=1e-12)
    machine = LinearSVC(C=0.7).fit(X, y, weights)
    scores = machine.decision_function(X).reshape(len(y), -1)
    signs = np.where(y[:, None] == (np.arange(3) if scores.shape[1] == 3 else [1]), 1.0, -1.0)
    hinge = (weights[:, None] * np.maximum(0.0, 1.0 - signs * scores) ** 2).sum()
    assert machine.loss_ == pytest.approx(0.7 * hinge + 0.5 * ((machine.coef_**2).sum() + (machine.intercept_**2).sum()), rel=1e-12)


@pytest.mark.parametrize("estimator", [LogisticRegression, LinearSVC])
def test_weights_of_samples_count_as_repetitions(estimator: Any) -> None:
    X, y = scaled("iris")
    times = np.random.default_rng(1).integers(0, 4, len(y))
    weighted = estimator(tol=1e-10).fit(X, y, sample_weight=times)
    repeated = estimator(tol=1e-10).fit(np.repeat(X, times, axis=0), np.repeat(y, times))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("estimator", [LogisticRegression, LinearSVC])
def test_scale_of_the_columns_changes_neither_path_nor_predictions_without_a_penalty(estimator: Any) -> None:
    X, y = scaled("wine")
    X = X + np.random.default_rng(2).standard_normal(X.shape) * 3.0  # not separable
    factors = np.logspace(-4, 4, X.shape[1])
    plain, stretched = (estimator(C=1e12, intercept_scaling=1e3) if estimator is LinearSVC else estimator(C=1e12) for _ in range(2))
    plain.fit(X, y)
    stretched.fit(X * factors + 7.0 * factors, y)
    assert plain.n_iter_[0] < 60
    assert stretched.n_iter_[0] < 60
    np.testing.assert_array_equal(plain.predict(X), stretched.predict(X * factors + 7.0 * factors))


@pytest.mark.parametrize("estimator", [LogisticRegression, LinearSVC])
def test_constant_copied_and_surplus_columns_are_taken(estimator: Any) -> None:
    X, y = scaled("iris")
    extended = np.column_stack([X, X[:, 0], np.full(len(y), 1e6), np.zeros(len(y)), np.eye(len(y))])
    model = estimator(C=1e3).fit(extended, y)
    assert np.isfinite(model.coef_).all()
    np.testing.assert_allclose(model.coef_[:, 0], model.coef_[:, 4], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(model.coef_[:, 6], 0.0)
    assert model.score(extended, y) == 1.0


def test_data_with_more_columns_than_are_whitened_reach_scikit_learns_loss() -> None:
    X, y = make_classification(60, 1100, random_state=0)
    theirs = linear_model.LogisticRegression(tol=1e-10, max_iter=2000).fit(X, y)
    ours = LogisticRegression().fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5 * np.abs(theirs.coef_).max())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "dfp"])
def test_every_method_fits(method: str) -> None:
    X, y = scaled("breast cancer")
    reference = LogisticRegression().fit(X, y)
    assert LogisticRegression(method=method, tol=1e-6).fit(X, y).loss_ == pytest.approx(reference.loss_, rel=1e-8)


def test_labels_may_be_words_and_frames_give_names() -> None:
    pandas = pytest.importorskip("pandas")
    X, y = scaled("iris")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    words = np.array(["setosa", "versicolor", "virginica"])[y]
    model = LogisticRegression().fit(frame, words)
    assert list(model.feature_names_in_) == list("abcd")
    assert model.predict(frame)[0] == "setosa"


def test_intercepts_of_several_classes_sum_to_zero() -> None:
    assert LogisticRegression().fit(*scaled("iris")).intercept_.sum() == pytest.approx(0.0, abs=1e-12)


def test_certain_classes_have_finite_logarithms() -> None:
    model = LogisticRegression(C=1e4).fit([[-1.0], [1.0]], [0, 1])
    far = np.array([[-1e5], [1e5]])
    assert np.isfinite(model.predict_log_proba(far)).all()
    assert (model.predict_proba(far) > 0.0).all()


@pytest.mark.parametrize("estimator", [LogisticRegression, LinearSVC])
def test_too_few_iterations_are_said(estimator: Any) -> None:
    with pytest.warns(ConvergenceWarning, match="budget of iterations") as caught:
        model = estimator(max_iter=2).fit(*scaled("breast cancer"))
    assert caught[0].filename == __file__
    assert "budget" in model.outcome_
    assert model.n_iter_[0] == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"C": 0.0}, "Expected C > 0, got 0.0"),
        ({"C": float("nan")}, "Expected C > 0, got nan"),
        ({"tol": -1.0}, "Expected tol >= 0"),
        ({"max_iter": 0}, "Expected max_iter to be a positive integer, got 0"),
        ({"max_iter": True}, "Expected max_iter to be a positive integer"),
        ({"method": "newton"}, "Expected method to be one of"),
        ({"class_weight": {7: 1.0}}, r"classes among \[0, 1, 2\], got \[7\]"),
        ({"class_weight": "heavy"}, "None, 'balanced' or a dict"),
    ],
)
@pytest.mark.parametrize("estimator", [LogisticRegression, LinearSVC])
def test_options_out_of_range_are_refused(estimator: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        estimator(**options).fit(*scaled("iris"))


@pytest.mark.parametrize("weights", [[-1.0] + [1.0] * 149, np.zeros(150), np.ones(149), np.full(150, np.nan)], ids=["negative", "zeros", "short", "nan"])
def test_weights_that_make_no_sense_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match=r"sample_weight|inconsistent"):
        LogisticRegression().fit(*scaled("iris"), sample_weight=weights)


def test_verbose_is_silent_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        LogisticRegression(verbose=True).fit(*scaled("iris"))
    assert capfd.readouterr() == ("", "")


def test_absent_scikit_learn_is_reported_with_the_remedy() -> None:
    program = "import sys; sys.modules['sklearn'] = None\nimport secant\nimport secant.estimators"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.stderr.splitlines()[-1].endswith('secant.estimators needs scikit-learn, which is not installed; install it: pip install "secant[sklearn]"')
