"""Multi-layer perceptrons with scikit-learn's objectives and starts."""

from __future__ import annotations

import math
import numbers
from abc import abstractmethod
from collections.abc import Callable
from itertools import pairwise
from types import MappingProxyType
from typing import Any, final

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from secant.estimators.fitting import Array, check_at_least, encoded, fitted, sample_weights, warn_unless_converged

_ACTIVATIONS: MappingProxyType[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"identity": lambda x: x, "logistic": torch.sigmoid, "relu": torch.relu, "tanh": torch.tanh}
)


class _Perceptron(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What classifier and regressor share: the network, its start and its training."""

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        alpha: float = 1e-4,
        max_iter: int = 200,
        tol: float = 1e-5,
        random_state: Any = None,
        method: str = "auto",
        verbose: bool | int = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.alpha = alpha
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.method = method
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Fit the network to ``X`` of shape ``(samples, features)`` and ``y``, with weights of the samples; returns itself.

        Warns:
            ConvergenceWarning: ``max_iter`` was reached before ``tol``, or the loss has a kink at the end (``relu``).

        Raises:
            ValueError: Data with NaN or Inf or of wrong shape, or an option out of range.
            TypeError: ``X`` is sparse.
        """
        hidden = self._checked_options()
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, force_writeable=True)
        targets, outputs = self._targets(y)
        inputs, weights = torch.from_numpy(X), torch.from_numpy(sample_weights(sample_weight, X))
        total = weights.sum()
        shares = weights / total
        activation = _ACTIVATIONS[self.activation]

        def objective(parameters: list[Tensor]) -> Tensor:
            losses = self._losses(_outputs(parameters, inputs, activation), targets)
            return shares @ losses + 0.5 * self.alpha / total * torch.stack([weight.square().sum() for weight in parameters[::2]]).sum()

        start = self._start([X.shape[1], *hidden, outputs])
        result = fitted(objective, start, method=self.method, tol=self.tol, max_iter=self.max_iter, verbose=self.verbose)
        self.coefs_ = [weight.numpy() for weight in result.x[::2]]
        self.intercepts_ = [bias.numpy() for bias in result.x[1::2]]
        self.n_layers_, self.n_outputs_ = len(hidden) + 2, outputs
        self.n_iter_ = max(1, result.nit)
        self.loss_, self.outcome_ = result.fun, result.message
        warn_unless_converged(result, self.max_iter)
        return self

    def _checked_options(self) -> list[int]:
        check_at_least("alpha", self.alpha, 0.0)
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"Expected activation to be one of {', '.join(_ACTIVATIONS)}, got {self.activation!r}.")
        sizes = self.hidden_layer_sizes
        hidden = [sizes] if isinstance(sizes, numbers.Integral) else list(sizes)
        if not all(isinstance(size, numbers.Integral) and int(size) > 0 for size in hidden):
            raise ValueError(f"Expected hidden_layer_sizes > 0, integers, got {sizes!r}.")
        return [int(size) for size in hidden]

    def _start(self, sizes: list[int]) -> list[Tensor]:
        """Glorot uniform weights and biases, drawn in scikit-learn's order, so that one ``random_state`` is one start for both libraries."""
        generator = check_random_state(self.random_state)
        parameters = []
        for inputs, outputs in pairwise(sizes):
            bound = math.sqrt((2.0 if self.activation == "logistic" else 6.0) / (inputs + outputs))
            parameters += [generator.uniform(-bound, bound, (inputs, outputs)), generator.uniform(-bound, bound, outputs)]
        return [torch.from_numpy(parameter) for parameter in parameters]

    def _predicted(self, X: Any) -> Tensor:
        """The network's outputs, shape ``(samples, outputs)``, before any link function."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64, force_writeable=True)
        parameters = [torch.from_numpy(part) for layer in zip(self.coefs_, self.intercepts_, strict=True) for part in layer]
        return _outputs(parameters, torch.from_numpy(X), _ACTIVATIONS[self.activation])

    @abstractmethod
    def _targets(self, y: Array) -> tuple[Tensor, int]:
        """The targets for ``_losses``, and how many outputs the network has."""

    @abstractmethod
    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample."""


@final
class MLPClassifier(ClassifierMixin, _Perceptron):  # type: ignore[misc]  # scikit-learn has no types
    """A multi-layer perceptron that minimizes the cross entropy with a full-batch second-order method, in float64.

    The objective is scikit-learn's: the weighted mean of the cross entropy ``+ alpha * |weights|^2 / (2 * sum of the sample weights)``; biases are not
    penalized. Two classes have one output. The start is scikit-learn's for the same ``random_state``. One label per sample, dense data.

    Args:
        hidden_layer_sizes: Widths of the hidden layers.
        activation: ``"identity"``, ``"logistic"``, ``"relu"`` or ``"tanh"``. The smooth ones suit second-order methods best.
        alpha: Strength of the penalty.
        max_iter: Iterations, each about one pass over the data.
        tol: ``max |gradient|`` relative to the one at the start; 0 goes on to the rounding floor.
        random_state: Seed of the start, a ``RandomState`` or None.
        method: ``"auto"`` (``"ssbroyden"`` up to 2,000 parameters, else ``"lssbroyden"``) or one of ``secant.methods.METHODS``.
        verbose: Whether to show a line of progress at a terminal.

    Attributes:
        classes_: In sorted order.
        coefs_: Weights of each layer, shape ``(inputs, outputs)``, float64.
        intercepts_: Biases of each layer.
        n_iter_: Iterations.
        loss_: The objective at the end.
        outcome_: Why the run ended, a sentence.
        n_layers_: Layers with the input's.
        n_outputs_: Outputs.
        n_features_in_: Columns of ``X``.
        feature_names_in_: Their names, where they are strings.
    """

    def predict(self, X: Any) -> Array:
        """The most likely class of each sample, shape ``(samples,)``."""
        outputs = self._predicted(X)
        chosen: Array = self.classes_[((outputs[:, 0] > 0.0).long() if self.n_outputs_ == 1 else outputs.argmax(dim=1)).numpy()]
        return chosen

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, shape ``(samples, classes)``; none is smaller than the smallest normal number, 2e-308."""
        probabilities: Array = np.exp(self.predict_log_proba(X)).clip(min=np.finfo(np.float64).tiny)
        return probabilities

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of the probability of each class, shape ``(samples, classes)``."""
        outputs = self._predicted(X)
        if self.n_outputs_ == 1:
            outputs = torch.cat((torch.zeros_like(outputs), outputs), dim=1)
        return torch.log_softmax(outputs, dim=1).numpy()

    def _targets(self, y: Array) -> tuple[Tensor, int]:
        check_classification_targets(y)
        if y.ndim != 1 and y.shape[1] != 1:
            raise ValueError(f"Expected one label per sample, got y of shape {y.shape}. Fit one classifier per label (sklearn.multioutput).")
        self.classes_, codes = encoded(column_or_1d(y, warn=True))
        return torch.from_numpy(codes), 1 if len(self.classes_) == 2 else len(self.classes_)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape[1] == 1:
            return -torch.nn.functional.logsigmoid((2 * targets - 1) * outputs[:, 0])
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


@final
class MLPRegressor(RegressorMixin, _Perceptron):  # type: ignore[misc]  # scikit-learn has no types
    """A multi-layer perceptron that minimizes the squared error with a full-batch second-order method, in float64.

    The objective is scikit-learn's: the weighted mean of half the squared error ``+ alpha * |weights|^2 / (2 * sum of the sample weights)``, averaged over
    several outputs; biases are not penalized. The start is scikit-learn's for the same ``random_state``.

    Args:
        hidden_layer_sizes: Widths of the hidden layers.
        activation: ``"identity"``, ``"logistic"``, ``"relu"`` or ``"tanh"``. The smooth ones suit second-order methods best.
        alpha: Strength of the penalty.
        max_iter: Iterations, each about one pass over the data.
        tol: ``max |gradient|`` relative to the one at the start; 0 goes on to the rounding floor.
        random_state: Seed of the start, a ``RandomState`` or None.
        method: ``"auto"`` (``"ssbroyden"`` up to 2,000 parameters, else ``"lssbroyden"``) or one of ``secant.methods.METHODS``.
        verbose: Whether to show a line of progress at a terminal.

    Attributes:
        coefs_: Weights of each layer, shape ``(inputs, outputs)``, float64.
        intercepts_: Biases of each layer.
        n_iter_: Iterations.
        loss_: The objective at the end.
        outcome_: Why the run ended, a sentence.
        n_layers_: Layers with the input's.
        n_outputs_: Outputs.
        n_features_in_: Columns of ``X``.
        feature_names_in_: Their names, where they are strings.
    """

    def predict(self, X: Any) -> Array:
        """The prediction for each sample, shape ``(samples,)``, or ``(samples, outputs)`` where ``y`` had two dimensions."""
        outputs = self._predicted(X).numpy()
        return outputs.ravel() if self._is_flat else outputs

    def _targets(self, y: Array) -> tuple[Tensor, int]:
        self._is_flat = y.ndim == 1
        targets = torch.from_numpy(np.array(y, dtype=np.float64).reshape(len(y), -1))
        return targets, targets.shape[1]

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (outputs - targets).square().mean(dim=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _outputs(parameters: list[Tensor], inputs: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """The network with weights and biases in turn; no activation after the last layer."""
    hidden = inputs
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        hidden = activation(torch.addmm(bias, hidden, weight))
    return torch.addmm(parameters[-1], hidden, parameters[-2])
