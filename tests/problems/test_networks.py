import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secant.problems.networks import glorot_parameters, mlp, mlp_channels, partial_derivatives


def inputs_as_channels(points: Tensor) -> Tensor:
    count, dimension = points.shape
    channels = torch.zeros(dimension, 2 + dimension, count, dtype=points.dtype)
    channels[:, 0] = points.T
    for axis in range(dimension):
        channels[axis, 1 + axis] = 1.0
    return channels


def nested_channels(parameters: tuple[Tensor, ...], points: Tensor, curved: list[int]) -> list[Tensor]:
    points = points.clone().requires_grad_()
    value = mlp(parameters, points)
    slopes = partial_derivatives(value, points)
    second = sum((partial_derivatives(slopes[:, axis], points)[:, axis] for axis in curved), torch.zeros_like(value))
    return [value, *slopes.unbind(1), second]


@st.composite
def networks_with_points(draw: st.DrawFn) -> tuple[tuple[Tensor, ...], Tensor, list[int]]:
    dimension = draw(st.integers(1, 3))
    hidden = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    curved = draw(st.lists(st.integers(0, dimension - 1), min_size=1, max_size=dimension, unique=True))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    parameters = glorot_parameters((dimension, *hidden, 1), generator)
    with torch.no_grad():
        for bias in parameters[1::2]:
            bias.normal_(generator=generator)
    return parameters, torch.randn(5, dimension, generator=generator, dtype=torch.float64), curved


@settings(max_examples=60, deadline=None, derandomize=True)
@given(networks_with_points())
def test_forward_derivatives_equal_nested_autograd(case: tuple[tuple[Tensor, ...], Tensor, list[int]]) -> None:
    parameters, points, curved = case
    actual = torch.stack(mlp_channels(parameters, inputs_as_channels(points), curved))
    expected = torch.stack(nested_channels(parameters, points, curved))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-13)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(networks_with_points())
def test_forward_derivatives_have_the_parameter_gradient_of_nested_autograd(case: tuple[tuple[Tensor, ...], Tensor, list[int]]) -> None:
    parameters, points, curved = case
    forward = torch.stack(mlp_channels(parameters, inputs_as_channels(points), curved)).square().sum()
    nested = torch.stack(nested_channels(parameters, points, curved)).square().sum()
    actual = torch.cat([g.flatten() for g in torch.autograd.grad(forward, parameters)])
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(nested, parameters)])
    assert torch.linalg.vector_norm(actual - expected) <= 1e-10 * torch.linalg.vector_norm(expected)


def test_forward_derivatives_can_be_differentiated_twice_by_the_parameters() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = glorot_parameters((2, 3, 2, 1), generator)
    channels = inputs_as_channels(torch.randn(3, 2, generator=generator, dtype=torch.float64))
    assert torch.autograd.gradgradcheck(lambda *p: mlp_channels(p, channels, (0, 1))[-1].square().mean(), parameters)


def test_glorot_weights_fill_their_interval_and_biases_are_zero() -> None:
    parameters = glorot_parameters((30, 50, 1), torch.Generator().manual_seed(0))
    assert [tuple(p.shape) for p in parameters] == [(50, 30), (50,), (1, 50), (1,)]
    bound = math.sqrt(6.0 / 80.0)
    assert 0.99 * bound < parameters[0].abs().max() <= bound
    # The standard deviation of a uniform variable is bound / sqrt(3); 1,500 samples resolve it to about 1 %.
    assert parameters[0].std().item() == pytest.approx(bound / math.sqrt(3.0), rel=0.05)
    assert all(not bias.any() for bias in parameters[1::2])
    assert all(p.is_leaf and p.requires_grad and p.dtype == torch.float64 for p in parameters)


def test_the_generator_alone_decides_the_parameters() -> None:
    first = glorot_parameters((3, 5, 1), torch.Generator().manual_seed(4))
    torch.manual_seed(99)
    second = glorot_parameters((3, 5, 1), torch.Generator().manual_seed(4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
