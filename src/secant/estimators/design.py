"""The data of a linear model in variables in which its Hessian at the start is about the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import numpy as np
import torch
from torch import Tensor

from secant.estimators.fitting import Array

_WHITENED_UP_TO = 1000
"""Columns up to which the change of variables is dense; it costs as much as one Newton step of the normal equations."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """The data after a linear change of variables, and the way back to the weights of the data as given.

    The variables have shape ``(problems, features)``, with one more column for the intercepts: ``score = columns @ u + c`` is ``X @ w + b`` with
    ``w = basis @ u`` and ``b = c - center . w``. With ``curvature * mean(x x') + penalty * I = L L'`` for centered ``x``, ``basis = L'^-1``; of many columns
    only the diagonal is taken. Without an intercept nothing is centered.

    Attributes:
        columns: ``(X - center) @ basis``, shape ``(samples, features)``, float64.
        center: The weighted mean of the samples, shape ``(features,)``, or zeros.
        basis: Shape ``(features, features)``, or ``(features,)`` where it is diagonal.
        shares: Weights of the samples over their sum.
        total: That sum.
        penalty: The factor of ``|w|^2 / 2`` beside the weighted mean of the losses.
        with_intercept: Whether there is an intercept.
    """

    columns: Tensor
    center: Tensor
    basis: Tensor
    shares: Tensor
    total: float
    penalty: float
    with_intercept: bool

    @classmethod
    def of(cls, X: Array, weights: Array, *, with_intercept: bool, curvature: float, penalty: float) -> Self:
        """The design of samples ``X`` with ``weights``; ``curvature`` is the second derivative of a loss by its score.

        Cost: ``samples * features^2`` operations up to 1,000 features, else one pass.
        """
        total = float(weights.sum())
        mean = weights @ X / total if with_intercept else np.zeros(X.shape[1])
        shares, center, centered = (torch.from_numpy(array) for array in (weights / total, mean, X - mean))
        basis = _inverse_root(centered, curvature * shares, penalty)
        columns = centered @ basis if basis.ndim == 2 else centered * basis
        return cls(columns, center, basis, shares, total, penalty, bool(with_intercept))

    def zeros(self, problems: int) -> Tensor:
        """The start: no weights, no intercepts."""
        return torch.zeros(problems, self.center.numel() + self.with_intercept, dtype=torch.float64)

    def scores(self, variables: Tensor) -> Tensor:
        """Shape ``(samples, problems)``."""
        if not self.with_intercept:
            return self.columns @ variables.T
        return torch.addmm(variables[:, -1], self.columns, variables[:, :-1].T)

    def mean(self, losses: Tensor) -> Tensor:
        """The weighted mean over the samples."""
        return self.shares @ losses

    def weights_of(self, variables: Tensor) -> Tensor:
        """Weights for the data as given, shape ``(problems, features)``."""
        inner = variables[:, : self.center.numel()]
        return inner @ self.basis.T if self.basis.ndim == 2 else inner * self.basis

    def intercepts_of(self, variables: Tensor) -> Tensor:
        """Intercepts for the data as given, shape ``(problems,)``."""
        if not self.with_intercept:
            return torch.zeros(len(variables), dtype=torch.float64)
        return variables[:, -1] - self.weights_of(variables) @ self.center

    def solution(self, variables: Tensor) -> tuple[Array, Array]:
        """Weights and intercepts as arrays."""
        return self.weights_of(variables).numpy(), self.intercepts_of(variables).numpy()


def _inverse_root(x: Tensor, shares: Tensor, penalty: float) -> Tensor:
    """``L'^-1`` with ``L L' = x' diag(shares) x + penalty * I``, or its diagonal."""
    diagonal = shares @ x.square() + penalty
    scale = diagonal.rsqrt()
    if x.shape[1] > _WHITENED_UP_TO:
        return scale
    scaled = x * scale
    correlations = scaled.T @ (shares[:, None] * scaled)
    correlations.diagonal().fill_(1.0 + _JITTER * x.shape[1])
    factor = torch.linalg.cholesky(correlations)
    basis: Tensor = scale[:, None] * torch.linalg.inv(factor).T
    return basis


_JITTER = float(64.0 * np.finfo(np.float64).eps)  # dependent columns with hardly a penalty would leave a pivot of rounding, of either sign
