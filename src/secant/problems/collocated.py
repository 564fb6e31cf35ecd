"""Problems whose loss is half the sum of squares of residuals at points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from secant.derivatives import Field, PointResidual, loss_closure
from secant.problems.problem import Problem, checksum, relative_distance


def collocated_problem(
    name: str,
    parameters: Sequence[Tensor],
    residual: Sequence[PointResidual],
    error: Callable[[], float],
    *,
    error_name: str = "relative l2 error",
    seed: int,
    compile: bool,
    settings: Mapping[str, str | int | float | bool],
) -> Problem:
    """The problem whose loss is ``0.5 * sum(r^2)`` over all residuals.

    Args:
        name: Of the problem.
        parameters: Everything that is trained.
        residual: Its blocks: the equation, and the data, boundary or initial conditions that are not built in.
        error: The distance to the reference.
        error_name: What ``error`` returns, in words.
        seed: Of the start.
        compile: Whether to compile the loss.
        settings: What is stated beside the points' and the start's checksums, the seed and the dtype.
    """
    return Problem(
        name=name,
        parameters=tuple(parameters),
        loss=loss_closure(residual, compile=compile),
        error=error,
        error_name=error_name,
        settings={
            **settings,
            "points_sha256": checksum(*(block.points for block in residual)),
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(*parameters),
            "compiled": compile,
        },
        residual=tuple(residual),
    )


def field_problem(
    name: str,
    network: nn.Module,
    field: Field,
    residual: Sequence[PointResidual],
    test_grid: tuple[Tensor, Tensor],
    *,
    seed: int,
    compile: bool,
    settings: Mapping[str, str | int | float | bool],
) -> Problem:
    """The problem of one unknown field; its error is the relative l2 distance to a reference.

    Args:
        name: Of the problem.
        network: What is trained.
        field: The unknown function that the network makes.
        residual: See :func:`collocated_problem`, as for the rest.
        test_grid: Points, and the reference there.
        seed: Of the start.
        compile: Whether to compile the loss.
        settings: What is stated.
    """
    test_points, expected = test_grid

    def error() -> float:
        with torch.no_grad():
            return relative_distance(field(test_points), expected)

    return collocated_problem(name, tuple(network.parameters()), residual, error, seed=seed, compile=compile, settings=settings)


def mean_scale(points: Tensor, weight: float = 1.0) -> float:
    """The scale of a residual at these points with which half its sum of squares is ``weight`` times the mean of squares: ``sqrt(2 weight / points)``."""
    return math.sqrt(2.0 * weight / len(points))


def boundary_value(points: Tensor, u: Tensor) -> Tensor:
    """``u``, which is zero on the boundary."""
    return u
