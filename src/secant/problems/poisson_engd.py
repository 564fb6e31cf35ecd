"""The Poisson problem on which the energy natural gradient was published, with its network, its points and its integrals."""

from __future__ import annotations

import functools
import itertools
from typing import Literal

import numpy
import torch
from torch import Tensor, nn

from secant.derivatives import Field, PointResidual
from secant.problems.collocated import boundary_value, field_problem, mean_scale
from secant.problems.points import grid
from secant.problems.poisson import exact_solution, poisson_equation
from secant.problems.problem import Problem

_WIDTHS = (2, 32, 1)
_POINTS_PER_AXIS, _TEST_POINTS_PER_AXIS = 30, 200
_PERIMETER = 4.0
_START_SCALE = 0.1


def build_poisson_engd(seed: int, *, compile: bool = False, stream: Literal["torch", "numpy"] = "torch") -> Problem:
    """The problem ``poisson-engd``: ``-Laplace u = f`` on the unit square, ``u = sin(pi x) sin(pi y)``, zero on the boundary.

    A ``tanh`` network 2-32-1 (129 parameters, float64) is ``u`` itself. The loss is ``mean r^2 + 4 mean b^2``, the integrals over the square and over its
    boundary: ``r`` the residual at the 28 x 28 inner points of a grid of 30 x 30, ``b`` the value at the 116 points of that grid on the boundary. Weights and
    biases start as normal numbers of standard deviation 0.1.

    Args:
        seed: Of the initial network.
        compile: Compile the loss.
        stream: Where the initial numbers come from: torch's generator or NumPy's PCG64, so that no result hangs on the seeds of one stream.

    Returns:
        The problem; its error is the relative l2 distance to the exact solution at the 198 x 198 inner points of a grid of 200 x 200.

    Raises:
        ValueError: For another word for ``stream``.

    Source:
        Mueller & Zeinhofer (2023), ICML, arXiv 2302.13163, with the numbers of its published script ``engd_poisson_2d.py``.
        Departure: the start is drawn from our two streams, not from JAX's; the error is divided by the norm of the solution, 1/2, so that it is twice theirs.
    """
    network = _started_network(seed, stream)
    field = Field(network, "xy")
    axis = torch.linspace(0.0, 1.0, _POINTS_PER_AXIS, dtype=torch.float64)
    interior, boundary = grid([axis[1:-1]] * 2), square_boundary(axis)
    blocks = (
        PointResidual(field, interior, poisson_equation, ("laplacian",), scale=mean_scale(interior)),
        PointResidual(field, boundary, boundary_value, ("",), scale=mean_scale(boundary, _PERIMETER)),
    )
    return field_problem(
        "poisson-engd",
        network,
        field,
        blocks,
        _test_grid(),
        seed=seed,
        compile=compile,
        settings={
            "network": f"tanh {'-'.join(map(str, _WIDTHS))}, normal weights and biases of standard deviation {_START_SCALE}",
            "equation": "-Laplace u = f, unit square, product of sines",
            "loss": f"mean residual^2 + {_PERIMETER} mean boundary^2",
            "interior_points": f"{len(interior)}, the inner points of a grid of {_POINTS_PER_AXIS} on each axis",
            "boundary_points": f"{len(boundary)}, the same grid on the four sides, each corner once",
            "test_grid": f"{_TEST_POINTS_PER_AXIS} points on each of 2 axes without the ends",
            "stream": stream,
        },
    )


def square_boundary(axis: Tensor) -> Tensor:
    """The points of a grid on the sides of a square, counterclockwise from the first corner, each corner once.

    Args:
        axis: The grid's coordinates on either axis, ascending, both ends of the square included; shape ``(m,)``.

    Returns:
        Shape ``(4 (m - 1), 2)``: bottom, right, top and left side.
    """
    ahead, back = axis[:-1], axis.flip(0)[:-1]
    low, high = axis[0].expand(len(ahead)), axis[-1].expand(len(ahead))
    sides = ((ahead, low), (high, ahead), (back, high), (low, back))
    return torch.cat([torch.stack(side, dim=1) for side in sides])


def _started_network(seed: int, stream: str) -> nn.Sequential:
    """The network, its numbers drawn for weight and bias of one layer after another."""
    if stream not in ("torch", "numpy"):
        raise ValueError(f'poisson-engd needs stream "torch" or "numpy", got {stream!r}.')
    torch_stream, numpy_stream = torch.Generator().manual_seed(seed), numpy.random.Generator(numpy.random.PCG64(seed))

    def normal(*shape: int) -> nn.Parameter:
        drawn = torch.randn(shape, generator=torch_stream, dtype=torch.float64) if stream == "torch" else torch.from_numpy(numpy_stream.standard_normal(shape))
        return nn.Parameter(_START_SCALE * drawn)

    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(_WIDTHS):
        linear = nn.Linear(inputs, outputs, device="meta")
        linear.weight, linear.bias = normal(outputs, inputs), normal(outputs)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


@functools.cache
def _test_grid() -> tuple[Tensor, Tensor]:
    points = grid([torch.linspace(0.0, 1.0, _TEST_POINTS_PER_AXIS, dtype=torch.float64)[1:-1]] * 2)
    return points, exact_solution(points)
