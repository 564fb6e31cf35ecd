from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secant.layerwise import RankOneKron

from .kron_runs import DOUBLE, equal, everything, flat, loss_of, net, random, train


def test_training_learns() -> None:
    model = net(torch.float32)
    optimizer = RankOneKron(model)
    before = loss_of(model).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert loss_of(model).item() < 0.2 * before


@pytest.mark.parametrize("count", [2, 3, 6])
def test_accumulated_micro_batches_are_the_big_batch(count: int) -> None:
    accumulated, joint = net(), net()
    optimizers = RankOneKron(accumulated), RankOneKron(joint)
    for step in range(8):
        for optimizer in optimizers:
            optimizer.zero_grad()
        inputs, targets = random(12, 6, seed=step), random(12, 3, seed=step + 1000)
        (joint(inputs) - targets).square().mean().backward()
        for x, y in zip(inputs.chunk(count), targets.chunk(count), strict=True):
            ((accumulated(x) - y).square().mean() / count).backward()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(flat(accumulated), flat(joint), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_gradient_that_is_not_finite_changes_nothing_but_a_counter(value: float, step: int) -> None:
    model = net(torch.float32)
    optimizer = RankOneKron(model, weight_decay=0.1)
    train(model, optimizer, range(step))
    before, weights = everything(optimizer), flat(model)
    loss_of(model).backward()
    bias = model[4].bias
    assert bias.grad is not None
    bias.grad[2] = value
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert torch.equal(flat(model), weights)
    before["secant"]["skipped_steps"] = 1
    assert equal(everything(optimizer), before)
    straight = net(torch.float32)
    other = RankOneKron(straight, weight_decay=0.1)
    train(straight, other, range(6))
    train(model, optimizer, range(step, 6))
    assert torch.equal(flat(model), flat(straight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_gradients_of_any_finite_size_move_matrices_as_far_as_others(dtype: torch.dtype, size: float) -> None:
    weight = torch.zeros(32, 24, dtype=dtype, requires_grad=True)
    optimizer = RankOneKron([{"params": [weight], "rule": "kron"}], lr=1.0)
    for step in range(4):
        before = weight.detach().clone()
        weight.grad = (random(32, 24, seed=step) * size).to(dtype)
        optimizer.step()
        moved = (weight.detach() - before).double()
        assert float(moved.square().mean().sqrt()) == pytest.approx(0.1, rel=0.02)
    assert optimizer.skipped_steps == 0


def test_a_huge_gradient_is_forgotten_without_a_trace_of_infinity() -> None:
    model = net(torch.float32)
    optimizer = RankOneKron(model, momentum=0.5)
    (1e30 * loss_of(model)).backward()
    optimizer.step()
    train(model, optimizer, range(300))
    assert optimizer.skipped_steps == 0
    assert all(bool(value.isfinite().all()) for weight in (model[0].weight, model[2].weight) for value in optimizer.state[weight].values())
    assert bool(flat(model).isfinite().all())


def test_a_loss_scaler_takes_no_step_where_it_finds_infinity_and_changes_no_other() -> None:
    scaled, plain = net(torch.float32), net(torch.float32)
    optimizers = RankOneKron(scaled), RankOneKron(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(6):
        for optimizer in optimizers:
            optimizer.zero_grad()
        scaler.scale(loss_of(scaled, step) * (float("inf") if step == 2 else 1.0)).backward()
        scaler.step(optimizers[0])
        scaler.update()
        if step != 2:
            loss_of(plain, step).backward()
            optimizers[1].step()
    assert scaler.get_scale() == 2.0**9
    assert optimizers[0].skipped_steps == 0
    torch.testing.assert_close(flat(scaled), flat(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning", "ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_takes_the_same_path() -> None:
    torch.compiler.reset()
    compiled, plain = net(), net()
    model = torch.compile(compiled, fullgraph=True)
    train(model, RankOneKron(model), range(8))
    train(plain, RankOneKron(plain), range(8))
    torch.compiler.reset()
    torch.testing.assert_close(flat(compiled), flat(plain), rtol=1e-9, atol=1e-11)


class Odd(nn.Module):
    """Shared weights, a layer that is never called, a scalar, a vector, and a parameter without elements."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.unused, self.head = (nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3))
        self.second.weight = self.first.weight
        self.scalar, self.vector = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(6))
        self.nothing = nn.Parameter(torch.ones(0, 6))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(inputs))))
        return self.head(hidden * self.vector * self.scalar + self.nothing.sum())


def test_odd_parameters_are_trained_or_left() -> None:
    model = Odd()
    optimizer = RankOneKron(model)
    assert sum(parameter is model.first.weight for group in optimizer.param_groups for parameter in group["params"]) == 1
    before = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(3))
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert same == {"unused.weight", "unused.bias", "nothing"}
    assert model.second.weight is model.first.weight
    assert int(optimizer.state[model.first.weight]["step"]) == 3
    assert int(optimizer.state[model.scalar]["step"]) == 3
    assert model.unused.weight not in optimizer.state


def test_a_parameter_of_complex_numbers_is_trained_beside_the_others() -> None:
    model, factor = net(torch.float32), torch.ones(2, 2, dtype=torch.complex64, requires_grad=True)
    optimizer = RankOneKron([*model.named_parameters(), ("factor", factor)])
    (loss_of(model) + factor.abs().sum()).backward()
    optimizer.step()
    assert not torch.equal(factor, torch.ones(2, 2, dtype=torch.complex64))
    assert int(optimizer.state[model[0].weight]["step"]) == 1


def test_a_sparse_gradient_is_refused_with_a_remedy_and_nothing_moves() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 3))
    optimizer = RankOneKron(model)
    before = flat(model)
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match="Build the embedding with sparse=False"):
        optimizer.step()
    assert torch.equal(flat(model), before)


def test_a_layout_in_channels_last_changes_nothing() -> None:
    def build(memory_format: torch.memory_format) -> nn.Sequential:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3)).double()
        return layers.to(memory_format=memory_format)  # type: ignore[call-overload]

    plain, last = build(torch.contiguous_format), build(torch.channels_last)
    for model in (plain, last):
        optimizer = RankOneKron(model)
        for step in range(4):
            optimizer.zero_grad()
            model(random(3, 2, 6, 6, seed=step)).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(flat(last), flat(plain), rtol=1e-10, atol=1e-12)
    assert last[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_transposed_parameter_is_trained_as_what_it_shows() -> None:
    storage, plain = random(5, 7), random(5, 7).T.contiguous().requires_grad_()
    transposed = storage.T.requires_grad_()
    for parameter in (transposed, plain):
        optimizer = RankOneKron([{"params": [parameter], "rule": "kron"}])
        for step in range(3):
            parameter.grad = random(7, 5, seed=step)
            optimizer.step()
    assert torch.equal(transposed, plain)


def test_parameters_in_bfloat16_keep_averages_and_factors_in_single_precision() -> None:
    model = net(torch.bfloat16)
    optimizer = RankOneKron(model)
    train(model, optimizer, range(3))
    state = optimizer.state[model[2].weight]
    assert {name: value.dtype for name, value in state.items()} == dict.fromkeys(state, torch.float32)
    assert flat(model).dtype == torch.bfloat16


def test_frozen_parameters_stay_and_move_again_when_they_are_thawed() -> None:
    model = net()
    optimizer = RankOneKron(model)
    train(model, optimizer, range(2))
    model[2].requires_grad_(False)
    frozen = model[2].weight.detach().clone()
    train(model, optimizer, range(2, 5))
    assert torch.equal(model[2].weight, frozen)
    model[2].requires_grad_(True)
    train(model, optimizer, range(5, 7))
    assert not torch.equal(model[2].weight, frozen)
    assert [int(optimizer.state[model[index].weight]["step"]) for index in (0, 2, 4, 6)] == [7, 4, 7, 7]


def test_two_halves_of_a_model_may_take_turns() -> None:
    """Each is corrected at its own first step, although the other one had steps before."""
    model = net()
    optimizer = RankOneKron(model)
    for step in range(6):
        for index in (0, 2):
            model[index].requires_grad_(step % 2 == index // 2)
        train(model, optimizer, range(step, step + 1))
    for index in (0, 2):
        side = optimizer.state[model[index].weight]["right" if index == 0 else "left"]
        assert not torch.equal(side, torch.eye(len(side), dtype=DOUBLE))


def test_clearing_the_state_starts_afresh() -> None:
    model = net()
    optimizer = RankOneKron(model)
    train(model, optimizer, range(3))
    optimizer.state.clear()
    train(model, optimizer, range(3, 4))
    assert {int(state["step"]) for state in optimizer.state.values()} == {1}


def test_climbing_is_descending_the_negative() -> None:
    up, down = net(), net()
    climber, optimizer = RankOneKron(up, maximize=True, weight_decay=0.1), RankOneKron(down, weight_decay=0.1)
    for step in range(4):
        for model, sign, own in ((up, -1.0, climber), (down, 1.0, optimizer)):
            own.zero_grad()
            (sign * loss_of(model, step)).backward()
            own.step()
    assert torch.equal(flat(up), flat(down))


def test_each_group_moves_by_its_own_learning_rate() -> None:
    shapes = [(6, 6), (6, 6), (6, 6)]
    parameters = [torch.zeros(shape, dtype=DOUBLE, requires_grad=True) for shape in shapes]
    groups = [{"params": [p], "lr": lr, "rule": "kron"} for p, lr in zip(parameters, (0.1, 0.0, 0.4), strict=True)]
    optimizer = RankOneKron(groups)
    for parameter in parameters:
        parameter.grad = random(6, 6)
    optimizer.step()
    assert [p.square().mean().sqrt().item() for p in parameters] == pytest.approx([0.01, 0.0, 0.04], rel=0.5)
    assert torch.count_nonzero(parameters[1]) == 0


def test_adamw_trains_what_kron_does_not_as_torch_does() -> None:
    """At ``adamw_share`` of the learning rate and with the same decoupled decay."""
    model, copied = net(), net()
    optimizer = RankOneKron(model, lr=0.02, weight_decay=0.3, betas=(0.8, 0.9), eps=1e-6, rules={"*": "adamw"})
    peer = torch.optim.AdamW(copied.parameters(), lr=0.01, weight_decay=0.6, betas=(0.8, 0.9), eps=1e-6)
    train(model, optimizer, range(5))
    train(copied, peer, range(5))
    torch.testing.assert_close(flat(model), flat(copied), rtol=1e-12, atol=1e-14)
