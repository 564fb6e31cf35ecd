"""K-FAC against curvlinops' operator, against dense algebra, and under what training does to it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secant.race.peers.combined import Combined
from secant.race.peers.kfac import KFAC, factored_layers


class Transposed(nn.Module):
    """Tokens last, classes second: as the cross entropy of torch takes them."""

    def forward(self, x: Tensor) -> Tensor:
        """The last two dimensions, exchanged."""
        return x.transpose(1, 2)


def mlp() -> tuple[nn.Sequential, Tensor, Tensor]:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)), torch.randn(12, 4), torch.arange(12) % 3


def convolutions() -> tuple[nn.Sequential, Tensor, Tensor]:
    layers = (nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2, bias=False), nn.Flatten(), nn.Linear(16, 3))
    return nn.Sequential(*layers), torch.randn(6, 2, 6, 6), torch.arange(6) % 3


def tokens() -> tuple[nn.Sequential, Tensor, Tensor]:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), Transposed()), torch.randn(6, 7, 4), torch.arange(42).reshape(6, 7) % 3


@pytest.fixture(params=[mlp, convolutions, tokens])
def case(request: pytest.FixtureRequest) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    model, inputs, targets = request.param()
    return model.double(), inputs.double(), targets


def backward(model: nn.Module, inputs: Tensor, targets: Tensor, share: float = 1.0) -> None:
    (share * nn.functional.cross_entropy(model(inputs), targets)).backward()


def test_the_factors_are_those_of_curvlinops(case: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    curvlinops = pytest.importorskip("curvlinops", reason="make peers installs it")
    model, inputs, targets = case
    reference = copy.deepcopy(model)
    operator = curvlinops.KFACLinearOperator(
        reference,
        nn.CrossEntropyLoss(),
        list(reference.parameters()),
        [(inputs, targets)],
        fisher_type="empirical",
        kfac_approx="expand",
        separate_weight_and_bias=False,
    )
    layers = factored_layers(model)
    optimizer = KFAC(layers, 0.1)
    backward(model, inputs, targets)
    optimizer.step()
    directions = [torch.randn_like(parameter) for parameter in reference.parameters()]
    expected = operator @ directions
    remaining = iter(zip(directions, expected, strict=True))
    for layer in layers:
        weight, product = next(remaining)
        v, wanted = weight.flatten(1), product.flatten(1)
        if layer.bias is not None:
            bias, product = next(remaining)
            v, wanted = torch.cat([v, bias[:, None]], 1), torch.cat([wanted, product[:, None]], 1)
        state = optimizer.state[layer.weight]
        assert torch.allclose(state["outputs"] @ v @ state["inputs"], wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("clip", [1e-3, math.inf])
def test_a_step_is_the_dense_solution_of_the_damped_system(case: tuple[nn.Sequential, Tensor, Tensor], clip: float) -> None:
    model, inputs, targets = case
    lr, damping = 0.5, 0.01
    optimizer = KFAC(factored_layers(model), lr, momentum=0.0, damping=damping, clip=clip)
    backward(model, inputs, targets)
    before, gradients = copy.deepcopy(model), {layer: layer.weight.grad for layer in factored_layers(model)}
    biases = {layer: None if layer.bias is None else layer.bias.grad for layer in gradients}
    optimizer.step()
    solutions, square = {}, 0.0
    for layer, weight in gradients.items():
        g = weight.flatten(1) if biases[layer] is None else torch.cat([weight.flatten(1), biases[layer][:, None]], 1)
        a, s = optimizer.state[layer.weight]["inputs"], optimizer.state[layer.weight]["outputs"]
        p = (a.diagonal().mean() / s.diagonal().mean()).sqrt()
        dense = torch.kron(
            s + math.sqrt(damping) / p * torch.eye(len(s), dtype=torch.float64), a + p * math.sqrt(damping) * torch.eye(len(a), dtype=torch.float64)
        )
        solutions[layer] = torch.linalg.solve(dense, g.flatten()).view_as(g)
        square += float(lr**2 * (solutions[layer] * g).sum())
    shorten = min(1.0, math.sqrt(clip / square))
    assert (shorten < 1.0) == (clip < 1.0)
    for layer, old in zip(solutions, factored_layers(before), strict=True):
        moved = (old.weight - layer.weight).detach().flatten(1)
        assert torch.allclose(moved, lr * shorten * solutions[layer][:, : moved.shape[1]], rtol=1e-9, atol=1e-14)
        if layer.bias is not None:
            assert torch.allclose((old.bias - layer.bias).detach(), lr * shorten * solutions[layer][:, -1], rtol=1e-9, atol=1e-14)


def test_micro_batches_are_the_joint_batch(case: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    model, inputs, targets = case
    joint = copy.deepcopy(model)
    for net, parts in ((model, 3), (joint, 1)):
        optimizer = KFAC(factored_layers(net), 0.1, every=2)
        for _ in range(4):
            optimizer.zero_grad()
            for rows, labels in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
                backward(net, rows, labels, 1.0 / parts)
            optimizer.step()
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-13) for a, b in zip(model.parameters(), joint.parameters(), strict=True))


def test_factors_are_moving_averages_taken_every_few_steps() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2, bias=False)).double()
    optimizer = KFAC(factored_layers(model), 0.0, every=2, decay=0.75)
    seen = []
    for _ in range(4):
        inputs = torch.randn(5, 3, dtype=torch.float64)
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        seen.append(inputs.T @ inputs / 5)
    assert torch.allclose(optimizer.state[model[0].weight]["inputs"], 0.75 * seen[0] + 0.25 * seen[2], rtol=1e-12)


def test_it_resumes_bit_for_bit(case: tuple[nn.Sequential, Tensor, Tensor]) -> None:
    model, inputs, targets = case

    def go_on(net: nn.Module, optimizer: KFAC, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            backward(net, inputs, targets)
            optimizer.step()

    optimizer = KFAC(factored_layers(model), 0.1, every=3)
    go_on(model, optimizer, 4)
    again = copy.deepcopy(model)
    for layer in again:
        layer._forward_hooks.clear()
    resumed = KFAC(factored_layers(again), 0.1, every=3)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go_on(model, optimizer, 5)
    go_on(again, resumed, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("scale", [1e-15, 1e12])
def test_vanishing_and_exploding_gradients_can_be_inverted(scale: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 4))
    optimizer = KFAC(factored_layers(model), 0.1)
    (scale * model(torch.randn(3, 40)).sum()).backward()
    optimizer.step()
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_gradients_of_zero_move_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    start = copy.deepcopy(model)
    optimizer = KFAC(factored_layers(model), 0.1)
    (0.0 * model(torch.randn(5, 4)).sum()).backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True))


def test_a_layer_without_a_gradient_is_left_alone() -> None:
    model = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])
    start = copy.deepcopy(model)
    optimizer = KFAC(factored_layers(model), 0.1)
    model[0](torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, start[0].weight)
    assert torch.equal(model[1].weight, start[1].weight)


def test_a_gradient_without_a_capture_is_an_error() -> None:
    layer = nn.Linear(4, 3)
    optimizer = KFAC([layer], 0.1)
    nn.functional.linear(torch.randn(5, 4), layer.weight, layer.bias).sum().backward()
    with pytest.raises(RuntimeError, match="hook on every layer"):
        optimizer.step()


def test_evaluation_is_not_captured() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False)
    optimizer = KFAC([layer], 0.1)
    inputs = torch.randn(6, 3)
    with torch.no_grad():
        layer(torch.randn(50, 3))
    layer(inputs).square().sum().backward()
    optimizer.step()
    assert torch.allclose(optimizer.state[layer.weight]["inputs"], inputs.T @ inputs / 6, rtol=1e-6, atol=1e-7)


def shared() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def frozen() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.bias.requires_grad_(False)
    return layer


@pytest.mark.parametrize(
    "make",
    [
        shared,
        frozen,
        lambda: nn.MultiheadAttention(4, 2),
        lambda: nn.Conv2d(4, 4, 3, groups=2),
        lambda: nn.Conv2d(2, 2, 3, padding="same"),
        lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        lambda: nn.Conv1d(2, 2, 3),
        lambda: nn.Embedding(3, 4),
    ],
)
def test_what_has_no_factors_is_left_to_adamw(make: Callable[[], nn.Module]) -> None:
    assert factored_layers(make()) == []


def test_the_rest_of_a_model_goes_to_adamw() -> None:
    from secant.race.peers.kfac import METHODS
    from secant.race.techniques import Hyperparameters

    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    optimizer = METHODS[0].variants[0].build(model, Hyperparameters(lr=0.1))
    assert isinstance(optimizer, Combined)
    factored, rest = optimizer.param_groups
    assert factored["params"] == list(model[2].parameters())
    assert [id(p) for p in rest["params"]] == [id(p) for p in (*model[0].parameters(), *model[1].parameters())]
    assert rest["lr"] == pytest.approx(0.01)
