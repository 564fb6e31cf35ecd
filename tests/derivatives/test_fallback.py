from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.derivatives.reference import differences, distance, named, nested
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from secant.derivatives import Field

POINTS = torch.rand(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
torch.manual_seed(0)
LIFT, DROP = nn.Linear(2, 6).double(), nn.Linear(6, 1).double()


class Convolution(nn.Module):
    def __init__(self, *norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 3, 1), *norm, nn.Tanh(), nn.Flatten(), DROP).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Attention(nn.Module):
    def __init__(self, over_points: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True).double()
        self.over_points = over_points

    def forward(self, x: Tensor) -> Tensor:
        lifted = LIFT(x)
        tokens = lifted[None] if self.over_points else torch.stack((lifted, torch.sin(lifted)), 1)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return DROP(mixed[0] if self.over_points else mixed.sum(1))


class Doubled(torch.autograd.Function):
    """Its backward pass is what counts: three times the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2.0 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3.0 * gradient


def writes_in_place(x: Tensor) -> Tensor:
    hidden = torch.sin(LIFT(x)).clone()
    hidden[:, 0] = 0.0
    return DROP(torch.tanh(hidden))


def adds_in_place(x: Tensor) -> Tensor:
    hidden = torch.sin(LIFT(x)).clone()
    hidden += x[:, :1]
    return DROP(torch.tanh(hidden))


def partly_without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = torch.sin(x[:, :1])
    return DROP(torch.tanh(LIFT(x))) * scale


def asks_for_a_tensor(x: Tensor) -> Tensor:
    assert isinstance(x, Tensor)
    return DROP(torch.tanh(LIFT(x)))


SLOW: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "convolution": (Convolution(), "conv1d"),
    "group norm": (nn.Sequential(LIFT, nn.GroupNorm(2, 6).double(), nn.Tanh(), DROP), "group_norm"),
    "batch norm with stored statistics": (Convolution(nn.BatchNorm1d(3)).eval(), "conv1d"),
    "write in place": (writes_in_place, "assignment to elements"),
    "addition in place": (adds_in_place, r"\+="),
    "custom function": (lambda x: DROP(torch.tanh(Doubled.apply(LIFT(x)))), "custom autograd function"),
    "no_grad inside": (partly_without_gradients, "gradients switched off"),
    "type check": (asks_for_a_tensor, "AssertionError"),
    "power": (lambda x: DROP(torch.tanh(LIFT(x)) ** torch.tensor(3.0)), "pow with a tensor"),
    "vmap": (lambda x: torch.vmap(lambda point: DROP(torch.sin(LIFT(point))))(x), "vmap"),
    "transposed": (lambda x: DROP(torch.tanh((LIFT.weight @ x.mT + LIFT.bias[:, None]).mT)), "mT|matmul"),
}


@pytest.mark.parametrize(("network", "reason"), SLOW.values(), ids=SLOW)
def test_whatever_jets_do_not_know_is_differentiated_by_nesting_and_said_once(network: Callable[[Tensor], Tensor], reason: str) -> None:
    field, names = Field(network, "tx"), ("", "x", "tx", "xxt", "laplacian")
    with pytest.warns(UserWarning, match=rf"nested automatic differentiation, .* because of .*({reason}).*linear layers") as told:
        got = field.derivatives(POINTS, names)
    assert told[0].filename == __file__
    assert field.slow_because is not None
    for name, derivative in zip(names, got, strict=True):
        assert derivative.shape == (4,)
        assert derivative.requires_grad
        assert distance(derivative, named(field, POINTS, name)) < 1e-12
    again = field.derivatives(POINTS, names)  # warnings are errors
    assert all(torch.equal(a, b) for a, b in zip(again, got, strict=True))


@pytest.mark.filterwarnings("ignore:This field is differentiated")
def test_attention_over_the_tokens_of_a_point_is_differentiated() -> None:
    field = Field(Attention(over_points=False), "tx")
    u, u_xx, u_ttx = field.derivatives(POINTS, ("", "xx", "ttx"))
    with sdpa_kernel(SDPBackend.MATH):
        assert distance(u_xx, named(field, POINTS, "xx")) < 1e-12
        assert distance(u_ttx, differences(field, POINTS, (0, 0, 1))) < 1e-8
    assert distance(u, field(POINTS)) < 1e-12


@pytest.mark.parametrize(
    "network",
    [Attention(over_points=True), Convolution(nn.BatchNorm1d(3)), lambda x: x * torch.flip(x.mT.mT, (0,)), lambda x: torch.linalg.vector_norm(x) * x],
    ids=["attention over points", "batch norm in training", "flipped points", "norm of all points"],
)
def test_networks_that_mix_points_are_refused(network: Callable[[Tensor], Tensor]) -> None:
    field = Field(network, "tx")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"every point is on its own, got .*network.eval\(\)"):
            field.derivatives(POINTS, ("x",))


def test_the_check_that_points_are_apart_is_made_again_for_the_other_mode() -> None:
    class Switched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.linalg.vector_norm(x, dim=0 if self.training else 1, keepdim=True)

    network = Switched().eval()
    field = Field(network, "tx")
    with pytest.warns(UserWarning, match="vector_norm"):
        field.derivatives(POINTS, ("x",))
    network.train()
    with pytest.raises(ValueError, match="every point is on its own"):
        field.derivatives(POINTS, ("x",))


@pytest.mark.filterwarnings("ignore:This field is differentiated")
@pytest.mark.parametrize("norm", [nn.LayerNorm(2), nn.InstanceNorm1d(3)], ids=str)
def test_third_derivatives_through_norms_are_right_where_torch_is_wrong(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(2, 12), nn.Unflatten(1, (3, 4)), nn.Conv1d(3, 3, 3), norm, nn.Tanh(), nn.Flatten(), DROP).double()
    field = Field(network, "tx")
    third, fourth = field.derivatives(POINTS, ("ttx", "ttxx"))
    # Eighth-order differences of second derivatives, which torch has right.
    assert distance(third, differences(field, POINTS, (0, 0, 1))) < 1e-5
    assert distance(nested(field, POINTS, (0, 0, 1)), third) > 1e-3
    step = torch.tensor([0.0, 1e-4], dtype=torch.float64)
    ahead, behind = (field.derivatives(POINTS + sign * step, ("ttx",))[0] for sign in (1, -1))
    assert distance((ahead - behind) / 2e-4, fourth) < 1e-3


@pytest.mark.filterwarnings("ignore:This field is differentiated", "ignore:.*torch.jit:DeprecationWarning")
def test_a_norm_that_scripted_code_hides_is_refused_from_third_derivatives_on() -> None:
    network = nn.Sequential(LIFT, nn.LayerNorm(6).double(), nn.Tanh(), DROP)
    scripted, plain = Field(torch.jit.script(network), "tx"), Field(network, "tx")
    for _ in range(3):  # torch rewrites scripted code in its first runs
        with pytest.raises(ValueError, match=r"Third and higher derivatives need .* got scripted code .* Use the module from before torch.jit.script"):
            scripted.derivatives(POINTS, ("xxx",))
        assert distance(scripted.derivatives(POINTS, ("xx",))[0], plain.derivatives(POINTS, ("xx",))[0]) < 1e-12


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.Hardtanh(), nn.ELU()], ids=str)
def test_second_derivatives_through_kinks_are_refused(activation: nn.Module) -> None:
    field = Field(nn.Sequential(Convolution(), activation), "tx")
    with pytest.raises(ValueError, match=r"need smooth functions, got .* Use tanh"):
        field.derivatives(POINTS, ("xx",))
    with pytest.warns(UserWarning, match="conv1d"):
        (u_x,) = field.derivatives(POINTS, ("x",))
    assert distance(u_x, named(field, POINTS, "x")) < 1e-14


@pytest.mark.filterwarnings("ignore:This field is differentiated")
def test_a_kink_of_something_else_than_the_points_does_no_harm() -> None:
    network = Convolution()
    field = Field(lambda x: torch.relu(DROP.weight).sum() * network(x), "tx")
    assert distance(field.derivatives(POINTS, ("xx",))[0], named(field, POINTS, "xx")) < 1e-13


@pytest.mark.filterwarnings("ignore:This field is differentiated")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_graph_is_kept_where_gradients_are_off(mode: type) -> None:
    network = Convolution()
    (expected,) = Field(network, "tx").derivatives(POINTS, ("xx",))
    with mode():
        (got,) = Field(network, "tx").derivatives(POINTS.clone(), ("xx",))
    assert not got.requires_grad
    assert distance(got, expected) < 1e-14


@pytest.mark.filterwarnings("ignore:This field is differentiated")
def test_a_custom_function_is_found_without_gradients_too() -> None:
    field = Field(lambda x: DROP(torch.tanh(Doubled.apply(LIFT(x)))), "tx")
    with torch.no_grad():
        (got,) = field.derivatives(POINTS, ("x",))
    assert field.slow_because is not None
    assert distance(got, named(field, POINTS, "x")) < 1e-13


@pytest.mark.filterwarnings("ignore:This field is differentiated")
def test_shapes_and_empty_points_are_those_of_the_fast_path() -> None:
    two = Field(lambda x: torch.vmap(torch.sin)(x), "tx")
    assert [derivative.shape for derivative in two.derivatives(POINTS, ("", "xx", "tx"))] == [(4, 2)] * 3
    assert [derivative.shape for derivative in two.derivatives(POINTS[:0], ("", "xx"))] == [(0, 2)] * 2
    flat = Field(lambda x: torch.vmap(torch.sin)(x).sum(1), "tx")
    assert [derivative.shape for derivative in flat.derivatives(POINTS, ("", "xx", "tx"))] == [(4,)] * 3


def test_an_error_of_the_network_itself_is_not_called_slow() -> None:
    def broken(x: Tensor) -> Tensor:
        raise ValueError("the network is broken")

    with pytest.raises(ValueError, match="the network is broken"):  # warnings are errors
        Field(broken, "tx").derivatives(POINTS, ("x",))
