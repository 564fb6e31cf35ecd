"""Our estimators against scikit-learn's own: the same data, the same objective, processor seconds of one core to the same value."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from sklearn import linear_model, neural_network, svm
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale

from benchmarks.record import one_thread, save
from secant import estimators

Array = np.ndarray[Any, Any]
Builder = Callable[..., Any]

ROUNDS = 5
GAP = 1e-8
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12)
MANY = 100_000

CLASSIFICATION: Mapping[str, Callable[[], tuple[Array, Array]]] = {
    "breast cancer, standardized": lambda: _scaled(*load_breast_cancer(return_X_y=True)),
    "breast cancer, raw": lambda: load_breast_cancer(return_X_y=True),
    "digits, pixels / 16": lambda: _divided(*load_digits(return_X_y=True)),
    "synthetic, 20,000 x 100": lambda: make_classification(20_000, 100, n_informative=30, random_state=0),
}

LOGISTIC: Mapping[str, Builder] = {
    "secant auto": partial(estimators.LogisticRegression, max_iter=MANY),
    "secant newtoncg": partial(estimators.LogisticRegression, method="newtoncg", max_iter=MANY),
    "scikit-learn lbfgs": partial(linear_model.LogisticRegression, solver="lbfgs", max_iter=MANY),
    "scikit-learn newton-cg": partial(linear_model.LogisticRegression, solver="newton-cg", max_iter=MANY),
    "scikit-learn newton-cholesky": partial(linear_model.LogisticRegression, solver="newton-cholesky", max_iter=MANY),
}

MACHINES: Mapping[str, Builder] = {
    "secant auto": partial(estimators.LinearSVC, max_iter=MANY),
    "scikit-learn liblinear": partial(svm.LinearSVC, dual=False, max_iter=MANY),
}


def main() -> None:
    one_thread()
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    for data, load in CLASSIFICATION.items():
        X, y = load()
        rows += convex("LogisticRegression", data, X, y, LOGISTIC, logistic_objective)
        rows += convex("LinearSVC", data, X, y, MACHINES, machine_objective)
    X, y = load_diabetes(return_X_y=True)
    rows += networks("MLPRegressor", "diabetes, standardized", scale(X), scale(y), (10,))
    X, y = _divided(*load_digits(return_X_y=True))
    rows += networks("MLPClassifier", "digits, pixels / 16", X, y, (16,))
    save("estimators", rows, rounds=ROUNDS, relative_gap=GAP, C=1.0, threads=1)


def convex(
    estimator: str, data: str, X: Array, y: Array, builders: Mapping[str, Builder], objective: Callable[[Any, Array, Array], float]
) -> list[dict[str, Any]]:
    """The loosest tolerance of each solver that comes within ``GAP`` of the least objective of all, and the processor seconds of that fit."""
    reached = {name: _sweep(builder, X, y, objective) for name, builder in builders.items()}
    least = min(value for values in reached.values() for value in values.values())
    chosen = {name: next((tol for tol, value in values.items() if value <= least * (1.0 + GAP)), None) for name, values in reached.items()}
    seconds: dict[str, list[float]] = {name: [] for name in builders}
    for _ in range(ROUNDS):
        for name, tol in chosen.items():
            seconds[name].append(_seconds(builders[name](tol=TOLERANCES[-1] if tol is None else tol), X, y))
    rows = []
    for name, tol in chosen.items():
        gap = reached[name][TOLERANCES[-1] if tol is None else tol] / least - 1.0
        row = {"estimator": estimator, "data": data, "solver": name, "reached": tol is not None, "tol": tol, "relative_gap": gap}
        rows.append(row | {"objective": least, "cpu_seconds": statistics.median(seconds[name])})
        print(rows[-1], flush=True)
    return rows


def networks(estimator: str, data: str, X: Array, y: Array, hidden: tuple[int, ...]) -> list[dict[str, Any]]:
    """Loss and processor seconds of 500 iterations from the same starts; where they end depends on the start, so three are shown."""
    common = {"hidden_layer_sizes": hidden, "activation": "tanh", "alpha": 1e-3, "max_iter": 500}
    rows = []
    for seed in range(3):
        solvers = {
            "secant auto": getattr(estimators, estimator)(**common, tol=0.0, random_state=seed),
            "scikit-learn lbfgs": getattr(neural_network, estimator)(**common, solver="lbfgs", tol=1e-12, max_fun=MANY, random_state=seed),
        }
        for name, model in solvers.items():
            seconds = _seconds(model, X, y)
            row = {"estimator": estimator, "data": data, "solver": name, "seed": seed, "loss": float(model.loss_), "iterations": int(model.n_iter_)}
            rows.append(row | {"cpu_seconds": seconds})
            print(rows[-1], flush=True)
    return rows


def logistic_objective(model: Any, X: Array, y: Array) -> float:
    """``sum log-loss + |coef|^2 / 2``, as scikit-learn documents it for ``C = 1``."""
    scores = X @ model.coef_.T + model.intercept_
    binary = scores.shape[1] == 1
    losses = np.logaddexp(0.0, (1 - 2 * y) * scores[:, 0]) if binary else np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(y)), y]
    return float(losses.sum() + 0.5 * (model.coef_**2).sum())


def machine_objective(model: Any, X: Array, y: Array) -> float:
    """The squared hinge with LIBLINEAR's penalty, summed over the classes."""
    scores = X @ model.coef_.T + model.intercept_
    signs = 2.0 * (y[:, None] == (model.classes_[1:] if scores.shape[1] == 1 else model.classes_)) - 1.0
    return float((np.maximum(0.0, 1.0 - signs * scores) ** 2).sum() + 0.5 * ((model.coef_**2).sum() + (model.intercept_**2).sum()))


def _sweep(builder: Builder, X: Array, y: Array, objective: Callable[[Any, Array, Array], float]) -> dict[float, float]:
    """The objective reached at each tolerance."""
    return {tol: objective(builder(tol=tol).fit(X, y), X, y) for tol in TOLERANCES}


def _seconds(model: Any, X: Array, y: Array) -> float:
    began = time.process_time()
    model.fit(X, y)
    return time.process_time() - began


def _scaled(X: Array, y: Array) -> tuple[Array, Array]:
    return scale(X), y


def _divided(X: Array, y: Array) -> tuple[Array, Array]:
    return X / 16.0, y


if __name__ == "__main__":
    main()
