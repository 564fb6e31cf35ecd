"""What the estimators share: checked options, weights of samples, and one call of ``minimize``."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_array, check_consistent_length
from torch import Tensor

from secant.functional import Result, minimize
from secant.step import Outcome
from secant.tree import leaves_of

Array = NDArray[Any]

_DENSE_UP_TO = 2000
"""Parameters up to which ``"auto"`` keeps a dense inverse Hessian: 32 MB, whose product costs less than most evaluations."""


def fitted(
    loss: Callable[[Any], Tensor],
    start: Any,
    *,
    method: str,
    tol: float,
    max_iter: int,
    verbose: bool | int,
) -> Result:
    """The minimizer of ``loss`` from ``start``, a tensor or a list of tensors.

    Raises:
        ValueError: An unknown method, or ``tol`` or ``max_iter`` out of range.
    """
    check_at_least("tol", tol, 0.0)
    if isinstance(max_iter, bool) or not isinstance(max_iter, numbers.Integral) or max_iter < 1:
        raise ValueError(f"Expected max_iter to be a positive integer, got {max_iter!r}.")
    if method == "auto":
        method = "ssbroyden" if sum(leaf.numel() for leaf in leaves_of(start)) <= _DENSE_UP_TO else "lssbroyden"
    return minimize(loss, start, method, tol=tol, options={"maxiter": int(max_iter)}, progress=None if verbose else _silent)


def warn_unless_converged(result: Result, max_iter: int) -> None:
    """A ``ConvergenceWarning`` at the line that called ``fit``, when the run ended otherwise than at the tolerance or the rounding floor."""
    if not result.success:
        remedy = f" Raise max_iter={max_iter} or tol." if result.outcome is Outcome.BUDGET else ""
        warnings.warn(f"{result.message}{remedy}", ConvergenceWarning, stacklevel=3)


def sample_weights(given: Any, samples: Array) -> Array:
    """The weights of samples as float64 of shape ``(samples,)``, ones where none were given.

    Raises:
        ValueError: Another shape, a negative weight, or nothing but zeros.
    """
    if given is None:
        return np.ones(len(samples))
    if isinstance(given, numbers.Number):
        given = np.full(len(samples), given)
    weights: Array = check_array(given, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weights.ndim != 1:
        raise ValueError(f"Expected sample_weight of one dimension, got shape {weights.shape}. Sample weights must be 1D array or scalar.")
    check_consistent_length(samples, weights)
    if (weights < 0.0).any():
        raise ValueError("Expected sample_weight >= 0, got negative values in data passed as sample_weight.")
    if not weights.any():
        raise ValueError("Expected a positive sample_weight, got only zeros: sample weights must contain at least one non-zero number.")
    return weights


def class_factors(given: Any, classes: Array, codes: Array, weights: Array) -> Array:
    """What the weights of the samples of each class are multiplied by, shape ``(k,)``.

    Args:
        given: None, ``"balanced"`` (``sum(weights) / (k * sum of the weights of the class)``), or a dict from class to factor, 1 where it has none.
        classes: The ``k`` classes.
        codes: The class of each sample as an index.
        weights: Of the samples.

    Raises:
        ValueError: Another kind of value, or a class that does not occur.
    """
    if given is None:
        return np.ones(len(classes))
    if isinstance(given, str) and given == "balanced":
        totals = np.bincount(codes, weights=weights, minlength=len(classes))
        balanced: Array = weights.sum() / (len(classes) * np.where(totals > 0.0, totals, 1.0))
        return balanced
    if not isinstance(given, Mapping):
        raise ValueError(f"Expected class_weight to be None, 'balanced' or a dict, got {given!r}.")
    labels = classes.tolist()
    unknown = [label for label in given if label not in labels]
    if unknown:
        raise ValueError(f"Expected class_weight for classes among {labels}, got {unknown}.")
    return np.array([float(given.get(label, 1.0)) for label in labels])


def encoded(y: Array, *, minimum: int = 2) -> tuple[Array, Array]:
    """The classes in sorted order and each sample's index among them.

    Raises:
        ValueError: Fewer classes than two.
    """
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < minimum:
        raise ValueError(f"Expected samples of at least {minimum} classes, got {len(classes)} class: {classes.tolist()}.")
    return classes, codes


def check_at_least(name: str, value: Any, least: float, *, strictly: bool = False) -> None:
    """Refuse a value that is no finite number above ``least``."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < least or (strictly and value == least):
        raise ValueError(f"Expected {name} {'>' if strictly else '>='} {least:g}, got {value!r}.")


def _silent(line: str) -> None:
    """Shows nothing."""
