"""Finding the coefficients of the Burgers equation from values of its solution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from secant.derivatives import Field, PointResidual
from secant.problems.burgers import VISCOSITY, burgers_solution
from secant.problems.collocated import collocated_problem, mean_scale
from secant.problems.networks import check_widths, dense_network, described
from secant.problems.points import sobol_rectangle
from secant.problems.problem import Problem

CONVECTION = 1.0
_START_CONVECTION, _START_LOG_VISCOSITY = 0.0, -6.0


def build_burgers_inverse(seed: int, *, compile: bool = False, widths: Sequence[int] = (2, 20, 20, 20, 20, 1), name: str = "burgers-inverse") -> Problem:
    """The problem ``burgers-inverse``: ``c`` and ``nu`` of ``u_t + c u u_x = nu u_xx`` from 2,000 exact values of ``u``; the truth is 1 and ``0.01 / pi``.

    A ``tanh`` network 2-20-20-20-20-1 (1,341 parameters, float64) is ``u`` itself, unless ``widths`` says otherwise; ``c`` and ``log nu`` are trained beside
    its weights and start at 0 and -6. The loss is the mean squared residual and the mean squared mismatch, both at 2,000 scrambled Sobol points (seed 1). The
    values are free of noise: the solution of ``burgers``, exact to rounding.

    Args:
        seed: Of the initial network.
        compile: Compile the loss.
        widths: Of the network's layers, the first 2 and the last 1.
        name: Of the problem with these widths.

    Returns:
        The problem; its parameters are those of the network, then ``c`` and ``log nu``. Its error is the larger of the relative errors of ``c`` and ``nu``.

    Raises:
        ValueError: For widths of another kind of network.

    Source:
        Raissi, Perdikaris & Karniadakis (2019), J. Comput. Phys. 378, 686; first coefficients from the code beside it.
        Departure: Sobol points; half as many layers.
    """
    check_widths(name, widths, inputs=2)
    network = dense_network(widths, torch.Generator().manual_seed(seed))
    points = sobol_rectangle(2000, (0.0, 1.0), (-1.0, 1.0), seed=1)
    values = torch.from_numpy(burgers_solution(*points.numpy().T))
    # The measured value is one more coordinate, which the network does not see: so it stays with its point.
    measured = torch.cat((points, values[:, None]), dim=1)
    convection = torch.tensor(_START_CONVECTION, dtype=torch.float64, requires_grad=True)
    log_viscosity = torch.tensor(_START_LOG_VISCOSITY, dtype=torch.float64, requires_grad=True)
    coefficients = (convection, log_viscosity)
    blocks = (
        PointResidual(Field(network, "tx"), points, _equation, ("", "t", "x", "xx"), coefficients=coefficients, scale=mean_scale(points)),
        PointResidual(Field(network, ("t", "x", "value"), input_transform=_without_value), measured, _mismatch, ("",), scale=mean_scale(points)),
    )

    def error() -> float:
        found = (float(convection.detach()), math.exp(float(log_viscosity.detach())))
        return max(abs(found[0] / CONVECTION - 1.0), abs(found[1] / VISCOSITY - 1.0))

    return collocated_problem(
        name,
        (*network.parameters(), *coefficients),
        blocks,
        error,
        error_name="largest relative error of the coefficients",
        seed=seed,
        compile=compile,
        settings={
            "network": described(network),
            "solution": "u = N(t, x)",
            "equation": "u_t + c u u_x = nu u_xx, c and log nu trained",
            "convection": CONVECTION,
            "viscosity": VISCOSITY,
            "first_convection": _START_CONVECTION,
            "first_log_viscosity": _START_LOG_VISCOSITY,
            "loss": "mean residual^2 + mean (u - value)^2",
            "points": "2000 scrambled Sobol (seed 1), for the equation and for the values",
            "values": "exact (Cole-Hopf), without noise",
        },
    )


def _equation(points: Tensor, u: Tensor, u_t: Tensor, u_x: Tensor, u_xx: Tensor, convection: Tensor, log_viscosity: Tensor) -> Tensor:
    return u_t + convection * u * u_x - torch.exp(log_viscosity) * u_xx


def _mismatch(points: Tensor, u: Tensor) -> Tensor:
    return u - points[:, 2]


def _without_value(points: Tensor) -> Tensor:
    return points[:, :2]
