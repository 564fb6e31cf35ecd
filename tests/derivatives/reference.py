from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

EVERY_NAME = ("", "t", "x", "tt", "xt", "xx", "ttx", "xxx", "tttt", "ttxx", "laplacian")


def nested(function: Callable[[Tensor], Tensor], points: Tensor, axes: Sequence[int]) -> Tensor:
    """The derivative of each output by the axes one after another, by reverse differentiation of reverse differentiation."""
    points = points.detach().requires_grad_()
    outputs = function(points)
    columns = []
    for column in outputs.unbind(1) if outputs.ndim == 2 else (outputs,):
        for axis in axes:
            # A graph without the points is a constant.
            column = torch.autograd.grad(column.sum() + 0.0 * points.sum(), points, create_graph=True)[0][:, axis]
        columns.append(column)
    return torch.stack(columns, 1) if len(columns) > 1 else columns[0]


def named(function: Callable[[Tensor], Tensor], points: Tensor, name: str, coordinates: str = "tx") -> Tensor:
    """The same by name."""
    if name == "laplacian":
        return torch.stack([nested(function, points, (axis, axis)) for axis in range(len(coordinates))]).sum(0)
    return nested(function, points, [coordinates.index(letter) for letter in name])


def differences(function: Callable[[Tensor], Tensor], points: Tensor, axes: Sequence[int], step: float = 2e-3) -> Tensor:
    """The last derivative by central differences of eighth order, of the nested derivative by the axes before it."""
    *before, last = axes
    direction = torch.zeros(points.shape[1], dtype=points.dtype)
    direction[last] = step

    def at(count: int) -> Tensor:
        return nested(function, points + count * direction, before).detach()

    weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
    return torch.stack([weight * (at(k) - at(-k)) for k, weight in enumerate(weights, start=1)]).sum(0) / step


def distance(got: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest entry; entries below 0.01 are what is left of larger terms."""
    assert got.shape == expected.shape
    return float(((got - expected).abs().max() / expected.abs().max().clamp_min(1e-2)).detach()) if expected.numel() else 0.0


def parameter_gradients(outputs: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Of a weighted sum of squares of the outputs, with a graph."""
    total = torch.stack([(output * torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).view(output.shape)).square().sum() for output in outputs]).sum()
    return list(torch.autograd.grad(total, parameters, create_graph=True, materialize_grads=True))
