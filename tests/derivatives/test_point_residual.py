"""The Jacobian of residuals at points against torch.func, automatic differentiation of the whole and differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secant.derivatives import Field, PointResidual

ACTIVATIONS = {"tanh": nn.Tanh, "sin": lambda: _Sin(), "gelu": nn.GELU, "silu": nn.SiLU, "softplus": nn.Softplus, "sigmoid": nn.Sigmoid}


class _Sin(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class _Adaptive(nn.Module):
    """A trained slope before the activation, a layer norm, a skip and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 1)
        self.slope = nn.Parameter(torch.tensor(1.3))
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.slope * self.first(x))
        h = h + torch.tanh(torch.exp(0.1 * self.slope) * self.norm(self.hidden(h)))
        return self.last(torch.tanh(self.hidden(h)))


class _Factorized(nn.Module):
    """Weights that are computed from the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 5))
        self.last = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


class _Plain(nn.Module):
    """Products and sums instead of linear layers, one weight a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b, self.v = nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w + self.b) @ self.v


def dense(widths: Sequence[int] = (2, 6, 5, 1), activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def made(network: nn.Module, points: int = 9, **options: object) -> PointResidual:
    return PointResidual(Field(network.double(), "tx"), torch.rand(points, 2, dtype=torch.float64), _burgers, ("", "t", "x", "xx"), **options)


def _burgers(points: Tensor, u: Tensor, u_t: Tensor, u_x: Tensor, u_xx: Tensor) -> Tensor:
    return u_t + u * u_x - 0.01 * u_xx + torch.sin(points[:, 0])


def by_rows(residual: PointResidual, parameters: Sequence[Tensor], rows: slice = slice(None)) -> Tensor:
    """The Jacobian by one backward pass per residual."""
    r = residual.rows(rows)
    gradients = [torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True) for value in r]
    return torch.stack([torch.cat([piece.flatten() for piece in gradient]) for gradient in gradients])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_jacobian_is_that_of_torch_func_over_nested_derivatives() -> None:
    network = dense().double()
    residual = made(network, 7)
    parameters = dict(network.named_parameters())

    def at_point(values: dict[str, Tensor], point: Tensor) -> Tensor:
        def u(p: Tensor) -> Tensor:
            return torch.func.functional_call(network, values, (p[None],))[0, 0]

        first = torch.func.grad(u)
        u_t, u_x = first(point)
        u_xx = torch.func.grad(lambda p: first(p)[1])(point)[1]
        return _burgers(point[None], u(point), u_t, u_x, u_xx)[0]

    expected = torch.func.vmap(torch.func.jacrev(at_point), in_dims=(None, 0))(parameters, residual.points)
    r, J = residual.linearize(slice(None), list(parameters.values()))
    torch.testing.assert_close(J, torch.cat([expected[name].flatten(1) for name in parameters], 1).detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(r, torch.func.vmap(at_point, in_dims=(None, 0))(parameters, residual.points).detach(), rtol=1e-12, atol=1e-13)


def test_jacobian_is_that_of_differences() -> None:
    network = dense().double()
    residual = made(network, 4)
    parameters = list(network.parameters())
    _, J = residual.linearize(slice(None), parameters)
    flat = torch.nn.utils.parameters_to_vector(parameters).detach()
    columns = []
    for k in range(len(flat)):
        values = []
        for step in (-2e-3, -1e-3, 1e-3, 2e-3):
            moved = flat.clone()
            moved[k] += step
            torch.nn.utils.vector_to_parameters(moved, parameters)
            values.append(residual.values(slice(None)))
        columns.append((values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / 12e-3)
    torch.testing.assert_close(J, torch.stack(columns, 1), rtol=1e-6, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    outputs=st.integers(1, 3),
    points=st.integers(1, 6),
    order=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_jacobian_is_that_of_every_row_for_any_network(widths: list[int], activation: str, outputs: int, points: int, order: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = dense((2, *widths, outputs), ACTIVATIONS[activation]).double()
    constant = torch.randn((), dtype=torch.float64, requires_grad=True)
    names = ("", "tx", "laplacian", "txx")[: order + 1]

    def equation(points: Tensor, *values: Tensor) -> Tensor:
        *derivatives, c = values
        return sum((c**k * derivative * derivative for k, derivative in enumerate(derivatives)), torch.zeros(()))

    residual = PointResidual(
        Field(network, "tx"), torch.rand(points, 2, dtype=torch.float64), equation, names, coefficients=(constant,), scale=torch.rand(points).double()
    )
    parameters = [*network.parameters(), constant]
    r, J = residual.linearize(slice(None), parameters)
    assert r.shape == (points * outputs,)
    torch.testing.assert_close(r, residual().detach(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(J, by_rows(residual, parameters), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("network", [_Adaptive, _Factorized, _Plain], ids=["tied, scaled and normalized", "computed weights", "products"])
def test_parameters_outside_linear_layers_have_their_columns(network: Callable[[], nn.Module]) -> None:
    residual = made(network(), 6)
    parameters = list(residual.parameters())
    torch.testing.assert_close(residual.linearize(slice(None), parameters)[1], by_rows(residual, parameters), rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:This field is differentiated by nested")
def test_jacobian_of_a_field_on_the_slow_path() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dense((2, 4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(self.inner(x)).real.sum(1)

    residual = made(Sorted(), 20)
    assert residual.field.slow_because is not None
    parameters = list(residual.parameters())
    torch.testing.assert_close(residual.linearize(slice(1, 19), parameters)[1], by_rows(residual, parameters, slice(1, 19)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows", [slice(0, 0), slice(5, 5), slice(0, 1), slice(3, 4), slice(1, 8), slice(8, 100), slice(2, 10, 3), slice(-3, None)], ids=str)
def test_rows_are_those_of_the_whole(rows: slice) -> None:
    network = dense((2, 4, 1)).double()
    residual = PointResidual(
        Field(network, "tx"), torch.rand(5, 2, dtype=torch.float64), lambda points, u, u_x: torch.stack((u + u_x, u * u_x), 1), ("", "x"), scale=0.5
    )
    parameters = list(network.parameters())
    whole, J = residual.linearize(slice(None), parameters)
    assert residual.size == 10
    part, J_part = residual.linearize(rows, parameters)
    torch.testing.assert_close(part, whole[rows], rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(J_part, J[rows], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(residual.rows(rows).detach(), whole[rows], rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(residual.values(rows), whole[rows], rtol=1e-13, atol=1e-15)


def test_no_points_have_no_rows() -> None:
    residual = made(dense(), 0)
    r, J = residual.linearize(slice(None), list(residual.parameters()))
    assert residual.size == 0
    assert r.shape == (0,)
    assert J.shape == (0, sum(parameter.numel() for parameter in residual.parameters()))


def test_frozen_and_foreign_parameters() -> None:
    network = dense().double()
    residual = made(network)
    parameters = list(network.parameters())
    full = by_rows(residual, parameters)
    network[0].weight.requires_grad_(False)
    foreign = torch.ones(3, dtype=torch.float64, requires_grad=True)
    chosen = [network[2].bias, foreign, network[0].bias]
    _, J = residual.linearize(slice(None), chosen)
    torch.testing.assert_close(J, torch.cat((full[:, 12 + 6 + 30 : 12 + 6 + 35], full.new_zeros(9, 3), full[:, 12:18]), 1), rtol=1e-11, atol=1e-13)


def test_trained_inputs_and_outputs_have_their_columns() -> None:
    features = nn.Linear(2, 3).double()
    height = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    network = dense((3, 4, 1)).double()
    field = Field(
        network, "tx", input_transform=lambda points: torch.sin(features(points)), output_transform=lambda points, outputs: height * points[:, :1] * outputs
    )
    residual = PointResidual(field, torch.rand(6, 2, dtype=torch.float64), _burgers, ("", "t", "x", "xx"))
    residual.values(slice(None))
    with torch.no_grad():
        features.weight.mul_(1.1)
    parameters = [*features.parameters(), height, *network.parameters()]
    r, J = residual.linearize(slice(None), parameters)
    torch.testing.assert_close(r, residual.values(slice(None)), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(J, by_rows(residual, parameters), rtol=1e-11, atol=1e-12)


def test_inputs_that_are_kept_follow_the_module_and_the_points() -> None:
    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", torch.randn(2, 3, dtype=torch.float64))

        def forward(self, points: Tensor) -> Tensor:
            return torch.sin(points @ self.frequencies)

    transform, network = Fourier(), dense((3, 4, 1)).double()
    field = Field(network, "tx", input_transform=transform)
    residual = PointResidual(field, torch.rand(6, 2, dtype=torch.float64), _burgers, ("", "t", "x", "xx"))
    residual()
    transform.frequencies.mul_(2.0)
    torch.testing.assert_close(residual(), _burgers(residual.points, *field.derivatives(residual.points, ("", "t", "x", "xx"))))
    residual.replace_points(torch.rand(4, 2, dtype=torch.float64))
    assert residual.size == 4
    torch.testing.assert_close(residual(), _burgers(residual.points, *field.derivatives(residual.points, ("", "t", "x", "xx"))))


def test_points_that_act_on_each_other_are_refused() -> None:
    network = dense().double()
    residual = PointResidual(Field(network, "tx"), torch.rand(6, 2, dtype=torch.float64), lambda points, u: u - u.mean(), ("",))
    with pytest.raises(ValueError, match="act on each other"):
        residual.linearize(slice(None), list(network.parameters()))


def test_nan_stays_in_its_row() -> None:
    residual = made(dense())
    parameters = list(residual.parameters())
    points = residual.points.clone()
    points[2] = math.nan
    residual.replace_points(points)
    r, J = residual.linearize(slice(None), parameters)
    bad = torch.arange(9) == 2
    assert bool(r[bad].isnan().all())
    assert bool(J[bad].isnan().any())
    assert bool(r[~bad].isfinite().all())
    assert bool(J[~bad].isfinite().all())


def test_float32() -> None:
    network = dense()
    points = torch.rand(8, 2)
    _, J = PointResidual(Field(network, "tx"), points, _burgers, ("", "t", "x", "xx")).linearize(slice(None), list(network.parameters()))
    assert J.dtype == torch.float32
    double = made(network)
    double.replace_points(points.double())
    torch.testing.assert_close(J.double(), by_rows(double, list(network.parameters())), rtol=1e-4, atol=1e-5)


def test_points_are_the_residuals_own() -> None:
    points = torch.rand(4, 2, dtype=torch.float64)
    residual = PointResidual(Field(dense().double(), "tx"), points, _burgers, ("", "t", "x", "xx"))
    before = residual.values(slice(None))
    points.zero_()
    assert torch.equal(residual.values(slice(None)), before)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scale": torch.ones(3)}, ValueError, "scale as a number or of shape \\(9,\\)"),
        ({"equation": lambda points, u: u.sum()}, ValueError, "a row per point"),
        ({"equation": lambda points, u: 1.0}, TypeError, "Expected the equation to return a tensor"),
        ({"points": torch.ones(4, 3)}, ValueError, "shape \\(N, 2\\)"),
        ({"derivatives": ("z",)}, ValueError, "'z'"),
    ],
)
def test_bad_input_is_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    usual = {"points": torch.rand(9, 2, dtype=torch.float64), "equation": lambda points, u: u, "derivatives": ("",), "scale": 1.0} | options
    with pytest.raises(error, match=message):
        PointResidual(Field(dense().double(), "tx"), usual["points"], usual["equation"], usual["derivatives"], scale=usual["scale"])


def test_scales_of_other_points_are_refused() -> None:
    residual = made(dense(), scale=torch.ones(9))
    with pytest.raises(ValueError, match="one per point"):
        residual.replace_points(torch.rand(5, 2, dtype=torch.float64))
    residual.replace_points(torch.rand(5, 2, dtype=torch.float64), scale=2.0)
    assert residual.scale == 2.0


def test_backward_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="increasing order"):
        made(dense()).rows(slice(None, None, -1))
