"""Small dense networks, and their derivatives by the inputs carried forward through the layers.

A scalar network ``N(e)`` of inputs ``e(xi)`` is evaluated with the derivatives by the coordinates ``xi`` in one pass. Every layer keeps, for each neuron and
point, the channels ``(value, first derivatives by each coordinate, sum of the second derivatives by the curved coordinates)``. A linear layer acts on all
channels alike, so that it is a single matrix product; ``tanh`` mixes them by the chain rule. Since only the sum of the second derivatives is kept, the
Laplacian in ``d`` dimensions needs ``d + 2`` channels.

Source:
    The chain rule of second-order Taylor arithmetic; Griewank & Walther (2008), chapter 13. The sum over the second derivatives in one channel is the
    "forward Laplacian" of Li et al. (2024), Nature Machine Intelligence 6, 209.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def glorot_parameters(widths: Sequence[int], generator: torch.Generator, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Fresh parameters of a dense network: Glorot uniform weights and zero biases.

    Args:
        widths: Inputs, hidden layers and outputs, for instance ``(3, 20, 20, 20, 1)``.
        generator: Where the weights come from, layer after layer.
        dtype: Their dtype.

    Returns:
        ``(weight, bias, weight, bias, ...)``, leaf tensors with ``requires_grad``; a weight has shape ``(outputs, inputs)`` and its elements are uniform in
        ``+-sqrt(6 / (inputs + outputs))``.
    """
    parameters: list[Tensor] = []
    for inputs, outputs in itertools.pairwise(widths):
        bound = math.sqrt(6.0 / (inputs + outputs))
        uniform = torch.rand(outputs, inputs, generator=generator, dtype=dtype)
        parameters.append((bound * (2.0 * uniform - 1.0)).requires_grad_())
        parameters.append(torch.zeros(outputs, dtype=dtype, requires_grad=True))
    return tuple(parameters)


def check_widths(name: str, widths: Sequence[int], *, inputs: int) -> None:
    """Refuse widths of another kind of network than one output and this many inputs.

    Raises:
        ValueError: Naming the problem.
    """
    if len(widths) < 3 or widths[0] != inputs or widths[-1] != 1:
        raise ValueError(f"{name} needs widths that start with {inputs}, end with 1 and have a hidden layer between, got {tuple(widths)}.")


def dense_network(widths: Sequence[int], generator: torch.Generator, *, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A fresh dense network as a module, float64; its parameters are those of :func:`glorot_parameters`, in the same order.

    Args:
        widths: Inputs, hidden layers and outputs.
        generator: Where the weights come from; the global random stream is not touched.
        activation: Made without arguments after every layer but the last.

    Returns:
        ``Linear, activation, Linear, ..., Linear``.
    """
    fresh = glorot_parameters(widths, generator)
    layers: list[nn.Module] = []
    for weight, bias in zip(fresh[::2], fresh[1::2], strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        linear.weight, linear.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def described(network: nn.Sequential) -> str:
    """The network in words: activation, widths, initialization."""
    linears = [layer for layer in network if isinstance(layer, nn.Linear)]
    widths = [linears[0].in_features, *(layer.out_features for layer in linears)]
    return f"{type(network[1]).__name__.lower()} {'-'.join(map(str, widths))}, Glorot uniform weights, zero biases"


def mlp(parameters: Sequence[Tensor], inputs: Tensor, *, activation: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    """The values of a dense network with one output.

    Args:
        parameters: As from :func:`glorot_parameters`, with one output.
        inputs: Shape ``(points, inputs)``.
        activation: Acts elementwise after every layer but the last.

    Returns:
        Shape ``(points,)``.
    """
    values = torch.nn.functional.linear(inputs, parameters[0], parameters[1])
    for weight, bias in zip(parameters[2::2], parameters[3::2], strict=True):
        values = torch.nn.functional.linear(activation(values), weight, bias)
    return values.squeeze(1)


def mlp_channels(parameters: Sequence[Tensor], channels: Tensor, curved: Sequence[int]) -> tuple[Tensor, ...]:
    """The values of a ``tanh`` network with one output, and its derivatives by the coordinates.

    Args:
        parameters: As from :func:`glorot_parameters`, with at least one hidden layer and one output.
        channels: The network's inputs as functions of the coordinates, shape ``(inputs, 2 + coordinates, points)``: their values, their first derivatives by
            each coordinate, and the sum of their second derivatives by the curved coordinates.
        curved: Which coordinates enter the sum of second derivatives, counted from 0.

    Returns:
        ``(value, first derivative by each coordinate ..., sum of the curved second derivatives)``, each of shape ``(points,)``; all can be differentiated
        again, any number of times. Cost: ``2 + coordinates`` times that of the values.
    """
    _, count, points = channels.shape
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        # Channels and points are side by side in memory, so that the layer is one matrix product of shape (outputs, inputs) by (inputs, channels * points).
        channels = _tanh_channels((weight @ channels.flatten(1)).view(-1, count, points), bias, curved)
    weight, bias = parameters[-2:]
    # With one output, a weighted sum is faster than a matrix product: a compiler fuses it with the layer before.
    value, *derivatives = (weight.view(-1, 1, 1) * channels).sum(0).unbind(0)
    return (value + bias, *derivatives)


def _tanh_channels(channels: Tensor, bias: Tensor, curved: Sequence[int]) -> Tensor:
    """The channels after ``tanh(. + bias)``: ``tanh' = 1 - tanh^2`` and ``tanh'' = -2 tanh tanh'``."""
    value, *first, second = channels.unbind(1)
    values = torch.tanh(value + bias[:, None])
    slopes = 1.0 - values * values
    squares = first[curved[0]] * first[curved[0]]
    for coordinate in curved[1:]:
        squares = squares + first[coordinate] * first[coordinate]
    return torch.stack((values, *(slopes * derivative for derivative in first), slopes * (second - 2.0 * values * squares)), dim=1)


def partial_derivatives(outputs: Tensor, points: Tensor) -> Tensor:
    """The derivatives of each output by the coordinates of its own point, by automatic differentiation.

    Args:
        outputs: Shape ``(points,)``; output ``i`` depends on row ``i`` of ``points`` alone.
        points: Shape ``(points, coordinates)``, with ``requires_grad``.

    Returns:
        Shape ``(points, coordinates)``, with a graph, so that it can be differentiated again.
    """
    (derivatives,) = torch.autograd.grad(outputs.sum(), points, create_graph=True)
    return derivatives
