"""A linear support vector machine on the digits data."""

from __future__ import annotations

import torch
from torch import Tensor

from secant.problems.datasets import digits, require
from secant.problems.problem import Problem, checksum, closure, relative_distance


def build_svm(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``svm``: mean squared hinge ``+ |(w, b)|^2 / (2 n)`` for even against odd digits of scikit-learn, ``n = 1,797``, 64 pixels.

    The penalty is that of scikit-learn's ``C = 1`` divided by ``n`` and covers the intercept, as ``LinearSVC`` does. The loss has a continuous gradient whose
    derivative jumps where a sample passes its margin: curvature models must follow.

    Args:
        seed: Of the starting point, standard normal.
        compile: Compile the loss.

    Returns:
        The problem; its reference is the loss at the optimum of scikit-learn's ``LinearSVC`` (refined to rounding), and its error the relative distance
        of weights and intercept to that optimum. The loss is strongly convex, so that the optimum is unique.

    Raises:
        ModuleNotFoundError: Without scikit-learn.
    """
    pixels, labels = digits(problem="svm")
    features, signs = pixels / 16.0, 1.0 - 2.0 * (labels % 2).double()
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(features.shape[1], generator=generator, dtype=torch.float64, requires_grad=True)
    intercept = torch.randn(1, generator=generator, dtype=torch.float64, requires_grad=True)
    parameters = (weights, intercept)
    optimum = svm_optimum(features, signs)

    def error() -> float:
        return relative_distance(torch.cat((weights, intercept)).detach(), optimum)

    return Problem(
        name="svm",
        parameters=parameters,
        loss=closure(svm_loss, parameters, (features, signs), compile=compile),
        error=error,
        error_name="relative distance to scikit-learn's optimum",
        settings={
            "data": "scikit-learn digits, pixels / 16, even against odd",
            "rows": features.shape[0],
            "features": features.shape[1],
            "data_sha256": checksum(pixels, labels),
            "loss": "mean squared hinge + |weights, intercept|^2 / (2 rows)",
            "reference": "LinearSVC(C=1, dual=False, tol=1e-12), refined on its active set",
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(*parameters),
            "compiled": compile,
        },
        reference=float(svm_loss((optimum[:-1], optimum[-1:]), features, signs)),
    )


def svm_loss(parameters: tuple[Tensor, ...], features: Tensor, signs: Tensor) -> Tensor:
    """``mean max(0, 1 - signs (features @ weights + intercept))^2 + |(weights, intercept)|^2 / (2 n)`` for ``signs`` of +-1."""
    weights, intercept = parameters
    shortfall = torch.relu(1.0 - signs * (features @ weights + intercept))
    return shortfall.square().mean() + (weights.square().sum() + intercept.square().sum()) / (2.0 * features.shape[0])


def svm_optimum(features: Tensor, signs: Tensor) -> Tensor:
    """Weights and intercept, shape ``(features + 1,)``, at scikit-learn's optimum, refined on the samples inside the margin.

    LIBLINEAR stops at a gradient of 2e-10 whatever its tolerance. With the set of samples inside the margin fixed, the loss is quadratic and its minimizer
    solves one linear system; the gradient is then below 1e-14.
    """
    model = require("sklearn.svm", problem="svm").LinearSVC(C=1.0, dual=False, tol=1e-12, max_iter=10_000)
    model.fit(features.numpy(), signs.numpy())
    found = torch.cat((torch.from_numpy(model.coef_).double().flatten(), torch.from_numpy(model.intercept_).double()))
    signed = signs[:, None] * torch.cat((features, torch.ones(len(features), 1, dtype=torch.float64)), dim=1)
    inside = signed[signed @ found < 1.0]
    normal = inside.T @ inside + 0.5 * torch.eye(len(found), dtype=torch.float64)
    refined: Tensor = torch.linalg.solve(normal, inside.sum(dim=0))
    return refined
