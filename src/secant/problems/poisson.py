"""Poisson's equation on the unit square and the unit cube by physics-informed networks with a penalty on the boundary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from secant.derivatives import Field, PointResidual
from secant.problems.collocated import boundary_value, mean_scale
from secant.problems.networks import check_widths, dense_network, described, mlp, mlp_channels, partial_derivatives
from secant.problems.points import cube_boundary, grid, sobol
from secant.problems.problem import Problem, checksum, closure, relative_distance

_INTERIOR_SEED, _BOUNDARY_SEED = 1, 7


@dataclass(frozen=True, slots=True)
class _Setting:
    name: str
    dimension: int
    widths: tuple[int, ...]
    interior: int
    boundary: int
    interior_weight: float
    boundary_weight: float
    test_points_per_axis: int
    domain: str


def build_poisson_2d(
    seed: int,
    *,
    compile: bool = False,
    derivatives: Literal["forward", "nested"] = "forward",
    widths: Sequence[int] = (2, 20, 20, 20, 1),
    name: str = "poisson-2d",
) -> Problem:
    """The problem ``poisson-2d``: ``-Laplace u = f`` on the unit square, ``u = sin(pi x) sin(pi y)``, zero on the boundary.

    A ``tanh`` network 2-20-20-20-1 (921 parameters, float64) is ``u`` itself, unless ``widths`` says otherwise. The loss is ``mean r^2 + 100 mean b^2``: ``r``
    the residual at 2,000 scrambled Sobol points (seed 1), ``b`` the value at 400 scrambled Sobol points on the boundary (seed 7, 100 on each side).

    Args:
        seed: Of the initial network.
        compile: Compile the loss; only with forward derivatives.
        derivatives: ``"forward"`` carries the derivatives through the layers, ``"nested"`` differentiates the network by automatic differentiation.
        widths: Of the network's layers, the first 2 and the last 1.
        name: Of the problem with these widths.

    Returns:
        The problem; its error is the relative l2 distance to the exact solution on the grid of 101 x 101 points.

    Raises:
        ValueError: For ``compile`` with nested derivatives, another word for ``derivatives``, or widths of another kind of network.
    """
    setting = _Setting(name, 2, tuple(widths), 2000, 400, 1.0, 100.0, 101, "unit square, product of sines")
    return _poisson(setting, seed, compile=compile, derivatives=derivatives)


def build_poisson_3d(seed: int, *, compile: bool = False, derivatives: Literal["forward", "nested"] = "forward") -> Problem:
    """The problem ``poisson-3d``: ``-Laplace u = f`` on the unit cube, ``u = sin(pi x) sin(pi y) sin(pi z)``, zero on the boundary.

    A ``tanh`` network 3-32-32-1 (1,217 parameters, float64) is ``u`` itself. The loss is ``0.5 mean r^2 + 0.5 mean b^2``: ``r`` the residual at 5,000
    scrambled Sobol points (seed 1), ``b`` the value at 800 scrambled Sobol points on the boundary (seed 7, 133 or 134 on each face).

    Args:
        seed: Of the initial network.
        compile: Compile the loss; only with forward derivatives.
        derivatives: ``"forward"`` carries the derivatives through the layers, ``"nested"`` differentiates the network by automatic differentiation.

    Returns:
        The problem; its error is the relative l2 distance to the exact solution on the grid of 31 x 31 x 31 points.

    Raises:
        ValueError: For ``compile`` with nested derivatives, or another word for ``derivatives``.

    Source:
        Network, numbers of points and weights after Bioli (arXiv 2603.10599).
        Departure: domain, solution, points and test grid are our own, so that errors must not be compared with the figures of that paper.
    """
    domain = "unit cube, product of sines; not comparable with the figures of arXiv 2603.10599"
    setting = _Setting("poisson-3d", 3, (3, 32, 32, 1), 5000, 800, 0.5, 0.5, 31, domain)
    return _poisson(setting, seed, compile=compile, derivatives=derivatives)


def forward_loss(parameters: tuple[Tensor, ...], channels: Tensor, source: Tensor, boundary: Tensor, weights: Tensor) -> Tensor:
    """``weights[0] mean (Laplace u + f)^2 + weights[1] mean u^2`` over the interior and the boundary, with the Laplacian carried forward.

    Args:
        parameters: Of the network ``u``.
        channels: The interior points as channels, see :func:`secant.problems.networks.mlp_channels`.
        source: ``f`` at the interior points.
        boundary: Shape ``(points, dimension)``.
        weights: Of the two terms, shape ``(2,)``.

    Returns:
        The scalar loss.
    """
    laplacian = mlp_channels(parameters, channels, curved=range(channels.shape[0]))[-1]
    return weights[0] * (laplacian + source).square().mean() + weights[1] * mlp(parameters, boundary).square().mean()


def nested_loss(parameters: tuple[Tensor, ...], interior: Tensor, source: Tensor, boundary: Tensor, weights: Tensor) -> Tensor:
    """The same loss by nested automatic differentiation: the plain truth, about twice the cost.

    Args:
        parameters: Of the network ``u``.
        interior: Shape ``(points, dimension)``.
        source: ``f`` at the interior points.
        boundary: Shape ``(points, dimension)``.
        weights: Of the two terms, shape ``(2,)``.

    Returns:
        The scalar loss.
    """
    interior = interior.detach().requires_grad_()
    slopes = partial_derivatives(mlp(parameters, interior), interior)
    laplacian = torch.zeros_like(source)
    for axis in range(interior.shape[1]):
        laplacian = laplacian + partial_derivatives(slopes[:, axis], interior)[:, axis]
    return weights[0] * (laplacian + source).square().mean() + weights[1] * mlp(parameters, boundary).square().mean()


def exact_solution(points: Tensor) -> Tensor:
    """The product of ``sin(pi x_i)`` over the coordinates; ``points`` of shape ``(points, dimension)``, result of shape ``(points,)``."""
    return torch.sin(math.pi * points).prod(dim=1)


def poisson_equation(points: Tensor, laplacian: Tensor) -> Tensor:
    """``Laplace u + f`` for the product of sines."""
    return laplacian + points.shape[1] * math.pi**2 * exact_solution(points)


def _poisson(setting: _Setting, seed: int, *, compile: bool, derivatives: str) -> Problem:
    if derivatives not in ("forward", "nested"):
        raise ValueError(f'{setting.name} needs derivatives "forward" or "nested", got {derivatives!r}.')
    if compile and derivatives == "nested":
        raise ValueError(f'{setting.name} compiles only derivatives="forward", got compile=True with derivatives="nested". Drop one of the two.')
    dimension = setting.dimension
    check_widths(setting.name, setting.widths, inputs=dimension)
    network = dense_network(setting.widths, torch.Generator().manual_seed(seed))
    parameters = tuple(network.parameters())
    interior = sobol(setting.interior, dimension, seed=_INTERIOR_SEED)
    boundary = cube_boundary(setting.boundary, dimension, seed=_BOUNDARY_SEED)
    weights = torch.tensor([setting.interior_weight, setting.boundary_weight], dtype=torch.float64)
    constants = (dimension * math.pi**2 * exact_solution(interior), boundary, weights)
    if derivatives == "forward":
        loss = closure(forward_loss, parameters, (_point_channels(interior), *constants), compile=compile)
    else:
        loss = closure(nested_loss, parameters, (interior, *constants), compile=False)
    field = Field(network, "xyz"[:dimension])
    residual = (
        PointResidual(field, interior, poisson_equation, ("laplacian",), scale=mean_scale(interior, setting.interior_weight)),
        PointResidual(field, boundary, boundary_value, ("",), scale=mean_scale(boundary, setting.boundary_weight)),
    )
    test_points = grid([torch.linspace(0.0, 1.0, setting.test_points_per_axis, dtype=torch.float64)] * dimension)
    expected = exact_solution(test_points)

    def error() -> float:
        with torch.no_grad():
            return relative_distance(mlp(parameters, test_points), expected)

    return Problem(
        name=setting.name,
        parameters=parameters,
        loss=loss,
        error=error,
        error_name="relative l2 error",
        settings={
            "network": described(network),
            "equation": f"-Laplace u = f, {setting.domain}",
            "loss": f"{setting.interior_weight} mean residual^2 + {setting.boundary_weight} mean boundary^2",
            "interior_points": f"{setting.interior} scrambled Sobol (seed {_INTERIOR_SEED})",
            "boundary_points": f"{setting.boundary} scrambled Sobol (seed {_BOUNDARY_SEED}), an equal block on each face",
            "points_sha256": checksum(interior, boundary),
            "test_grid": f"{setting.test_points_per_axis} points on each of {dimension} axes, ends included",
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(*parameters),
            "derivatives": derivatives,
            "compiled": compile,
        },
        residual=residual,
    )


def _point_channels(points: Tensor) -> Tensor:
    """The points as inputs: values, unit vectors as first derivatives, no second ones; shape ``(dimension, 2 + dimension, points)``."""
    count, dimension = points.shape
    units = torch.eye(dimension, dtype=points.dtype)[:, :, None].expand(dimension, dimension, count)
    return torch.cat((points.T[:, None, :], units, torch.zeros(dimension, 1, count, dtype=points.dtype)), dim=1)
