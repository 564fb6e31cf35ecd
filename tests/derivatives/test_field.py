from __future__ import annotations

import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.derivatives.reference import EVERY_NAME, distance, named, parameter_gradients
from torch import Tensor, nn

from secant.derivatives import Field

ACTIVATIONS = (nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.Softplus(beta=2.0), nn.Mish())


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def dense(inputs: int, width: int, depth: int, outputs: int, activation: nn.Module, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    widths = (inputs, *(width,) * depth)
    hidden = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), activation)]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], outputs)).double()


def points_of(count: int, seed: int = 0, dimensions: int = 2) -> Tensor:
    return torch.rand(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 0.3


def burgers(network: nn.Module) -> Field:
    return Field(
        network,
        "tx",
        input_transform=lambda points: torch.stack((points[:, 0], torch.cos(math.pi * points[:, 1]), torch.sin(math.pi * points[:, 1])), dim=1),
        output_transform=lambda points, outputs: -torch.sin(math.pi * points[:, 1:]) + points[:, :1] * outputs,
    )


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 8),
    depth=st.integers(0, 3),
    outputs=st.integers(1, 3),
    activation=st.sampled_from((*ACTIVATIONS, Sine())),
    names=st.lists(st.sampled_from(EVERY_NAME), min_size=1, max_size=4),
    count=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_derivatives_are_those_of_nested_differentiation(
    width: int, depth: int, outputs: int, activation: nn.Module, names: list[str], count: int, seed: int
) -> None:
    network = dense(2, width, depth, outputs, activation, seed)
    field, points = Field(network, "tx"), points_of(count, seed)
    got = field.derivatives(points, names)
    for name, derivative in zip(names, got, strict=True):
        assert derivative.shape == ((count,) if outputs == 1 else (count, outputs))
        assert distance(derivative, named(field, points, name).reshape(derivative.shape)) < 1e-12
    assert field.slow_because is None


@pytest.mark.parametrize("names", [("", "t", "x", "xx"), ("laplacian",), ("ttxx",), ("xxxx", "t")], ids=str)
def test_parameter_gradients_agree_to_second_order(names: tuple[str, ...]) -> None:
    network = dense(3, 5, 2, 1, nn.Tanh(), seed=3)
    field, points, parameters = burgers(network), points_of(6), list(network.parameters())
    got = parameter_gradients(field.derivatives(points, names), parameters)
    expected = parameter_gradients([named(field, points, name) for name in names], parameters)
    for a, b in zip(got, expected, strict=True):
        assert distance(a, b) < 1e-12
    twice = [torch.autograd.grad(torch.stack([g.square().sum() for g in gradients]).sum(), parameters, materialize_grads=True) for gradients in (got, expected)]
    for a, b in zip(*twice, strict=True):
        assert distance(a, b) < 1e-11


def test_float32_agrees_with_float64() -> None:
    network = dense(2, 8, 2, 1, nn.Tanh(), seed=1)
    exact = Field(network, "tx").derivatives(points_of(9), ("", "xx", "ttx"))
    single = Field(network.float(), "tx").derivatives(points_of(9).float(), ("", "xx", "ttx"))
    for a, b in zip(single, exact, strict=True):
        assert a.dtype == torch.float32
        assert distance(a.double(), b) < 1e-5


def test_a_known_solution_has_its_known_derivatives() -> None:
    field = Field(lambda points: torch.exp(-points[:, :1]) * torch.sin(2.0 * points[:, 1:]), "tx")
    points = points_of(7)
    decay, sine, cosine = torch.exp(-points[:, 0]), torch.sin(2.0 * points[:, 1]), torch.cos(2.0 * points[:, 1])
    expected = {"": decay * sine, "t": -decay * sine, "x": 2.0 * decay * cosine, "xx": -4.0 * decay * sine, "ttx": 2.0 * decay * cosine}
    expected |= {"xxxx": 16.0 * decay * sine, "tx": -2.0 * decay * cosine, "laplacian": -3.0 * decay * sine}
    for derivative, value in zip(field.derivatives(points, tuple(expected)), expected.values(), strict=True):
        torch.testing.assert_close(derivative, value, rtol=1e-13, atol=1e-14)


def test_the_laplacian_in_many_dimensions_carries_two_channels_more_than_dimensions() -> None:
    network, points = dense(7, 6, 2, 1, nn.Tanh(), seed=5), points_of(4, dimensions=7)
    field = Field(network, "abcdefg")
    assert len(field.algebra(("", "laplacian")).indices) == 9
    (laplacian,) = field.derivatives(points, ("laplacian",))
    assert distance(laplacian, named(field, points, "laplacian", "abcdefg")) < 1e-12


def test_the_laplacian_beside_all_second_derivatives_is_their_sum() -> None:
    field = Field(dense(2, 6, 2, 1, nn.Tanh(), seed=5), "xy")
    assert field.algebra(("xx", "yy", "laplacian")).indices == field.algebra(("xx", "yy")).indices
    xx, yy, laplacian = field.derivatives(points_of(5), ("xx", "yy", "laplacian"))
    assert torch.equal(laplacian, xx + yy)
    u_xx, laplacian = Field(dense(1, 6, 2, 1, nn.Tanh(), seed=5), "x").derivatives(points_of(5, dimensions=1), ("xx", "laplacian"))
    assert torch.equal(laplacian, u_xx)


def test_the_letters_of_a_name_may_come_in_any_sequence() -> None:
    field = Field(dense(2, 6, 2, 1, nn.Tanh(), seed=5), "tx")
    first, *others = field.derivatives(points_of(5), ("txx", "xtx", "xxt", ("x", "t", "x")))
    assert all(torch.equal(first, other) for other in others)


def test_long_names_are_given_as_tuples() -> None:
    network = dense(2, 6, 2, 1, nn.Tanh(), seed=5)
    long = Field(network, ("time", "x")).derivatives(points_of(5), ("", ("time", "x"), "time", "xx", ()))
    short = Field(network, "tx").derivatives(points_of(5), ("", "tx", "t", "xx", ""))
    assert all(torch.equal(a, b) for a, b in zip(long, short, strict=True))


def test_values_are_the_first_derivative_name() -> None:
    network, points = dense(2, 6, 2, 1, nn.Tanh(), seed=5), points_of(5)
    field = Field(network, "tx")
    torch.testing.assert_close(field(points), network(points).squeeze(1), rtol=0.0, atol=0.0)
    torch.testing.assert_close(field.derivatives(points, ("",))[0], field(points), rtol=1e-14, atol=0.0)
    assert field.derivatives(points, ()) == ()


def test_derivatives_are_differentiable_by_points_that_ask_for_it() -> None:
    field, points = Field(dense(2, 6, 2, 1, nn.Tanh(), seed=5), "tx"), points_of(5).requires_grad_()
    u_x, u_xx = field.derivatives(points, ("x", "xx"))
    (gradient,) = torch.autograd.grad(u_x.sum(), points)
    assert distance(gradient[:, 1], u_xx.detach()) < 1e-13


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_graph_is_kept_where_gradients_are_off(mode: type) -> None:
    field, points = Field(dense(2, 6, 2, 1, nn.Tanh(), seed=5), "tx"), points_of(5)
    (expected,) = field.derivatives(points, ("xx",))
    fresh = Field(field.network, "tx")
    with mode():
        (got,) = fresh.derivatives(points, ("xx",))
    assert not got.requires_grad
    assert fresh.slow_because is None
    assert distance(got, expected.detach()) < 1e-14


def test_no_points_give_no_rows() -> None:
    field = Field(dense(2, 6, 2, 2, nn.Tanh(), seed=5), "tx")
    u, u_xx = field.derivatives(points_of(5)[:0], ("", "xx"))
    assert u.shape == u_xx.shape == (0, 2)
    assert field.slow_because is None


def test_outputs_that_do_not_depend_on_the_points_have_zero_derivatives() -> None:
    u, u_x, laplacian = Field(lambda points: torch.full((len(points), 1), 3.0, dtype=points.dtype), "tx").derivatives(points_of(4), ("", "x", "laplacian"))
    assert u.tolist() == [3.0] * 4
    assert u_x.tolist() == laplacian.tolist() == [0.0] * 4


def test_a_field_survives_pickling_and_ignores_compilation_of_the_network() -> None:
    network, points = dense(2, 6, 2, 1, nn.Tanh(), seed=5), points_of(4)
    (expected,) = Field(network, "tx").derivatives(points, ("xx",))
    for field in (pickle.loads(pickle.dumps(Field(network, "tx"))), Field(torch.compile(network, backend="eager"), "tx")):
        assert torch.equal(field.derivatives(points, ("xx",))[0], expected)
    assert Field(torch.compile(network, backend="eager"), "tx").network is network


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("z",), ValueError, "'z' needs the coordinates 't', 'x', got 'z'"),
        (("xxxxx",), ValueError, "up to order 4, got 'xxxxx' of order 5"),
        ("xx", TypeError, r'Write \("xx",\)'),
        ((0,), TypeError, r"tuple of names such as .*, got \(0,\)"),
        (None, TypeError, "tuple of names"),
    ],
)
def test_names_that_mean_nothing_are_refused(names: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Field(nn.Linear(2, 1), "tx").derivatives(torch.zeros(3, 2), names)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.long), TypeError, "real floating tensor, got torch.int64"),
        (torch.zeros(3, 2, dtype=torch.complex64), TypeError, "real floating tensor, got torch.complex64"),
        ([[0.0, 0.0]], TypeError, "real floating tensor, got list"),
        (torch.zeros(3, 3), ValueError, r"points of shape \(N, 2\), one column per name, got \(3, 3\)"),
        (torch.zeros(3), ValueError, r"points of shape \(N, 2\), one column per name, got \(3,\)"),
    ],
)
def test_points_of_another_kind_are_refused(points: Tensor, error: type[Exception], message: str) -> None:
    field = Field(nn.Linear(2, 1), "tx")
    with pytest.raises(error, match=message):
        field.derivatives(points, ("x",))
    with pytest.raises(error, match=message):
        field(points)


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        (lambda points: points[:2] * 1.0, ValueError, r"one row of outputs per point, shape \(3, m\) or \(3,\), got \(2, 2\)"),
        (lambda points: torch.sin(points)[:, :, None], ValueError, r"got \(3, 2, 1\)"),
        (lambda points: (points, points), TypeError, "returns one tensor, got tuple"),
        (nn.Linear(3, 1), RuntimeError, "shapes cannot be multiplied"),
    ],
)
def test_networks_that_do_not_fit_are_refused(network: nn.Module, error: type[Exception], message: str) -> None:
    field = Field(network, "tx")
    with pytest.raises(error, match=message):
        field.derivatives(torch.zeros(3, 2), ("x",))
    with pytest.raises(error, match=message):
        field(torch.zeros(3, 2))


@pytest.mark.parametrize("coordinates", ["", "tt", ("t", "laplacian"), (0, 1), None])
def test_coordinates_need_different_names(coordinates: object) -> None:
    with pytest.raises(ValueError, match="different names for its coordinates"):
        Field(nn.Linear(2, 1), coordinates)  # type: ignore[arg-type]


def test_a_network_must_be_callable() -> None:
    with pytest.raises(TypeError, match="called with a tensor of inputs, got NoneType"):
        Field(None, "tx")  # type: ignore[arg-type]


def test_mixed_precision_reaches_the_parameters() -> None:
    network = dense(2, 16, 2, 1, nn.Tanh(), seed=5).float()
    field, points = Field(network, "tx"), points_of(6).float()
    (expected,) = field.derivatives(points, ("xx",))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (u_xx,) = field.derivatives(points, ("xx",))
    u_xx.float().square().sum().backward()
    assert distance(u_xx.float(), expected) < 0.1
    assert network[0].weight.grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")  # torch's own, on the first forward-mode call
def test_transforms_of_torch_func_pass_through() -> None:
    network, points = dense(2, 4, 2, 1, nn.GELU(), seed=5), points_of(3)
    parameters = dict(network.named_parameters())

    def second(values: dict[str, Tensor]) -> Tensor:
        return Field(lambda inputs: torch.func.functional_call(network, values, (inputs,)), "tx").derivatives(points, ("xx",))[0]

    reverse, forward = torch.func.jacrev(second)(parameters), torch.func.jacfwd(second)(parameters)
    rows = [
        torch.autograd.grad(entry, list(parameters.values()), retain_graph=True, materialize_grads=True) for entry in named(Field(network, "tx"), points, "xx")
    ]
    for position, name in enumerate(parameters):
        dense_jacobian = torch.stack([row[position] for row in rows])
        assert distance(reverse[name], dense_jacobian) < 1e-12
        assert distance(forward[name], dense_jacobian) < 1e-12


@settings(max_examples=20, deadline=None)
@given(
    weights=st.dictionaries(st.sampled_from(("t", "x", "tt", "tx", "xt", "xx", "laplacian", "xxx")), st.floats(-2.0, 2.0), min_size=1, max_size=4),
    others=st.sets(st.sampled_from(("", "x", "tt", "xx", "tx", "laplacian")), max_size=2),
    seed=st.integers(0, 99),
)
def test_weighted_sums_are_the_sums_of_their_derivatives(weights: dict[str, float], others: set[str], seed: int) -> None:
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4), torch.nn.SiLU(), torch.nn.Linear(4, 2)).double()
    field = Field(network, "tx", output_transform=lambda points, outputs: torch.sin(points[:, :1] * points[:, 1:]) * outputs)
    points = torch.rand(5, 2, dtype=torch.float64)
    got, *_ = field.derivatives(points, (weights, *others))
    parts = [field.derivatives(points, (name,))[0] for name in weights]
    expected = sum((weight * part for weight, part in zip(weights.values(), parts, strict=True)), torch.zeros_like(parts[0]))
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    gradients = [torch.autograd.grad(value.square().sum(), network[0].weight)[0] for value in (got, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-11)


def test_weighted_sum_up_to_second_order_is_one_channel() -> None:
    field = Field(torch.nn.Linear(2, 1), "tx")
    assert len(field.algebra(("", "x", {"t": 1.0, "xx": -0.1})).indices) == 3
    assert len(field.algebra(({"tt": 1.0, "xx": -1.0},)).indices) == 4
    assert len(field.algebra(("t", "xx", {"t": 1.0, "xx": -0.1})).indices) == 4


@pytest.mark.parametrize("weights", [{}, {"": 1.0, "x": 2.0}])
def test_weighted_sum_with_the_value_or_of_nothing_is_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weighted sum needs derivatives"):
        Field(torch.nn.Linear(2, 1), "tx").derivatives(torch.rand(3, 2), (weights,))
