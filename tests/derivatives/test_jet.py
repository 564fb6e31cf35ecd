from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.derivatives.reference import differences, distance, named, nested, parameter_gradients
from torch import Tensor, nn
from torch.nn import functional

from secant.derivatives import Field
from secant.derivatives.jet import Jet
from secant.derivatives.refusals import NotUnderstoodError

NAMES = ("", "x", "tt", "xxt", "ttxx", "laplacian")


def seeded(layer: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    module = layer().double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


LIFT = seeded(lambda: nn.Linear(2, 6))
GATE = seeded(lambda: nn.Linear(6, 6))
NORM = seeded(lambda: nn.LayerNorm(6))
ROOT_NORM = seeded(lambda: nn.RMSNorm(6))
BILINEAR = seeded(lambda: nn.Bilinear(6, 6, 2))
BATCH = seeded(lambda: nn.BatchNorm1d(6)).eval()
BATCH.running_mean.normal_()
MATRIX = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
VECTOR = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
PER_POINT = torch.rand(3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
POINTS = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
PARAMETERS = (*LIFT.parameters(), *GATE.parameters(), *NORM.parameters(), MATRIX, VECTOR)

SCALARS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "expit": torch.special.expit,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": lambda x: torch.tan(0.2 * x),
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asin": lambda x: torch.asin(0.1 * x),
    "acos": lambda x: torch.acos(0.1 * x),
    "atan": torch.atan,
    "asinh": torch.asinh,
    "acosh": lambda x: torch.acosh(2.0 + x * x),
    "atanh": lambda x: torch.atanh(0.1 * x),
    "square": torch.square,
    "integer power": lambda x: x**3,
    "real power": lambda x: (1.0 + x * x) ** 2.5,
    "power by name": lambda x: torch.pow(x, exponent=2),
    "power of a number": lambda x: 2.0**x,
    "power of a jet": lambda x: (1.0 + x * x) ** torch.sin(x),
    "sqrt": lambda x: torch.sqrt(1.0 + x * x),
    "rsqrt": lambda x: torch.rsqrt(1.0 + x * x),
    "reciprocal": lambda x: torch.reciprocal(1.0 + x * x),
    "log": lambda x: torch.log(1.0 + x * x),
    "log2": lambda x: torch.log2(1.0 + x * x),
    "log10": lambda x: torch.log10(1.0 + x * x),
    "log1p": lambda x: torch.log1p(x * x),
    "erf": torch.erf,
    "gelu": functional.gelu,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "softplus": functional.softplus,
    "softplus beyond its threshold": lambda x: functional.softplus(x, 30.0, 20.0),
    "logsigmoid": functional.logsigmoid,
    "mish": functional.mish,
    "tanhshrink": functional.tanhshrink,
    "a method": lambda x: x.sin().mul(2.0).add(x, alpha=3),
}

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer norm": lambda x: NORM(torch.sin(x)),
    "rms norm": lambda x: ROOT_NORM(torch.sin(x)),
    "batch norm with stored statistics": BATCH,
    "softmax": lambda x: torch.softmax(x, 1) * x.softmax(dim=-1),
    "log softmax": lambda x: torch.log_softmax(x, -1) * functional.log_softmax(x, 1),
    "variance": lambda x: x.var(1, keepdim=True) * torch.var(torch.sin(x), dim=-1, correction=0, keepdim=True) + x.std(1, False)[:, None],
    "glu": lambda x: functional.glu(x, -1),
    "bilinear": lambda x: BILINEAR(x, torch.sin(x)),
    "dropout that is off": lambda x: functional.dropout(x, 0.5, False) * x,
    "gate": lambda x: torch.sigmoid(GATE(x)) * torch.tanh(x) + (1.0 - torch.sigmoid(x)) * x,
    "residual": lambda x: x + torch.tanh(GATE(x)),
    "reversed difference": lambda x: torch.rsub(torch.sin(x), 1.0) - torch.sub(x, torch.cos(x), alpha=2),
    "quotient of jets": lambda x: torch.sin(x) / (2.0 + torch.cos(x)),
    "number over jet": lambda x: 3.0 / (2.0 + torch.cos(x)),
    "tensor over jet": lambda x: VECTOR / (2.0 + torch.cos(x)),
    "jet over tensor": lambda x: -torch.sin(x) / VECTOR,
    "tensor minus jet": lambda x: VECTOR - torch.sin(x),
    "constant that broadcasts a column": lambda x: torch.sin(x[:, :1]) + VECTOR * x[:, 1:2],
    "constant of each point": lambda x: PER_POINT * torch.sin(x) + PER_POINT,
    "cat": lambda x: torch.sin(torch.cat((x, PER_POINT, x * x), -1)),
    "stack": lambda x: torch.stack((x, x * x), 2).flatten(1).sin(),
    "index": lambda x: x[:, 1] * torch.sin(x[..., 2]) * x[:, 0],
    "slices": lambda x: x[:, 1:3] * torch.sin(x[..., [0, 4]]),
    "index by tensor": lambda x: torch.exp(x[:, torch.tensor([0, 3])]),
    "new dimension": lambda x: torch.sin(x[:, None, :])[:, 0] + torch.cos(x.unsqueeze(-1)).squeeze(-1),
    "unbind": lambda x: x.unbind(1)[0] * torch.sin(x.unbind(-1)[2]),
    "columns": lambda x: x.T[0] * torch.sin(x.T[-1]) + sum(column * column for column in x.T),
    "chunk and split": lambda x: x.chunk(2, 1)[0] * torch.sin(x.split([3, 3], -1)[1]),
    "view, transpose, reshape": lambda x: x * torch.sin(x.view(-1, 2, 3)).transpose(1, 2).reshape(-1, 6),
    "permute and unflatten": lambda x: torch.sin(x.unflatten(1, (2, 3))).permute(0, 2, 1).flatten(1) * x,
    "expand and repeat": lambda x: torch.sin(x[:, :1]).expand(-1, 6) * x.repeat(1, 2)[:, 3:9],
    "reductions": lambda x: torch.sin(x).sum(1, keepdim=True) * x.mean(-1, keepdim=True) + x.cumsum(1),
    "flip, roll, narrow": lambda x: (torch.sin(x).flip(1) * x.roll(1, -1)).narrow(1, 1, 3),
    "matrix product": lambda x: torch.sin(x) @ MATRIX + torch.matmul(x, MATRIX),
    "matrix times vector": lambda x: torch.sin(x) @ VECTOR,
    "einsum": lambda x: torch.einsum("nf,fg->ng", torch.sin(x), MATRIX),
    "einsum of two jets": lambda x: torch.einsum("nf,ng,fg->nf", torch.sin(x), torch.cos(x[:, :4]), MATRIX),
    "where": lambda x: torch.where(x > 0.1, torch.sin(x), 0.0) + torch.where(x > 0.0, x, x * x),
    "detached part": lambda x: torch.sin(x.detach()) * x,
    "constants made from it": lambda x: torch.sin(x) * torch.ones_like(x) * x.shape[1] * x.size(1) + x.new_zeros(1) + torch.zeros_like(x).add_(x.ndim),
    "casts": lambda x: torch.sin(x).to(torch.float64).double().contiguous().clone(),
}


def check(layer: Callable[[Tensor], Tensor]) -> None:
    field = Field(lambda points: layer(LIFT(points)), "tx")
    got = field.derivatives(POINTS, NAMES)
    expected = [named(field, POINTS, name) for name in NAMES]
    assert field.slow_because is None
    for a, b in zip(got, expected, strict=True):
        assert distance(a, b) < 1e-12
    for a, b in zip(parameter_gradients(got, PARAMETERS), parameter_gradients(expected, PARAMETERS), strict=True):
        assert distance(a, b) < 1e-11


@pytest.mark.parametrize("function", SCALARS.values(), ids=SCALARS)
def test_smooth_functions_differentiate_as_nested(function: Callable[[Tensor], Tensor]) -> None:
    check(function)


@pytest.mark.parametrize(
    "operation", [OPERATIONS[name] for name in OPERATIONS if name != "layer norm"], ids=[name for name in OPERATIONS if name != "layer norm"]
)
def test_operations_differentiate_as_nested(operation: Callable[[Tensor], Tensor]) -> None:
    check(operation)


def written_norm(x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + NORM.eps) * NORM.weight + NORM.bias


def test_layer_norm_is_right_where_torch_is_wrong() -> None:
    field = Field(lambda points: NORM(torch.sin(LIFT(points))), "tx")
    names = ("x", "tx", "ttx", "ttxx")
    for name, derivative in zip(names, field.derivatives(POINTS, names), strict=True):
        assert distance(derivative, named(lambda points: written_norm(torch.sin(LIFT(points))), POINTS, name)) < 1e-11
    (third,) = field.derivatives(POINTS, ("ttx",))
    assert distance(third, differences(field, POINTS, (0, 0, 1))) < 1e-8
    assert distance(nested(field, POINTS, (0, 0, 1)), third) > 1e-2  # if this fails, torch has been mended: say so in the documentation


def test_dropout_takes_one_mask_for_the_value_and_its_derivatives() -> None:
    torch.manual_seed(0)
    u, u_x = Field(lambda points: functional.dropout(torch.exp(points[:, 1:].expand(-1, 50)), 0.5), "tx").derivatives(POINTS, ("", "x"))
    assert torch.equal(u, u_x)
    assert 0 < (u == 0.0).sum() < u.numel()


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), torch.abs], ids=["ReLU", "LeakyReLU", "abs"])
def test_first_derivatives_pass_through_kinks(activation: Callable[[Tensor], Tensor]) -> None:
    field = Field(lambda points: activation(LIFT(points)), "tx")
    for name, derivative in zip(("", "x"), field.derivatives(POINTS, ("", "x")), strict=True):
        assert distance(derivative, named(field, POINTS, name)) < 1e-14


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(), nn.LeakyReLU(), nn.ELU(), nn.Hardswish(), torch.abs, lambda x: x.clamp(0.0, 1.0), lambda x: torch.maximum(x, x * x)],
    ids=["ReLU", "LeakyReLU", "ELU", "Hardswish", "abs", "clamp", "maximum"],
)
@pytest.mark.parametrize("name", ["xx", "laplacian", "ttx"])
def test_second_derivatives_through_kinks_are_refused(activation: Callable[[Tensor], Tensor], name: str) -> None:
    field = Field(lambda points: activation(LIFT(points)), "tx")
    with pytest.raises(ValueError, match=r"need smooth functions, got .* Use tanh, sin, gelu"):
        field.derivatives(POINTS, (name,))


@pytest.mark.parametrize(
    "network",
    [
        lambda x: x - x.mean(0),
        lambda x: x * x.sum(),
        lambda x: x * x.sin().softmax(0),
        lambda x: x.roll(1, 0),
        nn.BatchNorm1d(2).double().train(),
    ],
)
def test_networks_that_mix_points_are_refused(network: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"every point is on its own, got .*network.eval\(\)"):
        Field(network, "tx").derivatives(POINTS, ("x",))


def test_the_channels_of_a_jet_can_be_read() -> None:
    field = Field(lambda points: points, "tx")
    jet = field.lift(POINTS, field.algebra(("xx",)))
    assert isinstance(jet, Jet)
    assert jet.algebra.indices == ((), (1,), (1, 1))
    assert jet.shape == (3, 2)
    assert torch.equal((jet * jet).tensor[2], torch.tensor([0.0, 2.0], dtype=torch.float64).expand(3, 2))
    assert "indices=((), (1,), (1, 1))" in repr(jet)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x[0],
        lambda x: x[x[:, 0] > 0.5],
        list,
        bool,
        lambda x: x.add_(1.0),
        lambda x: torch.stack((x, x)),
        lambda x: x.transpose(0, 1),
        lambda x: x.unsqueeze(0),
        lambda x: x[:, 0] + x,
        lambda x: x + torch.ones(2, 3, 2),
        lambda x: torch.einsum("nf,mf->nm", x, x),
        lambda x: functional.silu(x, inplace=True),
    ],
)
def test_operations_that_move_points_or_write_in_place_have_no_rule(operation: Callable[[Jet], object]) -> None:
    field = Field(lambda points: points, "tx")
    with pytest.raises(NotUnderstoodError):
        operation(field.lift(POINTS, field.algebra(("x",))))
