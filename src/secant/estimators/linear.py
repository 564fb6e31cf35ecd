"""Linear classifiers with scikit-learn's objectives."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, final

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from secant.estimators.design import Design
from secant.estimators.fitting import Array, check_at_least, class_factors, encoded, fitted, sample_weights, warn_unless_converged
from secant.functional import Result


class _LinearClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What the two classifiers share; ``_fitted`` solves for weights and intercepts."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit the model to ``X`` of shape ``(samples, features)`` and labels ``y`` of shape ``(samples,)``, with weights of the samples; returns itself.

        Warns:
            ConvergenceWarning: ``max_iter`` was reached before ``tol``.

        Raises:
            ValueError: Data with NaN or Inf, of wrong shape, or of fewer than two classes; an option out of range.
            TypeError: ``X`` is sparse.
        """
        check_at_least("C", self.C, 0.0, strictly=True)
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = encoded(y)
        weights = sample_weights(sample_weight, X)
        factors = class_factors(self.class_weight, self.classes_, codes, weights)
        self.coef_, self.intercept_, self.loss_, results = self._fitted(X, codes, weights, factors)
        worst = next((result for result in results if not result.success), results[0])
        self.outcome_ = worst.message
        self.n_iter_ = np.array([max(1, *(result.nit for result in results))], dtype=np.int32)
        warn_unless_converged(worst, self.max_iter)
        return self

    def decision_function(self, X: Any) -> Array:
        """``X coef' + intercept``: shape ``(samples,)`` for two classes, positive for the second, else ``(samples, classes)``."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        scores: Array = X @ self.coef_.T + self.intercept_
        return scores.ravel() if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> Array:
        """The most likely class of each sample, shape ``(samples,)``."""
        scores = self.decision_function(X)
        chosen: Array = self.classes_[(scores > 0.0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]
        return chosen

    def _minimized(self, loss: Any, start: Tensor) -> Result:
        return fitted(loss, start, method=self.method, tol=self.tol, max_iter=self.max_iter, verbose=self.verbose)

    @abstractmethod
    def _fitted(self, X: Array, codes: Array, weights: Array, factors: Array) -> tuple[Array, Array, float, list[Result]]:
        """Weights of shape ``(problems, features)``, intercepts of shape ``(problems,)``, the objective, and the run or runs that found them."""


@final
class LogisticRegression(_LinearClassifier):
    """Logistic regression with an L2 penalty, multinomial for more than two classes.

    It minimizes scikit-learn's objective, ``C * sum_i weight_i * loss_i + |coef|^2 / 2``, whose intercepts are not penalized. The variables are
    changed inside so that the Hessian at the start is the identity: the objective stays that of the data as given, and data of unequal scales or with
    dependent columns need no preprocessing.

    Args:
        C: Inverse strength of the penalty.
        fit_intercept: Whether there is an intercept.
        class_weight: None, ``"balanced"``, or a dict from class to weight.
        tol: ``max |gradient|`` of the objective in the inner variables, relative to the one at the start (zero); 0 goes on to the rounding floor.
        max_iter: Iterations.
        method: ``"auto"`` (``"ssbroyden"`` up to 2,000 coefficients, else ``"lssbroyden"``) or one of ``secant.methods.METHODS``.
        verbose: Whether to show a line of progress at a terminal.

    Attributes:
        classes_: In sorted order.
        coef_: Shape ``(1, features)`` for two classes, else ``(classes, features)``, float64.
        intercept_: Shape ``(1,)`` or ``(classes,)``; the intercepts of several classes sum to zero.
        n_iter_: Iterations, shape ``(1,)``.
        loss_: The objective at the end.
        outcome_: Why the run ended, a sentence.
        n_features_in_: Columns of ``X``.
        feature_names_in_: Their names, where they are strings.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from secant.estimators import LogisticRegression
        >>> model = LogisticRegression().fit(*load_iris(return_X_y=True))
        >>> model.coef_.shape, model.outcome_
        ((3, 4), 'Stopped: the gradient is within the requested tolerance.')
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Any = None,
        tol: float = 1e-8,
        max_iter: int = 1000,
        method: str = "auto",
        verbose: bool | int = False,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.method = method
        self.verbose = verbose

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, shape ``(samples, classes)``; none is smaller than the smallest normal number, 2e-308."""
        probabilities: Array = np.exp(self.predict_log_proba(X)).clip(min=np.finfo(np.float64).tiny)
        return probabilities

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of the probability of each class, shape ``(samples, classes)``."""
        scores = torch.from_numpy(self.decision_function(X))
        if scores.ndim == 1:
            scores = torch.stack((torch.zeros_like(scores), scores), dim=1)
        return torch.log_softmax(scores, dim=1).numpy()

    def _fitted(self, X: Array, codes: Array, weights: Array, factors: Array) -> tuple[Array, Array, float, list[Result]]:
        classes = len(self.classes_)
        problems = 1 if classes == 2 else classes
        weights = weights * factors[codes]
        scale = self.C * float(weights.sum())
        design = Design.of(X, weights, with_intercept=self.fit_intercept, curvature=(classes - 1) / classes**2, penalty=1.0 / scale)
        targets = torch.from_numpy(codes)

        def loss(variables: Tensor) -> Tensor:
            scores = design.scores(variables)
            losses = -logsigmoid((2 * targets - 1) * scores[:, 0]) if problems == 1 else cross_entropy(scores, targets, reduction="none")
            return design.mean(losses) + 0.5 * design.penalty * design.weights_of(variables).square().sum()

        result = self._minimized(loss, design.zeros(problems))
        coef, intercept = design.solution(result.x)
        return coef, intercept - intercept.mean() if problems > 1 else intercept, scale * result.fun, [result]


@final
class LinearSVC(_LinearClassifier):
    """A linear support vector machine with squared hinge loss and L2 penalty, one against the rest for more than two classes.

    It minimizes scikit-learn's objective per class,
    ``C * sum_i weight_i * max(0, 1 - sign_i * score_i)^2 + (|coef|^2 + (intercept / intercept_scaling)^2) / 2``: the intercept is penalized, less so with a
    larger ``intercept_scaling``. The variables are changed inside as in :class:`LogisticRegression`.

    Args:
        C: Inverse strength of the penalty.
        fit_intercept: Whether there is an intercept.
        intercept_scaling: The constant feature whose weight the intercept is.
        class_weight: None, ``"balanced"``, or a dict from class to weight; of several classes' weights only the one of the class that stands against the
            rest applies, as in scikit-learn.
        tol: ``max |gradient|`` of the objective in the inner variables, relative to the one at the start (zero); 0 goes on to the rounding floor.
        max_iter: Iterations for each class.
        method: ``"auto"`` (``"ssbroyden"`` up to 2,000 coefficients, else ``"lssbroyden"``) or one of ``secant.methods.METHODS``.
        verbose: Whether to show a line of progress at a terminal.

    Attributes:
        classes_: In sorted order.
        coef_: Shape ``(1, features)`` for two classes, else ``(classes, features)``, float64.
        intercept_: Shape ``(1,)`` or ``(classes,)``.
        n_iter_: Most iterations of any class, shape ``(1,)``.
        loss_: The objective at the end, summed over the classes.
        outcome_: Why the run ended, a sentence; of several, the first that did not converge.
        n_features_in_: Columns of ``X``.
        feature_names_in_: Their names, where they are strings.

    Source:
        Fan et al. (2008), LIBLINEAR, J. Mach. Learn. Res. 9, eq. 1 with the L2-loss.
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        class_weight: Any = None,
        tol: float = 1e-8,
        max_iter: int = 1000,
        method: str = "auto",
        verbose: bool | int = False,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.method = method
        self.verbose = verbose

    def _fitted(self, X: Array, codes: Array, weights: Array, factors: Array) -> tuple[Array, Array, float, list[Result]]:
        check_at_least("intercept_scaling", self.intercept_scaling, 0.0, strictly=True)
        positive = [1] if len(self.classes_) == 2 else range(len(self.classes_))
        scale = self.C * float(weights.sum())
        design = Design.of(X, weights, with_intercept=self.fit_intercept, curvature=2.0, penalty=1.0 / scale)
        results = [self._against_the_rest(design, codes, label, factors) for label in positive]
        parts = [design.solution(result.x) for result in results]
        coef, intercept = (np.concatenate(part) for part in zip(*parts, strict=True))
        return coef, intercept, scale * sum(result.fun for result in results), results

    def _against_the_rest(self, design: Design, codes: Array, label: int, factors: Array) -> Result:
        signs = torch.from_numpy(np.where(codes == label, 1.0, -1.0))
        # As in LIBLINEAR: among several classes, a class's factor counts only where it stands against the rest.
        applies = np.arange(len(factors)) == label if len(factors) > 2 else np.full(2, True)
        factor = torch.from_numpy(np.where(applies, factors, 1.0)[codes])

        def loss(variables: Tensor) -> Tensor:
            shortfall = torch.relu(1.0 - signs * design.scores(variables)[:, 0])
            penalty = design.weights_of(variables).square().sum()
            if design.with_intercept:
                penalty = penalty + (design.intercepts_of(variables) / self.intercept_scaling).square().sum()
            return design.mean(factor * shortfall.square()) + 0.5 * design.penalty * penalty

        return self._minimized(loss, design.zeros(1))
