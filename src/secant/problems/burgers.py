"""The viscous Burgers equation by a physics-informed network with built-in initial data and period."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secant.derivatives import Field, PointResidual
from secant.problems.collocated import mean_scale
from secant.problems.networks import check_widths, dense_network, described, mlp, mlp_channels, partial_derivatives
from secant.problems.points import grid, periodic_inputs, sobol
from secant.problems.problem import Problem, checksum, closure, relative_distance

VISCOSITY = 0.01 / math.pi
_NODES = 120
_TIMES, _POSITIONS = 100, 256


def build_burgers(
    seed: int,
    *,
    compile: bool = False,
    derivatives: Literal["forward", "nested"] = "forward",
    widths: Sequence[int] = (3, 20, 20, 20, 1),
    name: str = "burgers",
) -> Problem:
    """The problem ``burgers``: ``u_t + u u_x = nu u_xx`` for ``t`` in [0, 1] and ``x`` in [-1, 1], ``nu = 0.01 / pi``, ``u(0, x) = -sin(pi x)``.

    ``u = -sin(pi x) + t N(t, cos(pi x), sin(pi x))`` meets the initial data and the period exactly; ``u(t, +-1) = 0`` is not built in. ``N`` is a ``tanh``
    network, 3-20-20-20-1 (941 parameters, float64) unless ``widths`` says otherwise. The loss is the mean squared residual at 3,000 fixed points: 1,500
    scrambled Sobol points (seed 1) and 1,500 more (seed 7) with ``x`` multiplied by 0.1, where the shock forms.

    Args:
        seed: Of the initial network.
        compile: Compile the loss; only with forward derivatives.
        derivatives: ``"forward"`` carries the derivatives through the layers, ``"nested"`` differentiates the network by automatic differentiation. The
            numbers are the same up to rounding, the cost is not.
        widths: Of the network's layers, the first 3 and the last 1; ``(3, w, w, w, 1)`` has ``2 w^2 + 7 w + 1`` parameters.
        name: Of the problem with these widths.

    Returns:
        The problem; its error is the relative l2 distance to :func:`burgers_solution` on 100 times in [0, 0.99] by 256 positions in [-1, 1].

    Raises:
        ValueError: For ``compile`` with nested derivatives, another word for ``derivatives``, or widths of another kind of network.

    Source:
        Urban, Stefanou & Pons (2025), J. Comput. Phys., arXiv 2405.04230.
    """
    if derivatives not in ("forward", "nested"):
        raise ValueError(f'burgers needs derivatives "forward" or "nested", got {derivatives!r}.')
    if compile and derivatives == "nested":
        raise ValueError('burgers compiles only derivatives="forward", got compile=True with derivatives="nested". Drop one of the two.')
    check_widths(name, widths, inputs=3)
    network = dense_network(widths, torch.Generator().manual_seed(seed))
    parameters = tuple(network.parameters())
    points = collocation_points()
    field = Field(network, "tx", input_transform=periodic_inputs, output_transform=_with_initial_data)
    residual = PointResidual(field, points, burgers_equation(VISCOSITY), ("", "t", "x", "xx"), scale=mean_scale(points))
    if derivatives == "forward":
        loss = closure(forward_loss, parameters, (_embedding_channels(points), *_coefficients(points)), compile=compile)
    else:
        loss = closure(nested_loss, parameters, (points,), compile=False)
    test_points, expected = burgers_test_grid()

    def error() -> float:
        with torch.no_grad():
            return relative_distance(_solution(parameters, test_points), expected)

    return Problem(
        name=name,
        parameters=parameters,
        loss=loss,
        error=error,
        error_name="relative l2 error",
        settings={
            "network": described(network),
            "solution": "u = -sin(pi x) + t N(t, cos(pi x), sin(pi x))",
            "viscosity": VISCOSITY,
            "loss": "mean squared residual",
            "points": "1500 scrambled Sobol (seed 1) and 1500 scrambled Sobol (seed 7) with x multiplied by 0.1",
            "points_sha256": checksum(points),
            **reference_settings(),
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(*parameters),
            "derivatives": derivatives,
            "compiled": compile,
        },
        residual=(residual,),
    )


def collocation_points() -> Tensor:
    """The 3,000 points ``(t, x)`` of the loss, shape ``(3000, 2)``, float64."""
    everywhere = sobol(1500, 2, seed=1)
    near_shock = sobol(1500, 2, seed=7)
    times = torch.cat((everywhere[:, 0], near_shock[:, 0]))
    positions = torch.cat((2.0 * everywhere[:, 1] - 1.0, 0.1 * (2.0 * near_shock[:, 1] - 1.0)))
    return torch.stack((times, positions), dim=1)


def burgers_equation(viscosity: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """``u_t + u u_x - viscosity u_xx`` as a function of the points and of ``u, u_t, u_x, u_xx``."""

    def equation(points: Tensor, u: Tensor, u_t: Tensor, u_x: Tensor, u_xx: Tensor) -> Tensor:
        return u_t + u * u_x - viscosity * u_xx

    return equation


def start_mismatch(points: Tensor, u: Tensor) -> Tensor:
    """``u + sin(pi x)``: how far ``u`` is from the initial data."""
    return u + torch.sin(math.pi * points[:, 1])


def forward_loss(parameters: tuple[Tensor, ...], channels: Tensor, t: Tensor, sine: Tensor, sine_x: Tensor, sine_xx: Tensor) -> Tensor:
    """The mean squared residual with derivatives carried forward.

    Args:
        parameters: Of the network ``N``.
        channels: The embedding ``(t, cos(pi x), sin(pi x))`` with its derivatives, see :func:`secant.problems.networks.mlp_channels`.
        t: Times of the points.
        sine: ``sin(pi x)`` at the points.
        sine_x: Its first derivative by ``x``.
        sine_xx: Its second derivative by ``x``.

    Returns:
        The scalar loss.
    """
    n, n_t, n_x, n_xx = mlp_channels(parameters, channels, curved=(1,))
    u = t * n - sine
    u_t = n + t * n_t
    u_x = t * n_x - sine_x
    u_xx = t * n_xx - sine_xx
    residual = u_t + u * u_x - VISCOSITY * u_xx
    return residual.square().mean()


def nested_loss(parameters: tuple[Tensor, ...], points: Tensor) -> Tensor:
    """The same mean squared residual, from ``u`` itself by nested automatic differentiation: the plain truth, about twice the cost.

    Args:
        parameters: Of the network ``N``.
        points: ``(t, x)``, shape ``(points, 2)``.

    Returns:
        The scalar loss.
    """
    points = points.detach().requires_grad_()
    u = _solution(parameters, points)
    u_t, u_x = partial_derivatives(u, points).unbind(1)
    u_xx = partial_derivatives(u_x, points)[:, 1]
    residual = u_t + u * u_x - VISCOSITY * u_xx
    return residual.square().mean()


def burgers_solution(t: NDArray[np.float64], x: NDArray[np.float64], *, viscosity: float = VISCOSITY, nodes: int = _NODES) -> NDArray[np.float64]:
    """The exact solution by the Cole-Hopf transformation.

    ``u(t, x) = -E[sin(pi y) exp(-cos(pi y) / (2 pi nu))] / E[exp(-cos(pi y) / (2 pi nu))]`` with ``y = x - sqrt(4 nu t) z`` and ``z`` of density
    proportional to ``exp(-z^2)``. With the viscosity of ``burgers`` the exponents reach ``+-50``; they are shifted by their largest, so that nothing overflows.

    Args:
        t: Times, shape ``(points,)``, none negative.
        x: Positions, shape ``(points,)``.
        viscosity: ``nu``.
        nodes: Of the Gauss-Hermite quadrature, at most 350 (the outermost weights underflow beyond). On the test grid the error is 9e-10 with 60 nodes,
            6e-14 with 80, and rounding from 100 on.

    Returns:
        Shape ``(points,)``.

    Source:
        Basdevant et al. (1986), Computers & Fluids 14, 23, eq. 2.5.
    """
    z, weights = np.polynomial.hermite.hermgauss(nodes)
    y = x[:, None] - np.sqrt(4.0 * viscosity * t)[:, None] * z
    exponents = np.log(weights) - np.cos(np.pi * y) / (2.0 * np.pi * viscosity)
    masses = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    solution: NDArray[np.float64] = -(np.sin(np.pi * y) * masses).sum(axis=1) / masses.sum(axis=1)
    return solution


def _solution(parameters: tuple[Tensor, ...], points: Tensor) -> Tensor:
    t, x = points.unbind(1)
    return t * mlp(parameters, periodic_inputs(points)) - torch.sin(math.pi * x)


def _with_initial_data(points: Tensor, outputs: Tensor) -> Tensor:
    return points[:, :1] * outputs - torch.sin(math.pi * points[:, 1:])


def _embedding_channels(points: Tensor) -> Tensor:
    """Values, derivatives by ``t``, by ``x`` and twice by ``x`` of ``(t, cos(pi x), sin(pi x))``, shape ``(3, 4, points)``."""
    t, x = points.unbind(1)
    cosine, sine = torch.cos(math.pi * x), torch.sin(math.pi * x)
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    rows = (
        torch.stack((t, one, zero, zero)),
        torch.stack((cosine, zero, -math.pi * sine, -(math.pi**2) * cosine)),
        torch.stack((sine, zero, math.pi * cosine, -(math.pi**2) * sine)),
    )
    return torch.stack(rows)


def _coefficients(points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    t, x = points.T.contiguous().unbind(0)
    sine = torch.sin(math.pi * x)
    return t, sine, math.pi * torch.cos(math.pi * x), -(math.pi**2) * sine


def reference_settings() -> dict[str, str | int | float | bool]:
    """What is stated of :func:`burgers_test_grid`."""
    return {
        "test_grid": f"{_TIMES} times in [0, 0.99] by {_POSITIONS} positions in [-1, 1]",
        "reference": f"Cole-Hopf, Gauss-Hermite quadrature with {_NODES} nodes",
    }


@functools.cache
def burgers_test_grid() -> tuple[Tensor, Tensor]:
    """The 25,600 points ``(t, x)`` of the error, and the exact solution there."""
    points = grid((torch.linspace(0.0, 0.99, _TIMES, dtype=torch.float64), torch.linspace(-1.0, 1.0, _POSITIONS, dtype=torch.float64)))
    times, positions = points.numpy().T
    return points, torch.from_numpy(burgers_solution(times, positions))
