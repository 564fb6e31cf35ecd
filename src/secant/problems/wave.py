"""The wave equation by a physics-informed network with penalties on initial and boundary data."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from secant.derivatives import Field, PointResidual
from secant.problems.collocated import field_problem, mean_scale
from secant.problems.networks import check_widths, dense_network, described
from secant.problems.points import grid, sobol, sobol_rectangle
from secant.problems.problem import Problem

SPEED = 2.0
_POINTS_PER_AXIS = 101


def build_wave(seed: int, *, compile: bool = False, widths: Sequence[int] = (2, 40, 40, 1), name: str = "wave-1d") -> Problem:
    """The problem ``wave-1d``: ``u_tt = 4 u_xx`` on the unit square, ``u = sin(pi x) cos(2 pi t) + 0.5 sin(4 pi x) cos(8 pi t)``.

    A ``tanh`` network 2-40-40-1 (1,801 parameters, float64) is ``u`` itself, unless ``widths`` says otherwise. The loss is the sum of four means of
    squares: of the residual at 3,000 scrambled Sobol points (seed 1), divided by ``(8 pi)^2``, the largest frequency of the solution squared; of ``u`` and of
    ``u_t / (8 pi)`` less their data at 200 scrambled Sobol points at ``t = 0`` (seed 7); and of ``u`` at 100 scrambled Sobol points at each end (seed 11).

    Args:
        seed: Of the initial network.
        compile: Compile the loss.
        widths: Of the network's layers, the first 2 and the last 1.
        name: Of the problem with these widths.

    Returns:
        The problem; its error is the relative l2 distance to :func:`wave_solution` on the grid of 101 x 101 points.

    Raises:
        ValueError: For widths of another kind of network.

    Source:
        Equation and data: Wang, Yu & Perdikaris (2022), J. Comput. Phys. 449, 110768.
        Departure: network, points and weights are our own.
    """
    check_widths(name, widths, inputs=2)
    network = dense_network(widths, torch.Generator().manual_seed(seed))
    field = Field(network, "tx")
    interior = sobol_rectangle(3000, (0.0, 1.0), (0.0, 1.0), seed=1)
    start = torch.cat((torch.zeros(200, 1, dtype=torch.float64), sobol(200, 1, seed=7)), dim=1)
    ends = torch.cat((sobol(200, 1, seed=11), torch.arange(200, dtype=torch.float64)[:, None] % 2.0), dim=1)
    frequency = 4.0 * math.pi * SPEED
    blocks = (
        PointResidual(field, interior, _equation, ("tt", "xx"), scale=mean_scale(interior) / frequency),
        PointResidual(field, start, _displacement, ("",), scale=mean_scale(start)),
        PointResidual(field, start, _velocity, ("t",), scale=mean_scale(start) / frequency),
        PointResidual(field, ends, _displacement, ("",), scale=mean_scale(ends)),
    )
    return field_problem(
        name,
        network,
        field,
        blocks,
        _test_grid(),
        seed=seed,
        compile=compile,
        settings={
            "network": described(network),
            "equation": f"u_tt = {SPEED**2} u_xx",
            "solution": "sin(pi x) cos(2 pi t) + 0.5 sin(4 pi x) cos(8 pi t)",
            "loss": "mean residual^2 / (8 pi)^2 + mean start^2 + mean (start velocity)^2 / (8 pi)^2 + mean end^2",
            "points": "3000 scrambled Sobol (seed 1), 200 at t = 0 (seed 7), 200 at the ends (seed 11)",
            "test_grid": f"{_POINTS_PER_AXIS} times in [0, 1] by {_POINTS_PER_AXIS} positions in [0, 1]",
        },
    )


def wave_solution(points: Tensor) -> Tensor:
    """The exact solution at points ``(t, x)``, shape ``(points, 2)`` to ``(points,)``."""
    t, x = points.unbind(1)
    slow, fast = math.pi * SPEED * t, 4.0 * math.pi * SPEED * t
    return torch.sin(math.pi * x) * torch.cos(slow) + 0.5 * torch.sin(4.0 * math.pi * x) * torch.cos(fast)


def _equation(points: Tensor, u_tt: Tensor, u_xx: Tensor) -> Tensor:
    return u_tt - SPEED**2 * u_xx


def _displacement(points: Tensor, u: Tensor) -> Tensor:
    return u - wave_solution(points)


def _velocity(points: Tensor, u_t: Tensor) -> Tensor:
    return u_t


@functools.cache
def _test_grid() -> tuple[Tensor, Tensor]:
    points = grid([torch.linspace(0.0, 1.0, _POINTS_PER_AXIS, dtype=torch.float64)] * 2)
    return points, wave_solution(points)
