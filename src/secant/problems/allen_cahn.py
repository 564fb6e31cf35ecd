"""The Allen-Cahn equation by a physics-informed network with built-in initial and boundary data."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.polynomial.chebyshev import chebval
from torch import Tensor

from secant.derivatives import Field, PointResidual
from secant.problems.collocated import field_problem, mean_scale
from secant.problems.networks import check_widths, dense_network, described
from secant.problems.points import grid, sobol_rectangle
from secant.problems.problem import Problem
from secant.problems.spectral import Real, even_reaction_diffusion

DIFFUSIVITY = 0.001
_TIMES, _POSITIONS = 101, 201
_DEGREE, _STEPS_PER_INTERVAL = 640, 10


def build_allen_cahn(seed: int, *, compile: bool = False, widths: Sequence[int] = (2, 20, 20, 20, 1), name: str = "allen-cahn") -> Problem:
    """The problem ``allen-cahn``: ``u_t = 0.001 u_xx + 5 (u - u^3)`` for ``t`` in [0, 1], ``x`` in [-1, 1], ``u(0, x) = x^2 cos(pi x)``, ``u(t, +-1) = -1``.

    ``u = x^2 cos(pi x) + t (1 - x^2) N(t, x)`` meets the initial and boundary data exactly. ``N`` is a ``tanh`` network, 2-20-20-20-1 (921 parameters,
    float64) unless ``widths`` says otherwise. The loss is the mean squared residual at 8,000 scrambled Sobol points (seed 1).

    Args:
        seed: Of the initial network.
        compile: Compile the loss.
        widths: Of the network's layers, the first 2 and the last 1.
        name: Of the problem with these widths.

    Returns:
        The problem; its error is the relative l2 distance to :func:`allen_cahn_solution`, on 101 times by 201 positions.

    Raises:
        ValueError: For widths of another kind of network.

    Source:
        Equation, data, network and number of points: the example that DeepXDE ships (``Allen_Cahn.py``, Lu et al. 2021, SIAM Review 63, 208).
        Departure: Sobol points, the same for all runs; Glorot uniform weights instead of normal ones.
    """
    check_widths(name, widths, inputs=2)
    network = dense_network(widths, torch.Generator().manual_seed(seed))
    field = Field(network, "tx", output_transform=_with_data)
    points = sobol_rectangle(8000, (0.0, 1.0), (-1.0, 1.0), seed=1)
    residual = PointResidual(field, points, _equation, ("", "t", "xx"), scale=mean_scale(points))
    return field_problem(
        name,
        network,
        field,
        (residual,),
        _test_grid(),
        seed=seed,
        compile=compile,
        settings={
            "network": described(network),
            "solution": "u = x^2 cos(pi x) + t (1 - x^2) N(t, x)",
            "equation": f"u_t = {DIFFUSIVITY} u_xx + 5 (u - u^3)",
            "loss": "mean squared residual",
            "points": "8000 scrambled Sobol (seed 1)",
            "test_grid": f"{_TIMES} times in [0, 1] by {_POSITIONS} positions in [-1, 1]",
            "reference": f"Chebyshev collocation of degree {_DEGREE}, ETDRK4 with {(_TIMES - 1) * _STEPS_PER_INTERVAL} steps",
        },
    )


def allen_cahn_solution(positions: Real, *, degree: int = _DEGREE, steps_per_interval: int = _STEPS_PER_INTERVAL) -> Real:
    """The reference at 101 equally spaced times in [0, 1] and these positions, shape ``(101, positions)``.

    With the defaults it differs by 2e-11 from that of degree 800; halving the steps changes it by 1.4e-10. Costs half a second.
    """
    coefficients = even_reaction_diffusion(
        DIFFUSIVITY,
        lambda u: 5.0 * (u - u**3),
        lambda x: x * x * np.cos(np.pi * x),
        degree=degree,
        intervals=_TIMES - 1,
        steps_per_interval=steps_per_interval,
    )
    solution: Real = chebval(positions, coefficients.T)
    return solution


def _equation(points: Tensor, u: Tensor, u_t: Tensor, u_xx: Tensor) -> Tensor:
    return u_t - DIFFUSIVITY * u_xx - 5.0 * (u - u**3)


def _with_data(points: Tensor, outputs: Tensor) -> Tensor:
    t, x = points[:, :1], points[:, 1:]
    return x * x * torch.cos(math.pi * x) + t * (1.0 - x * x) * outputs


@functools.cache
def _test_grid() -> tuple[Tensor, Tensor]:
    positions = torch.linspace(-1.0, 1.0, _POSITIONS, dtype=torch.float64)
    points = grid((torch.linspace(0.0, 1.0, _TIMES, dtype=torch.float64), positions))
    return points, torch.from_numpy(allen_cahn_solution(positions.numpy())).flatten()
