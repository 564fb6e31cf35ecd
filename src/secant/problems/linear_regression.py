"""Least squares on the diabetes data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secant.problems.datasets import diabetes, standardized
from secant.problems.problem import Problem, checksum, closure, relative_distance


def build_linear_regression(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``linear-regression``: mean squared error of a linear model with intercept on scikit-learn's diabetes data.

    442 rows, 10 features; features and target are standardized. The features are nearly collinear: the Hessian's condition number is about 470.

    Args:
        seed: Of the starting point, standard normal.
        compile: Compile the loss.

    Returns:
        The problem; its reference is the loss at the least-squares solution (by singular values), and its error the relative distance of weights and
        intercept to that solution, which still falls where the loss is already constant to rounding.

    Raises:
        ModuleNotFoundError: Without scikit-learn.
    """
    raw_features, raw_target = diabetes(problem="linear-regression")
    features, target = standardized(raw_features), standardized(raw_target)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(features.shape[1], generator=generator, dtype=torch.float64, requires_grad=True)
    intercept = torch.randn(1, generator=generator, dtype=torch.float64, requires_grad=True)
    parameters = (weights, intercept)
    design = torch.cat((features, torch.ones(len(features), 1, dtype=torch.float64)), dim=1)
    optimum = torch.linalg.lstsq(design, target[:, None], driver="gelsd").solution.squeeze(1)

    def error() -> float:
        return relative_distance(torch.cat((weights, intercept)).detach(), optimum)

    def residual() -> Tensor:
        return math.sqrt(2.0 / len(target)) * (features @ weights + intercept - target)

    return Problem(
        name="linear-regression",
        parameters=parameters,
        loss=closure(regression_loss, parameters, (features, target), compile=compile),
        error=error,
        error_name="relative distance to the least-squares solution",
        settings={
            "data": "scikit-learn diabetes, features and target standardized",
            "rows": features.shape[0],
            "features": features.shape[1],
            "data_sha256": checksum(raw_features, raw_target),
            "loss": "mean squared error, with intercept",
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(*parameters),
            "compiled": compile,
        },
        reference=float(regression_loss((optimum[:-1], optimum[-1:]), features, target)),
        residual=(residual,),
    )


def regression_loss(parameters: tuple[Tensor, ...], features: Tensor, target: Tensor) -> Tensor:
    """``mean (features @ weights + intercept - target)^2`` for ``parameters = (weights, intercept)``."""
    weights, intercept = parameters
    return (features @ weights + intercept - target).square().mean()
