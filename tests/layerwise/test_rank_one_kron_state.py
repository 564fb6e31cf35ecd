from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from secant.layerwise import RankOneKron
from secant.layerwise.routing import Rule

from .kron_runs import DOUBLE, equal, everything, flat, loss_of, net, random, train


def through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def accumulate(model: nn.Module, optimizer: RankOneKron, scheduler: LRScheduler, micro_batches: range) -> None:
    """Two micro-batches to a step; one layer is frozen in between, so that the ages differ."""
    for index in micro_batches:
        model[2].requires_grad_(not 4 <= index < 8)  # type: ignore[index]
        (loss_of(model, index) / 2).backward()
        if index % 2 == 1:
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stop", [1, 4, 7, 10, 13])
def test_resuming_amid_a_schedule_and_an_accumulation_goes_on_bit_for_bit(dtype: torch.dtype, stop: int) -> None:
    def build() -> tuple[nn.Module, RankOneKron, LRScheduler]:
        model = net(dtype)
        optimizer = RankOneKron(model, weight_decay=0.01)
        return model, optimizer, CosineAnnealingLR(optimizer, T_max=10)

    straight = build()
    accumulate(*straight, range(20))
    first = build()
    accumulate(*first, range(stop))
    saved = through_a_file([part.state_dict() for part in first] + [[p.grad for p in first[0].parameters()]])
    second = build()
    for part, state in zip(second, saved[:3], strict=True):
        part.load_state_dict(state)
    for parameter, gradient in zip(second[0].parameters(), saved[3], strict=True):
        parameter.grad = gradient
    accumulate(*second, range(stop, 20))
    assert torch.equal(flat(second[0]), flat(straight[0]))
    assert equal(everything(second[1]), everything(straight[1]))


def test_loading_a_state_shares_nothing_with_it() -> None:
    model, other = net(), net()
    optimizer, loaded = RankOneKron(model), RankOneKron(other)
    train(model, optimizer, range(3))
    other.load_state_dict(model.state_dict())
    loaded.load_state_dict(optimizer.state_dict())
    before = everything(optimizer)
    train(other, loaded, range(3, 5))
    assert equal(everything(optimizer), before)
    train(model, optimizer, range(3, 5))
    assert torch.equal(flat(model), flat(other))


def test_a_state_loaded_over_a_later_one_takes_its_place() -> None:
    model = net()
    optimizer = RankOneKron(model)
    train(model, optimizer, range(3))
    weights, saved = copy.deepcopy(model.state_dict()), everything(optimizer)
    train(model, optimizer, range(3, 6))
    expected = flat(model)
    model.load_state_dict(weights)
    optimizer.load_state_dict(saved)
    train(model, optimizer, range(3, 6))
    assert torch.equal(flat(model), expected)


@pytest.mark.parametrize(("saved", "loaded"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float32, DOUBLE)])
def test_a_state_is_taken_over_in_the_precision_of_the_new_parameters_but_at_least_single(saved: torch.dtype, loaded: torch.dtype) -> None:
    first, second = net(saved), net(loaded)
    optimizer, other = RankOneKron(first), RankOneKron(second)
    train(first, optimizer, range(3))
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    expected = {name: torch.float32 if name == "step" else torch.promote_types(loaded, torch.float32) for name in optimizer.state[first[2].weight]}
    assert {name: value.dtype for name, value in other.state[second[2].weight].items()} == expected
    assert other.state[second[6].weight]["exp_avg"].dtype == loaded
    train(second, other, range(3, 5))
    assert bool(flat(second).isfinite().all())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_copy_of_model_and_optimizer_goes_on_alone(copied: Callable[[Any], Any], steps: int) -> None:
    model = net(torch.float32)
    optimizer = RankOneKron(model, rules={"4.weight": "adamw"})
    train(model, optimizer, range(steps))
    other, twin = copied((model, optimizer))
    assert str(twin.routing()) == str(optimizer.routing())
    before = everything(optimizer)
    train(other, twin, range(steps, steps + 3))
    assert equal(everything(optimizer), before)
    train(model, optimizer, range(steps, steps + 3))
    assert torch.equal(flat(model), flat(other))
    twin.add_param_group({"params": [("4.more", nn.Parameter(torch.ones(3, 3)))]})
    assert len(twin.routing()) == len(optimizer.routing()) + 1


def test_a_state_with_rules_and_added_groups_is_plain_enough_for_a_safe_load() -> None:
    model, extra = net(), nn.Parameter(random(4, 4))
    optimizer = RankOneKron(model, lr=torch.tensor(0.01))
    optimizer.add_param_group({"params": [("extra", extra)], "rule": Rule.KRON, "lr": 0.1})
    loss_of(model).backward()
    extra.grad = random(4, 4, seed=1)
    optimizer.step()
    saved = through_a_file(optimizer.state_dict())
    assert equal(saved, optimizer.state_dict())
    assert saved["secant"]["generator"].dtype == torch.uint8


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: torch.optim.AdamW(net().parameters()), "saved by RankOneKron, got one without the entry 'secant'"),
        (lambda: RankOneKron(net()[:5]), "Expected a state for 8 parameters, got one for 6"),
        (lambda: RankOneKron(net(), rules={"0.weight": "adamw"}), "Expected a state of rule 'kron' for 0.weight, got the other one"),
        (lambda: RankOneKron(net(), sides="smaller"), "the factors of 2.weight, got others. Build the optimizer with the same sides"),
        (lambda: RankOneKron(nn.Sequential(nn.Linear(6, 9), *net()[1:])), r"Expected a state of shape \(8, 6\) for 0.weight, got \(9, 6\)"),
    ],
)
def test_a_state_of_another_optimizer_is_refused_and_changes_nothing(build: Callable[[], torch.optim.Optimizer], message: str) -> None:
    other = build()
    for group in other.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    other.step()
    model = net()
    optimizer = RankOneKron(model)
    train(model, optimizer, range(2))
    before = everything(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(other.state_dict())
    assert equal(everything(optimizer), before)


def perceptron(*widths: int, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(widths)))


def transformer(width: int) -> nn.Module:
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
    return nn.ModuleDict(
        {"embed": nn.Embedding(65, width), "layers": nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), "head": nn.Linear(width, 65)}
    )


def conv_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10))


def numbers_of_state(model: nn.Module) -> int:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = RankOneKron(model)
    optimizer.step()
    entries: list[dict[str, Tensor]] = list(optimizer.state_dict()["state"].values())
    assert all(value.element_size() == 4 for entry in entries for value in entry.values())
    return sum(value.numel() for entry in entries for value in entry.values())


MODELS: dict[str, Callable[[], nn.Module]] = {
    "classifier": lambda: perceptron(784, 128, 10),
    "autoencoder": lambda: perceptron(784, 1000, 500, 250, 30, 250, 500, 1000, 784),
    "deep classifier": lambda: perceptron(784, *[32] * 20, 10),
    "conv net": conv_net,
    "transformer": lambda: transformer(160),
    "square": lambda: perceptron(64, 64, 64, 64, 64),
    "tiny": lambda: perceptron(2, 3, 2, bias=False),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_the_state_is_at_most_three_numbers_per_parameter(build: Callable[[], nn.Module]) -> None:
    model = build()
    assert numbers_of_state(model) <= 3 * sum(parameter.numel() for parameter in model.parameters())


def test_square_matrices_alone_have_one_vector_more() -> None:
    side, layers = 16, 40
    model = perceptron(*[side] * (layers + 1), bias=False)
    expected = (layers - 1) * (3 * side**2 + side + 2) + 2 * side**2 + 1
    assert numbers_of_state(model) == expected
