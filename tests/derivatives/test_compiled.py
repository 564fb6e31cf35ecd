"""Compiled losses against uncompiled ones."""

from __future__ import annotations

import math

import pytest
import torch
import torch._dynamo.utils
from torch import Tensor, nn

from secant.derivatives import Field, PointResidual, compiled, loss_closure

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")]


class _Net(nn.Module):
    """Everything a program must keep live: weights, a scalar used elementwise, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 6), nn.Linear(6, 1)
        self.slope = nn.Parameter(torch.tensor(1.2))
        self.register_buffer("shift", torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(torch.exp(0.2 * self.slope) * self.first(x) + self.shift))


def made(count: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, PointResidual]:
    torch.manual_seed(0)
    net, viscosity = _Net().to(dtype), torch.tensor(0.1, dtype=dtype, requires_grad=True)
    field = Field(
        net, "tx", input_transform=lambda p: torch.cat((p[:, :1], torch.sin(math.pi * p[:, 1:])), 1), output_transform=lambda p, n: p[:, :1] * n - p[:, 1:] ** 2
    )

    def burgers(points: Tensor, u: Tensor, u_t: Tensor, u_x: Tensor, u_xx: Tensor, nu: Tensor) -> Tensor:
        return u_t + u * u_x - nu * u_xx

    return net, viscosity, PointResidual(field, torch.rand(count, 2, dtype=dtype), burgers, ("", "t", "x", "xx"), coefficients=(viscosity,), scale=0.5)


def assert_equal(one: object, other: object, parameters: list[Tensor], tolerance: float = 1e-12) -> None:
    losses = [closure() for closure in (one, other)]  # type: ignore[operator]
    gradients = [torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]) for loss in losses]
    torch.testing.assert_close(losses[0], losses[1], rtol=tolerance, atol=0.0)
    assert float((gradients[0] - gradients[1]).norm()) <= tolerance * float(gradients[1].norm())


def test_compiled_loss_and_gradient_follow_everything_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_POINTS", 20)
    net, viscosity, residual = made(53)  # blocks of 17 and 18
    parameters = [*net.parameters(), viscosity]
    closure, plain = loss_closure(residual, compile=True), loss_closure(residual)
    assert_equal(closure, plain, parameters)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn_like(parameter))
        net.shift.add_(0.2)
    assert_equal(closure, plain, parameters)
    residual.replace_points(torch.rand(54, 2, dtype=torch.float64), scale=torch.rand(54, dtype=torch.float64))
    assert_equal(closure, plain, parameters)

    directions = [torch.randn_like(parameter) for parameter in parameters]
    products = []
    for loss in (closure(), plain()):
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        products.append(torch.cat([part.flatten() for part in torch.autograd.grad(gradient, parameters, directions)]))
    torch.testing.assert_close(*products, rtol=1e-10, atol=1e-12)

    points = residual.points.clone()
    points[0] = math.nan
    residual.replace_points(points)
    assert bool(closure().isnan())

    net.first.weight.requires_grad_(False)
    residual.replace_points(torch.rand(9, 2, dtype=torch.float64), scale=1.0)
    with pytest.warns(UserWarning, match="compiled again, for blocks of 9 points"):
        closure()
    assert_equal(closure, plain, [net.first.bias, net.slope, viscosity])
    residual.replace_points(torch.empty(0, 2, dtype=torch.float64))
    with pytest.warns(UserWarning, match="compiled again"):
        assert closure().item() == 0.0


def test_compiled_float32_comes_from_the_cache_on_disk_the_second_time() -> None:
    net, viscosity, residual = made(30, torch.float32)
    assert_equal(loss_closure(residual, compile=True), loss_closure(residual), [*net.parameters(), viscosity], 1e-5)
    torch._dynamo.reset()  # what a new process starts with
    counters = torch._dynamo.utils.counters
    counters.clear()
    assert_equal(loss_closure(residual, compile=True), loss_closure(residual), [*net.parameters(), viscosity], 1e-5)
    assert counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"] > 0
    assert counters["inductor"]["fxgraph_cache_miss"] == 0


@pytest.mark.slow
def test_compiled_jacobian_is_that_without_a_compiler() -> None:
    torch.manual_seed(3)
    field = Field(nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double(), "tx")
    viscosity = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    points = torch.rand(40, 2, dtype=torch.float64)

    def burgers(points: Tensor, u: Tensor, u_t: Tensor, u_x: Tensor, u_xx: Tensor, nu: Tensor) -> Tensor:
        return torch.stack([u_t + u * u_x - 0.1 * u_xx, u_x], dim=1)

    plain, compiled = (
        PointResidual(field, points, burgers, ("", "t", "x", "xx"), coefficients=(viscosity.detach(),), scale=0.5, compile=compile) for compile in (False, True)
    )
    parameters = list(field.network.parameters())
    for rows in (slice(0, 80), slice(3, 11), slice(79, 80), slice(5, 5)):
        for found, expected in zip(compiled.linearize(rows, parameters), plain.linearize(rows, parameters), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    fresh = torch.rand(17, 2, dtype=torch.float64)
    for residual in (plain, compiled):
        residual.replace_points(fresh)
    with torch.no_grad():
        parameters[0].mul_(1.1)
    torch.testing.assert_close(compiled.linearize(slice(0, 34), parameters)[1], plain.linearize(slice(0, 34), parameters)[1], rtol=1e-12, atol=1e-14)


def test_a_tensor_that_leaves_no_tap_is_refused_where_the_jacobian_is_to_be_compiled() -> None:
    field = Field(nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double(), "x")
    rate = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="Leave compile=True out"):
        PointResidual(field, torch.rand(9, 1, dtype=torch.float64), lambda points, u, u_x, rate: u_x - rate * u, ("", "x"), coefficients=(rate,), compile=True)
