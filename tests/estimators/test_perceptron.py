"""Perceptrons against scikit-learn's: the same start, the same objective, the same predictions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn import linear_model, neural_network
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler, scale

from secant.estimators import MLPClassifier, MLPRegressor

Array = np.ndarray[Any, Any]
ACTIVATIONS = ("identity", "logistic", "relu", "tanh")


def iris() -> tuple[Array, Array]:
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def cancer() -> tuple[Array, Array]:
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X)[:200, :10], y[:200]


def diabetes() -> tuple[Array, Array]:
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X), scale(y)


def short(estimator: Any, X: Array, y: Array, sample_weight: Any = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, y, sample_weight=sample_weight)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("ours", "theirs", "data"), [(MLPClassifier, neural_network.MLPClassifier, iris), (MLPRegressor, neural_network.MLPRegressor, diabetes)]
)
def test_start_is_scikit_learns(ours: Any, theirs: Any, data: Any, activation: str) -> None:
    X, y = data()
    still = short(theirs(hidden_layer_sizes=(5, 4), activation=activation, solver="sgd", learning_rate_init=1e-300, max_iter=1, random_state=3), X, y)
    outputs = 3 if y.dtype.kind == "i" else 1
    start = ours((5, 4), activation, random_state=3)._start([X.shape[1], 5, 4, outputs])
    for mine, yours in zip(start, [part for layer in zip(still.coefs_, still.intercepts_, strict=True) for part in layer], strict=True):
        np.testing.assert_array_equal(mine.numpy(), yours)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("data", [iris, cancer])
def test_classifier_computes_what_scikit_learns_does_with_the_same_weights(data: Any, activation: str) -> None:
    X, y = data()
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    ours = short(MLPClassifier((6, 5), activation, alpha=0.1, max_iter=20, random_state=0), X, y, weights)
    theirs = short(neural_network.MLPClassifier((6, 5), activation, solver="lbfgs", max_iter=1), X, y)
    theirs.coefs_, theirs.intercepts_ = ours.coefs_, ours.intercepts_
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    log_proba = ours.predict_log_proba(X)[np.arange(len(y)), y]
    penalty = 0.05 * sum((weight**2).sum() for weight in ours.coefs_) / weights.sum()
    assert ours.loss_ == pytest.approx(-np.average(log_proba, weights=weights) + penalty, rel=1e-12)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_regressor_computes_what_scikit_learns_does_with_the_same_weights(activation: str) -> None:
    X, y = diabetes()
    ours = short(MLPRegressor((6,), activation, alpha=0.1, max_iter=20, random_state=0), X, y)
    theirs = short(neural_network.MLPRegressor(hidden_layer_sizes=(6,), activation=activation, solver="lbfgs", max_iter=1), X, y)
    theirs.coefs_, theirs.intercepts_ = ours.coefs_, ours.intercepts_
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-10, atol=1e-12)
    penalty = 0.05 * sum((weight**2).sum() for weight in ours.coefs_) / len(y)
    assert ours.loss_ == pytest.approx(0.5 * ((ours.predict(X) - y) ** 2).mean() + penalty, rel=1e-12)


def test_network_without_a_hidden_layer_is_ridge_regression() -> None:
    X, y = diabetes()
    model = MLPRegressor((), alpha=1.0, tol=1e-10, random_state=0).fit(X, y)
    np.testing.assert_allclose(model.coefs_[0], linear_model.Ridge(alpha=1.0, tol=1e-14).fit(X, y).coef_[:, None], atol=1e-9)


def test_from_the_same_start_the_loss_ends_below_scikit_learns() -> None:
    X, y = diabetes()
    theirs = short(neural_network.MLPRegressor(hidden_layer_sizes=(10,), activation="tanh", solver="lbfgs", tol=1e-5, max_iter=200, random_state=0), X, y)
    ours = short(MLPRegressor((10,), "tanh", max_iter=200, random_state=0), X, y)
    assert ours.loss_ < theirs.loss_


def test_several_outputs_are_averaged() -> None:
    X, y = diabetes()
    both = np.column_stack([y, -y])
    model = short(MLPRegressor((5,), "tanh", alpha=0.0, max_iter=30, random_state=0), X, both)
    assert model.predict(X).shape == both.shape
    assert model.loss_ == pytest.approx(0.5 * ((model.predict(X) - both) ** 2).mean(), rel=1e-12)


def test_the_same_random_state_gives_the_same_network_bit_for_bit() -> None:
    first, second = (short(MLPClassifier((4,), max_iter=10, random_state=5), *iris()) for _ in range(2))
    for one, other in zip(first.coefs_, second.coefs_, strict=True):
        np.testing.assert_array_equal(one, other)


def test_several_labels_per_sample_are_refused_with_the_remedy() -> None:
    X, y = iris()
    with pytest.raises(ValueError, match=r"sklearn\.multioutput"):
        MLPClassifier().fit(X, np.column_stack([y == 0, y == 1]).astype(int))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"activation": "gelu"}, "identity, logistic, relu, tanh, got 'gelu'"),
        ({"hidden_layer_sizes": (3, 0)}, r"hidden_layer_sizes > 0, integers, got \(3, 0\)"),
        ({"hidden_layer_sizes": (2.5,)}, "hidden_layer_sizes > 0"),
        ({"alpha": -1.0}, "Expected alpha >= 0"),
        ({"tol": None}, "Expected tol >= 0, got None"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MLPRegressor(**options).fit(*diabetes())
