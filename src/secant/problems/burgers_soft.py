"""The viscous Burgers equation by a physics-informed network with penalties on initial and boundary data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from secant.derivatives import Field, PointResidual
from secant.problems.burgers import VISCOSITY, burgers_equation, burgers_test_grid, reference_settings, start_mismatch
from secant.problems.collocated import boundary_value, field_problem, mean_scale
from secant.problems.networks import check_widths, dense_network, described
from secant.problems.points import sobol, sobol_rectangle
from secant.problems.problem import Problem


def build_burgers_soft(seed: int, *, compile: bool = False, widths: Sequence[int] = (2, 20, 20, 20, 20, 1), name: str = "burgers-soft") -> Problem:
    """The problem ``burgers-soft``: the equation of ``burgers``, with nothing built in.

    A ``tanh`` network 2-20-20-20-20-1 (1,341 parameters, float64) is ``u`` itself, unless ``widths`` says otherwise. The loss is the sum of three means of
    squares: of the residual at 8,000 scrambled Sobol points (seed 1), of ``u + sin(pi x)`` at 500 at ``t = 0`` (seed 7), and of ``u`` at 250 at each of the two
    ends (seed 11).

    Args:
        seed: Of the initial network.
        compile: Compile the loss.
        widths: Of the network's layers, the first 2 and the last 1.
        name: Of the problem with these widths.

    Returns:
        The problem; its error is the relative l2 distance to the exact solution on the grid of ``burgers``.

    Raises:
        ValueError: For widths of another kind of network.

    Source:
        Network and numbers of points: Kiyani et al. (2025), arXiv 2501.16371.
        Departure: there 1,000 steps of Adam come first and the points are drawn anew every 500 iterations; here they are the same for all runs.
    """
    check_widths(name, widths, inputs=2)
    network = dense_network(widths, torch.Generator().manual_seed(seed))
    field = Field(network, "tx")
    interior = sobol_rectangle(8000, (0.0, 1.0), (-1.0, 1.0), seed=1)
    start = torch.cat((torch.zeros(500, 1, dtype=torch.float64), 2.0 * sobol(500, 1, seed=7) - 1.0), dim=1)
    ends = torch.cat((sobol(500, 1, seed=11), 2.0 * (torch.arange(500, dtype=torch.float64)[:, None] % 2.0) - 1.0), dim=1)
    blocks = (
        PointResidual(field, interior, burgers_equation(VISCOSITY), ("", "t", "x", "xx"), scale=mean_scale(interior)),
        PointResidual(field, start, start_mismatch, ("",), scale=mean_scale(start)),
        PointResidual(field, ends, boundary_value, ("",), scale=mean_scale(ends)),
    )
    return field_problem(
        name,
        network,
        field,
        blocks,
        burgers_test_grid(),
        seed=seed,
        compile=compile,
        settings={
            "network": described(network),
            "solution": "u = N(t, x)",
            "viscosity": VISCOSITY,
            "loss": "mean residual^2 + mean (u + sin(pi x))^2 at t = 0 + mean u^2 at the ends",
            "points": "8000 scrambled Sobol (seed 1), 500 at t = 0 (seed 7), 500 at the ends (seed 11)",
            **reference_settings(),
        },
    )
