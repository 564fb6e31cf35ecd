"""Logistic regression on the breast cancer data."""

from __future__ import annotations

import torch
from torch import Tensor

from secant.problems.datasets import breast_cancer, require, standardized
from secant.problems.problem import Problem, checksum, closure, relative_distance


def build_logistic(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``logistic``: mean logistic loss ``+ |w|^2 / (2 n)`` on scikit-learn's breast cancer data, ``n = 569``, 30 standardized features.

    The penalty is that of scikit-learn's ``C = 1`` divided by ``n``; the intercept is not penalized.

    Args:
        seed: Of the starting point, standard normal.
        compile: Compile the loss.

    Returns:
        The problem; its reference is the loss at the optimum of scikit-learn's ``LogisticRegression`` (Newton, tolerance 1e-12), and its error the relative
        distance of weights and intercept to that optimum. The loss is strongly convex in the weights, so that the optimum is unique.

    Raises:
        ModuleNotFoundError: Without scikit-learn.
    """
    raw_features, labels = breast_cancer(problem="logistic")
    features = standardized(raw_features)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(features.shape[1], generator=generator, dtype=torch.float64, requires_grad=True)
    intercept = torch.randn(1, generator=generator, dtype=torch.float64, requires_grad=True)
    parameters = (weights, intercept)
    signs = 2.0 * labels - 1.0
    optimum = logistic_optimum(features, labels)

    def error() -> float:
        return relative_distance(torch.cat((weights, intercept)).detach(), optimum)

    return Problem(
        name="logistic",
        parameters=parameters,
        loss=closure(logistic_loss, parameters, (features, signs), compile=compile),
        error=error,
        error_name="relative distance to scikit-learn's optimum",
        settings={
            "data": "scikit-learn breast cancer, features standardized",
            "rows": features.shape[0],
            "features": features.shape[1],
            "data_sha256": checksum(raw_features, labels),
            "loss": "mean logistic loss + |weights|^2 / (2 rows), intercept not penalized",
            "reference": "LogisticRegression(C=1, solver=newton-cholesky, tol=1e-12)",
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(*parameters),
            "compiled": compile,
        },
        reference=float(logistic_loss((optimum[:-1], optimum[-1:]), features, signs)),
    )


def logistic_loss(parameters: tuple[Tensor, ...], features: Tensor, signs: Tensor) -> Tensor:
    """``mean log(1 + exp(-signs (features @ weights + intercept))) + |weights|^2 / (2 n)`` for ``parameters = (weights, intercept)`` and ``signs`` of +-1."""
    weights, intercept = parameters
    margins = signs * (features @ weights + intercept)
    # Not softplus: torch's turns linear above 20, an error of 2e-9.
    return weights.square().sum() / (2.0 * features.shape[0]) - torch.nn.functional.logsigmoid(margins).mean()


def logistic_optimum(features: Tensor, labels: Tensor) -> Tensor:
    """Weights and intercept, shape ``(features + 1,)``, at scikit-learn's optimum for labels 0 and 1; the gradient there is below 1e-12."""
    linear_model = require("sklearn.linear_model", problem="logistic")
    model = linear_model.LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=100)
    model.fit(features.numpy(), labels.numpy())
    return torch.cat((torch.from_numpy(model.coef_).double().flatten(), torch.from_numpy(model.intercept_).double()))
