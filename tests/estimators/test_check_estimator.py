"""scikit-learn's own list of what an estimator must do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("sklearn")

from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from secant.estimators import LinearSVC, LogisticRegression, MLPClassifier, MLPRegressor


@pytest.fixture(autouse=True)
def _short_runs_may_end_early() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@parametrize_with_checks([LogisticRegression(), LinearSVC(), MLPClassifier((10,), max_iter=50), MLPRegressor((20,), max_iter=50)])
def test_every_check_of_scikit_learn_passes(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)
