"""The closure of half the sum of squares against the same written with nested automatic differentiation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import secant
from secant.derivatives import Field, PointResidual, loss_closure
from secant.derivatives import loss as loss_module

SCALE = 0.3


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def points(count: int) -> Tensor:
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def burgers(points: Tensor, u: Tensor, u_t: Tensor, u_x: Tensor, u_xx: Tensor, viscosity: Tensor) -> Tensor:
    return u_t + u * u_x - viscosity * u_xx


def nested(net: nn.Module, at: Tensor, viscosity: Tensor) -> Tensor:
    at = at.detach().requires_grad_()
    u = net(at)[:, 0]
    u_t, u_x = torch.autograd.grad(u.sum(), at, create_graph=True)[0].unbind(1)
    u_xx = torch.autograd.grad(u_x.sum(), at, create_graph=True)[0][:, 1]
    return 0.5 * (SCALE * burgers(at, u, u_t, u_x, u_xx, viscosity)).square().sum()


def distance(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    a, b = (torch.cat([part.detach().flatten() for part in parts]) for parts in (got, expected))
    return float((a - b).norm() / b.norm())


@pytest.fixture
def viscosity() -> Tensor:
    return torch.tensor(0.05, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return network()


def residual_of(net: nn.Module, viscosity: Tensor, count: int) -> PointResidual:
    return PointResidual(Field(net, "tx"), points(count), burgers, ("", "t", "x", "xx"), coefficients=(viscosity,), scale=SCALE)


@pytest.mark.parametrize("count", [1, 7, 100])
@pytest.mark.parametrize("block", [1, 3, 50, 1000])
def test_loss_and_gradient_are_those_of_nested_derivatives_for_blocks_of_any_size(
    net: nn.Sequential, viscosity: Tensor, count: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "_POINTS", block)
    parameters = (*net.parameters(), viscosity)
    loss = loss_closure(residual_of(net, viscosity, count))()
    expected = nested(net, points(count), viscosity)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0.0)
    assert distance(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)) < 1e-12


def test_several_residuals_add_up(net: nn.Sequential, viscosity: Tensor) -> None:
    field = Field(net, "tx")
    start = PointResidual(field, points(5), lambda points, u: u - 1.0, ("",), scale=2.0)
    loss = loss_closure([residual_of(net, viscosity, 6), start])()
    expected = nested(net, points(6), viscosity) + 2.0 * (net(points(5)) - 1.0).square().sum()
    parameters = (*net.parameters(), viscosity)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0.0)
    assert distance(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters)) < 1e-12


def test_hessian_products_are_those_of_nested_derivatives(net: nn.Sequential, viscosity: Tensor) -> None:
    parameters = (*net.parameters(), viscosity)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    products = []
    for loss in (loss_closure(residual_of(net, viscosity, 30))(), nested(net, points(30), viscosity)):
        gradient = torch.autograd.grad(3.0 * loss, parameters, create_graph=True)
        products.append(torch.autograd.grad(gradient, parameters, directions))
    assert distance(*products) < 1e-11


def test_closure_follows_replaced_points(net: nn.Sequential, viscosity: Tensor) -> None:
    residual = residual_of(net, viscosity, 9)
    closure = loss_closure(residual)
    closure()
    residual.replace_points(points(12))
    torch.testing.assert_close(closure(), nested(net, points(12), viscosity), rtol=1e-12, atol=0.0)


def test_parameters_that_no_module_holds_are_found() -> None:
    weight = torch.randn(2, 1, dtype=torch.float64, requires_grad=True)
    unused = torch.ones(3, requires_grad=True)
    residual = PointResidual(Field(lambda x: torch.sin(x @ weight), "tx"), points(4), lambda points, u_x: u_x, ("x",))
    loss = loss_closure(residual)()
    by_weight, by_unused = torch.autograd.grad(loss, (weight, unused), allow_unused=True)
    expected = 0.5 * (torch.cos(points(4) @ weight) * weight[1]).square().sum()
    torch.testing.assert_close(by_weight, torch.autograd.grad(expected, weight)[0], rtol=1e-12, atol=0.0)
    assert by_unused is None


def test_frozen_parameters_get_no_gradient_until_they_are_unfrozen(net: nn.Sequential, viscosity: Tensor) -> None:
    net[0].weight.requires_grad_(False)
    closure = loss_closure(residual_of(net, viscosity, 5))
    closure().backward()
    assert net[0].weight.grad is None
    assert net[0].bias.grad is not None
    net[0].weight.requires_grad_(True)
    closure().backward()
    expected = torch.autograd.grad(nested(net, points(5), viscosity), net[0].weight)[0]
    torch.testing.assert_close(net[0].weight.grad, expected, rtol=1e-11, atol=1e-14)


def test_loss_has_no_graph_where_none_is_recorded(net: nn.Sequential, viscosity: Tensor) -> None:
    closure = loss_closure(residual_of(net, viscosity, 5))
    with torch.no_grad():
        loss = closure()
    assert not loss.requires_grad
    torch.testing.assert_close(loss, closure().detach(), rtol=1e-13, atol=0.0)


def test_nan_passes_through(net: nn.Sequential, viscosity: Tensor) -> None:
    closure = loss_closure(residual_of(net, viscosity, 5))
    with torch.no_grad():
        net[2].bias[0] = math.nan
    loss = closure()
    assert bool(loss.isnan())
    assert bool(torch.autograd.grad(loss, net[0].bias)[0].isnan().all())


def test_float32(viscosity: Tensor) -> None:
    torch.manual_seed(0)
    single = network().float()
    coefficient = viscosity.detach().float().requires_grad_()
    residual = PointResidual(Field(single, "tx"), points(20).float(), burgers, ("", "t", "x", "xx"), coefficients=(coefficient,), scale=SCALE)
    loss = loss_closure(residual)()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), nested(single.double(), points(20).float().double(), coefficient.double()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda parameters: torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe"),
        lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        lambda parameters: secant.SSBroyden(parameters),
        lambda parameters: secant.LBFGS(parameters),
    ],
    ids=["torch LBFGS", "Adam", "SSBroyden", "LBFGS"],
)
def test_optimizers_lower_the_loss(net: nn.Sequential, viscosity: Tensor, build: object) -> None:
    optimizer = build([*net.parameters(), viscosity])  # type: ignore[operator]
    closure = loss_closure(residual_of(net, viscosity, 40))

    def with_backward() -> Tensor:
        optimizer.zero_grad()
        loss = closure()
        loss.backward()
        return loss

    before = closure().item()
    for _ in range(10):
        optimizer.step(closure if isinstance(optimizer, (secant.SSBroyden, secant.LBFGS)) else with_backward)
    assert closure().item() < 0.9 * before


@pytest.mark.parametrize(("residuals", "error", "message"), [([], ValueError, "at least one"), ([lambda: torch.ones(3)], TypeError, "got function")])
def test_bad_input_is_refused(residuals: list[object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        loss_closure(residuals)  # type: ignore[arg-type]


def test_nothing_to_train_is_refused(net: nn.Sequential) -> None:
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="something that is trained"):
        loss_closure(residual_of(net, torch.tensor(0.1, dtype=torch.float64), 3))
