"""A soft decision tree on the diabetes data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secant.problems.datasets import diabetes, require, standardized
from secant.problems.problem import Problem, checksum, closure

_DEPTH = 4
_PENALTY = 1e-3


def build_soft_tree(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``soft-tree``: regression by a differentiable decision tree of depth 4 on scikit-learn's diabetes data, 181 parameters.

    Each of the 15 inner nodes sends a sample to the right with the probability ``sigmoid(w . x + b)``; the prediction is the mean of the 16 leaf values,
    weighted with the probability of reaching them. The loss is the mean squared error ``+ 5e-4 |w|^2`` over the splits: without it, the splits would harden
    for ever. 442 rows, 10 features, all standardized. The loss is not convex, and nearly flat wherever a leaf is hardly reached.

    Args:
        seed: Of the start: splits normal with standard deviation ``1 / sqrt(10)``, split thresholds zero, leaves normal with 0.1.
        compile: Compile the loss.

    Returns:
        The problem; the loss itself is the measure. ``hard_tree_loss`` in its settings is the mean squared error of scikit-learn's greedy
        ``DecisionTreeRegressor`` of the same depth.

    Raises:
        ModuleNotFoundError: Without scikit-learn.

    Source:
        Jordan & Jacobs (1994), Hierarchical mixtures of experts, with constant experts.
    """
    raw_features, raw_target = diabetes(problem="soft-tree")
    features, target = standardized(raw_features), standardized(raw_target)
    inner, columns = 2**_DEPTH - 1, features.shape[1]
    generator = torch.Generator().manual_seed(seed)
    splits = torch.randn(inner, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)
    leaves = 0.1 * torch.randn(inner + 1, generator=generator, dtype=torch.float64)
    parameters = (splits.requires_grad_(), torch.zeros(inner, dtype=torch.float64, requires_grad=True), leaves.requires_grad_())
    return Problem(
        name="soft-tree",
        parameters=parameters,
        loss=closure(tree_loss, parameters, (features, target), compile=compile),
        error=None,
        error_name="loss",
        settings={
            "data": "scikit-learn diabetes, features and target standardized",
            "rows": features.shape[0],
            "features": columns,
            "depth": _DEPTH,
            "data_sha256": checksum(raw_features, raw_target),
            "loss": f"mean squared error + {_PENALTY} |splits|^2 / 2",
            "hard_tree_loss": _hard_tree_loss(features, target),
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(*parameters),
            "compiled": compile,
        },
    )


def tree_loss(parameters: tuple[Tensor, ...], features: Tensor, target: Tensor) -> Tensor:
    """The mean squared error of the tree ``+ 1e-3 |splits|^2 / 2``."""
    splits, thresholds, leaves = parameters
    reached = leaf_probabilities(features @ splits.T + thresholds)
    return (reached @ leaves - target).square().mean() + 0.5 * _PENALTY * splits.square().sum()


def leaf_probabilities(scores: Tensor) -> Tensor:
    """The probability of reaching each leaf from left to right.

    Args:
        scores: Log-odds of going right at each inner node, shape ``(rows, 2^depth - 1)``, level by level from the root.

    Returns:
        Shape ``(rows, 2^depth)``; each row sums to one.
    """
    reached, first = torch.ones_like(scores[:, :1]), 0
    while first < scores.shape[1]:
        right = torch.sigmoid(scores[:, first : 2 * first + 1])
        reached = torch.stack((reached * (1.0 - right), reached * right), dim=2).flatten(1)
        first = 2 * first + 1
    return reached


def _hard_tree_loss(features: Tensor, target: Tensor) -> float:
    tree = require("sklearn.tree", problem="soft-tree").DecisionTreeRegressor(max_depth=_DEPTH, random_state=0)
    predicted = torch.from_numpy(tree.fit(features.numpy(), target.numpy()).predict(features.numpy()))
    return float((predicted - target).square().mean())
