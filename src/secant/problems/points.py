"""Fixed collocation points and test grids."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine


def sobol(count: int, dimension: int, *, seed: int) -> Tensor:
    """The first ``count`` points of the scrambled Sobol sequence in the unit cube, shape ``(count, dimension)``, float64."""
    return SobolEngine(dimension, scramble=True, seed=seed).draw(count, dtype=torch.float64)  # type: ignore[no-untyped-call]


def cube_boundary(count: int, dimension: int, *, seed: int) -> Tensor:
    """Scrambled Sobol points on the faces of the unit cube.

    The faces are ordered ``x_0 = 0, x_0 = 1, x_1 = 0, ...``. Each takes the next block of one Sobol sequence in ``dimension - 1`` dimensions: any block of
    the sequence is spread evenly, while every m-th point of it is not. The first faces have one point more where ``count`` is not divisible.

    Returns:
        Shape ``(count, dimension)``, float64, face after face.
    """
    blocks = torch.tensor_split(sobol(count, dimension - 1, seed=seed), 2 * dimension)
    faces: list[Tensor] = []
    for face, block in enumerate(blocks):
        axis, side = divmod(face, 2)
        fixed = torch.full((len(block), 1), float(side), dtype=torch.float64)
        faces.append(torch.cat((block[:, :axis], fixed, block[:, axis:]), dim=1))
    return torch.cat(faces)


def grid(axes: Sequence[Tensor]) -> Tensor:
    """All points of a tensor grid, shape ``(product of the axes' lengths, number of axes)``; the last axis runs fastest."""
    return torch.stack([coordinate.flatten() for coordinate in torch.meshgrid(*axes, indexing="ij")], dim=1)


def sobol_rectangle(count: int, first: tuple[float, float], second: tuple[float, float], *, seed: int) -> Tensor:
    """The first ``count`` points of the scrambled Sobol sequence in the rectangle ``first x second``, shape ``(count, 2)``, float64."""
    low = torch.tensor((first[0], second[0]), dtype=torch.float64)
    high = torch.tensor((first[1], second[1]), dtype=torch.float64)
    return low + (high - low) * sobol(count, 2, seed=seed)


def periodic_inputs(points: Tensor) -> Tensor:
    """``(t, cos(pi x), sin(pi x))`` at points ``(t, x)``, shape ``(points, 3)``: what a network must see to have period 2 in ``x``."""
    t, x = points.unbind(1)
    return torch.stack((t, torch.cos(math.pi * x), torch.sin(math.pi * x)), dim=1)
