"""The viscous Burgers equation of viscosity 0.01, periodic, in the setting of a published record on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from secant.derivatives import Field, PointResidual
from secant.problems.burgers import burgers_equation, burgers_solution, collocation_points, start_mismatch
from secant.problems.collocated import field_problem, mean_scale
from secant.problems.networks import check_widths, dense_network, described
from secant.problems.points import grid, periodic_inputs, sobol
from secant.problems.problem import Problem

VISCOSITY = 0.01
_TIMES, _POSITIONS = 100, 1024
_NODES = 80
_EQUATION_WEIGHT = 0.01


def build_burgers_nu001(seed: int, *, compile: bool = False, widths: Sequence[int] = (3, 20, 20, 20, 20, 1), name: str = "burgers-nu001") -> Problem:
    """The problem ``burgers-nu001``: ``u_t + u u_x = 0.01 u_xx`` for ``t`` in [0, 1], ``x`` in [-1, 1] periodic, ``u(0, x) = -sin(pi x)``.

    ``u = N(t, cos(pi x), sin(pi x))``: the period is built in, the initial data are not. ``N`` is a ``tanh`` network, 3-20-20-20-20-1 (1,361 parameters,
    float64) unless ``widths`` says otherwise. The loss is 0.01 times the mean squared residual at the 3,000 points of ``burgers``, and the mean square of
    ``u + sin(pi x)`` at 500 scrambled Sobol points at ``t = 0`` (seed 11).

    Args:
        seed: Of the initial network.
        compile: Compile the loss.
        widths: Of the network's layers, the first 3 and the last 1.
        name: Of the problem with these widths.

    Returns:
        The problem; its error is the relative l2 distance to the exact solution on 100 times in [0, 1] by 1,024 positions in [-1, 1).

    Raises:
        ValueError: For widths of another kind of network.

    Source:
        Equation, inputs, layers, the two terms with their first weights, and test grid: Webb, Jerad & Cartis (2026), arXiv 2607.02194, and the notebooks
        beside it, which report an error of 3.9e-7 after 15.6 s (1,365 parameters, float32) and 1.9e-12 after 144 s (5,125 parameters, sine activations,
        float64) on one H100.
        Departure: there each layer has one trainable scale more (which changes nothing that the weights cannot express), weights adapt, and batches are
        drawn from 32,768 + 16,384 points; here the points are few and fixed, half of them near the shock.
    """
    check_widths(name, widths, inputs=3)
    network = dense_network(widths, torch.Generator().manual_seed(seed))
    field = Field(network, "tx", input_transform=periodic_inputs)
    interior = collocation_points()
    start = torch.cat((torch.zeros(500, 1, dtype=torch.float64), 2.0 * sobol(500, 1, seed=11) - 1.0), dim=1)
    blocks = (
        PointResidual(field, interior, burgers_equation(VISCOSITY), ("", "t", "x", "xx"), scale=mean_scale(interior, _EQUATION_WEIGHT)),
        PointResidual(field, start, start_mismatch, ("",), scale=mean_scale(start)),
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
            "solution": "u = N(t, cos(pi x), sin(pi x))",
            "viscosity": VISCOSITY,
            "loss": f"{_EQUATION_WEIGHT} mean residual^2 + mean (u + sin(pi x))^2 at t = 0",
            "points": "3000 of burgers, 500 scrambled Sobol at t = 0 (seed 11)",
            "test_grid": f"{_TIMES} times in [0, 1] by {_POSITIONS} positions in [-1, 1)",
            "reference": f"Cole-Hopf, Gauss-Hermite quadrature with {_NODES} nodes",
        },
    )


@functools.cache
def _test_grid() -> tuple[Tensor, Tensor]:
    positions = -1.0 + 2.0 * torch.arange(_POSITIONS, dtype=torch.float64) / _POSITIONS
    points = grid((torch.linspace(0.0, 1.0, _TIMES, dtype=torch.float64), positions))
    times, places = points.numpy().T
    return points, torch.from_numpy(burgers_solution(times, places, viscosity=VISCOSITY, nodes=_NODES))
