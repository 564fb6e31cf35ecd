"""Optimizers of other libraries on batches: each is what its record says, and lowers a loss."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from race.blobs import blobs
from secant.race.budget import Budget
from secant.race.method import BatchVariant, Method
from secant.race.peers import peer_methods
from secant.race.peers.combined import Combined
from secant.race.peers.muon import muon_and_adamw
from secant.race.plan import Plan, race
from secant.race.records import Status
from secant.race.source import Source
from secant.race.techniques import Decay, Hyperparameters
from secant.tree import tensors_in

PEERS = {method.name: method for method in peer_methods() if isinstance(method.variants[0], BatchVariant)}
STEPS = 60


@pytest.fixture(params=PEERS)
def peer(request: pytest.FixtureRequest) -> Method:
    method = PEERS[request.param]
    if not method.is_installed:
        pytest.skip(f"{method.name} is not installed: {method.remedy}")
    return method


@cache
def regression() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 8, generator=generator)
    return inputs, torch.sin(inputs @ torch.randn(8, 2, generator=generator) / 2)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 2))


def batches(dtype: torch.dtype = torch.float32, size: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    inputs, targets = regression()
    generator = torch.Generator().manual_seed(1)
    while True:
        rows = torch.randint(len(inputs), (size,), generator=generator)
        yield inputs[rows].to(dtype), targets[rows].to(dtype)


def mean_loss(model: nn.Module) -> float:
    inputs, targets = regression()
    like = next(model.parameters())
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(inputs.to(like)), targets.to(like)))


def train(model: nn.Module, optimizer: Optimizer, steps: int = STEPS, skip: int = 0) -> None:
    for number, (inputs, targets) in zip(range(skip + steps), batches(next(model.parameters()).dtype), strict=False):
        if number >= skip:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()


def built(method: Method, model: nn.Module, **wanted: Any) -> Optimizer:
    variant = method.variants[0]
    assert isinstance(variant, BatchVariant)
    return variant.build(model, Hyperparameters(**{"lr": variant.lr, **wanted}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rate_of_the_grid_halves_the_loss_and_the_state_stays_finite(peer: Method, dtype: torch.dtype) -> None:
    before, after = mean_loss(network()), []
    for variant in peer.variants[1::2]:
        model = network().to(dtype)
        optimizer = built(peer, model, lr=variant.lr)
        train(model, optimizer)
        after.append(mean_loss(model))
        if after[-1] < before:
            assert all(bool(tensor.isfinite().all()) for tensor in tensors_in(optimizer.state_dict()["state"]))
    assert min(after) < before / 2


def test_kernels_and_norms_are_trained(peer: Method) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    inputs, targets = torch.randn(24, 1, 8, 8), torch.arange(24) % 3
    start = copy.deepcopy(model)
    optimizer = built(peer, model, lr=peer.variants[1].lr)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 1.1
    trained = {name: not torch.equal(a, b) for (name, a), b in zip(model.named_parameters(), start.parameters(), strict=True)}
    assert all(trained.values()), trained


def test_a_race_ends_with_a_record_that_counts_the_state(peer: Method) -> None:
    one_rate = Method(peer.name, peer.summary, peer.origin, peer.variants[:1], takes_momentum=peer.takes_momentum, decay=peer.decay)
    (record,) = race(Plan(Source("blobs", blobs), (one_rate,), (0,), Budget(steps=12)))
    assert record.status is Status.BUDGET, record.outcome
    assert record.training is not None
    assert record.training.state_numbers is not None
    assert (record.training.state_numbers >= 1.0) == (peer.name != "sgd")


def test_the_record_states_what_is_built(peer: Method) -> None:
    settings = peer.variants[0].settings
    optimizer = built(peer, network())
    group, found = optimizer.param_groups[0], []
    for name, value in settings.items():
        kept = group.get(name, getattr(optimizer, name, getattr(optimizer, f"_{name}", None)))
        if name in ("class", "momentum", "q_dtype", "lr") or kept is None:
            continue
        found.append(name)
        assert ", ".join(map(str, kept)) == value if isinstance(kept, tuple) else str(getattr(kept, "name", kept)) == str(value), name
    assert settings["lr"] == group["lr"]
    assert len(found) >= (0 if peer.name.startswith("sgd") else 1)
    class_name = str(settings["class"]).rpartition(".")[2]
    assert class_name in type(optimizer).__name__ or class_name in {type(part).__name__ for part in getattr(optimizer, "_parts", ())}


def test_a_grid_has_four_rates_or_more_in_order(peer: Method) -> None:
    rates = [variant.lr for variant in peer.variants]
    assert len(rates) >= 4
    assert rates == sorted(set(rates))


def test_a_peer_that_may_be_missing_says_how_to_install_it() -> None:
    for method in PEERS.values():
        assert bool(method.needs) == method.remedy.startswith("pip install ") == bool(method.packages), method.name


def test_the_momentum_that_is_asked_for_is_heeded(peer: Method) -> None:
    assert peer.takes_momentum
    final = []
    for momentum in (None, 0.5, 0.5):
        model = network()
        optimizer = built(peer, model, momentum=momentum)
        torch.manual_seed(3)
        train(model, optimizer, 15)
        final.append(flat(model))
    assert not torch.equal(final[0], final[1])
    assert torch.equal(final[1], final[2])


@pytest.mark.parametrize("peer", [name for name, method in PEERS.items() if method.decay is Decay.DECOUPLED], indirect=True)
def test_a_decoupled_decay_shrinks_by_rate_times_decay(peer: Method) -> None:
    lr, decay = 1e-3, 0.1
    plain, shrunk = moved_by_fixed_gradients(peer, lr, 0.0), moved_by_fixed_gradients(peer, lr, decay)
    expected = plain[0]
    for before, after in itertools.pairwise(plain):
        still = torch.equal(before, after)  # the first step of SOAP only prepares
        expected = expected if still else (1.0 - lr * decay) * expected + (after - before)
    assert torch.allclose(plain[-1] - shrunk[-1], plain[-1] - expected, rtol=0.05, atol=lr * decay * 1e-2)


def moved_by_fixed_gradients(peer: Method, lr: float, weight_decay: float) -> list[Tensor]:
    """The parameters before and after each of three steps whose gradients do not depend on them."""
    model = network().double()
    optimizer = built(peer, model, lr=lr, weight_decay=weight_decay)
    inputs, targets = next(batches(torch.float64))
    points = [flat(model)]
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()  # for hooks; K-FAC keeps what they saw at the first step
        generator = torch.Generator().manual_seed(4)
        for parameter in model.parameters():
            parameter.grad = 1e-2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        torch.manual_seed(5)
        optimizer.step()
        points.append(flat(model))
    return points


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("peer", [name for name, method in PEERS.items() if method.decay is Decay.COUPLED], indirect=True)
def test_a_coupled_decay_changes_the_gradient(peer: Method) -> None:
    model, plain = network(), network()
    optimizer, without = built(peer, model, weight_decay=0.1), built(peer, plain)
    train(model, optimizer, 3)
    train(plain, without, 3)
    assert not torch.equal(model[0].weight, plain[0].weight)


class Decoder(nn.Module):
    """A little of everything: an embedding, a norm, matrices, a kernel, a matrix of one row, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(7, 6)
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 9)
        self.mix = nn.Conv1d(9, 6, 3, padding=1)
        self.gate = nn.Linear(6, 1)
        self.head = nn.Linear(6, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of shape ``(windows, length, 7)``."""
        x = self.up(self.norm(self.token(tokens))).tanh()
        x = self.mix(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x * self.gate(x))


def test_muon_takes_hidden_matrices_and_kernels_and_leaves_the_rest_to_adamw() -> None:
    model = Decoder()
    optimizer = muon_and_adamw(model, Hyperparameters(lr=1e-3))
    muon, adamw = optimizer.param_groups
    assert muon["params"][0] is model.up.weight
    assert muon["params"][1].shape == (6, 27)
    assert muon["params"][1].data_ptr() == model.mix.weight.data_ptr()
    assert len(muon["params"]) == 2
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[parameter] for parameter in adamw["params"]} == set(names.values()) - {"up.weight", "mix.weight"}
    assert muon["weight_decay"] == adamw["weight_decay"] == 0.0
    assert muon["lr"] == adamw["lr"]


def test_muon_moves_a_kernel_as_it_would_move_the_matrix() -> None:
    model, tokens = Decoder(), torch.randint(7, (5, 8), generator=torch.Generator().manual_seed(0))
    optimizer = muon_and_adamw(model, Hyperparameters(lr=1e-2))
    matrix = model.mix.weight.detach().flatten(1).clone().requires_grad_()
    alone = torch.optim.Muon([matrix], 1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        assert model.mix.weight.grad is not None
        matrix.grad = model.mix.weight.grad.flatten(1).clone()
        optimizer.step()
        alone.step()
        assert model.mix.weight.grad is None
        assert torch.equal(model.mix.weight.flatten(1), matrix)


def test_muon_refuses_a_model_without_hidden_weights() -> None:
    with pytest.raises(ValueError, match="needs a hidden matrix or kernel"):
        muon_and_adamw(nn.Linear(4, 3), Hyperparameters(lr=1e-3))


def combined(model: nn.Sequential) -> Combined:
    first, last = list(model[0].parameters()), list(model[4].parameters())
    return Combined(torch.optim.SGD(first, 0.1, momentum=0.9), torch.optim.AdamW([*model[2].parameters(), *last], 0.01))


def test_combined_parts_step_as_they_would_alone() -> None:
    model, other = network(), network()
    together = combined(model)
    first = torch.optim.SGD(other[0].parameters(), 0.1, momentum=0.9)
    rest = torch.optim.AdamW([*other[2].parameters(), *other[4].parameters()], 0.01)
    for inputs, targets in [next(batches())] * 4:
        for net, parts in ((model, [together]), (other, [first, rest])):
            net.zero_grad()
            nn.functional.mse_loss(net(inputs), targets).backward()
            for part in parts:
                part.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_scheduler_reaches_every_part() -> None:
    model = network()
    optimizer = combined(model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    train(model, optimizer, 1)
    scheduler.step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.005]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_combined_resumes_bit_for_bit() -> None:
    model = network()
    optimizer = combined(model)
    train(model, optimizer, 5)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, 5, skip=5)
    again = network(seed=1)
    again.load_state_dict(weights)
    resumed = combined(again)
    resumed.load_state_dict(state)
    train(again, resumed, 5, skip=5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_parameter_of_two_parts_is_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="more than one parameter group"):
        Combined(torch.optim.SGD(model.parameters(), 0.1), torch.optim.AdamW(model[0].parameters(), 0.01))
