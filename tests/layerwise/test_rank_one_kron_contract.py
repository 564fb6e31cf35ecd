"""The conventions of ``torch.optim.Optimizer``, and of those who drive one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

from secant.layerwise import RankOneKron

from .kron_runs import DOUBLE, flat, loss_of, net, random, train


def test_a_closure_is_evaluated_once_with_gradients_and_its_loss_returned() -> None:
    model, calls = net(), []
    optimizer = RankOneKron(model)

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    expected = loss_of(model).item()
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    assert loss.item() == expected
    assert optimizer.step() is None


def test_a_step_without_gradients_does_nothing() -> None:
    model = net()
    optimizer, before = RankOneKron(model), flat(model)
    assert optimizer.step() is None
    assert torch.equal(flat(model), before)
    assert optimizer.state_dict()["state"] == {}


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=10),
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step),
    "warm-up": lambda optimizer: lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=5),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_schedule_sets_the_length_of_every_update(schedule: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], as_tensor: bool) -> None:
    weight = torch.zeros(8, 8, dtype=DOUBLE, requires_grad=True)
    optimizer = RankOneKron([{"params": [weight], "rule": "kron"}], lr=torch.tensor(0.05) if as_tensor else 0.05)
    scheduler, rates = schedule(optimizer), []
    for step in range(8):
        before = weight.detach().clone()
        weight.grad = random(8, 8, seed=step)
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
        assert float((weight.detach() - before).square().mean().sqrt()) == pytest.approx(0.1 * rates[-1], rel=1e-6)
    assert len(set(rates)) > 3


def test_a_schedule_of_plateaus_and_clipping_act() -> None:
    model = net()
    optimizer = RankOneKron(model, lr=0.1)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    loss_of(model).backward()
    assert float(nn.utils.clip_grad_norm_(model.parameters(), 1e-3)) > 1e-3
    optimizer.step()
    for loss in (1.0, 2.0):
        scheduler.step(loss)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert float(optimizer.state[model[2].weight]["momentum"].norm()) < 1e-3


def test_gradients_set_to_zero_instead_of_none_go_on_as_gradients() -> None:
    model = net()
    optimizer = RankOneKron(model)
    train(model, optimizer, range(2))
    optimizer.zero_grad(set_to_none=False)
    momentum = optimizer.state[model[2].weight]["momentum"].clone()
    optimizer.step()
    torch.testing.assert_close(optimizer.state[model[2].weight]["momentum"], 0.95 * momentum)
    assert bool(flat(model).isfinite().all())


def test_hooks_run_before_and_after_each_step() -> None:
    model, seen = net(), []
    optimizer = RankOneKron(model)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(model, optimizer, range(2))
    assert seen == ["before", "after"] * 2


def test_an_averaged_model_follows() -> None:
    model = net()
    averaged = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.5))
    optimizer = RankOneKron(model)
    for step in range(3):
        train(model, optimizer, range(step, step + 1))
        averaged.update_parameters(model)
    assert bool(flat(averaged).isfinite().all())
    assert not torch.equal(flat(averaged.module), flat(model))


class ManualLoop:
    """A trainer that moves the optimizer's state to the device of the weights and wraps the step in its closure, as Lightning does."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.optimizer = model, RankOneKron(model)

    def run(self, steps: int) -> None:
        for step in range(steps):
            for parameter, entry in self.optimizer.state.items():
                self.optimizer.state[parameter] = {name: value.to(value.device) for name, value in entry.items()}

            def closure(step: int = step) -> Tensor:
                loss = loss_of(self.model, step)
                self.optimizer.zero_grad()
                loss.backward()
                return loss

            self.optimizer.step(closure=closure)


def test_a_trainer_that_owns_the_loop_gets_the_same_path() -> None:
    looped, plain = net(), net()
    ManualLoop(looped).run(5)
    train(plain, RankOneKron(plain), range(5))
    assert torch.equal(flat(looped), flat(plain))


def test_the_order_of_keyword_arguments_and_the_seed_of_torch_do_not_matter() -> None:
    first, second = net(), net()
    optimizers = RankOneKron(first, momentum=0.8, lr=0.1, window=9), RankOneKron(window=9, lr=0.1, params=second, momentum=0.8)
    torch.manual_seed(1)
    train(first, optimizers[0], range(4))
    torch.manual_seed(2)
    train(second, optimizers[1], range(4))
    assert torch.equal(flat(first), flat(second))
    other = net()
    train(other, RankOneKron(other, momentum=0.8, lr=0.1, window=9, seed=1), range(4))
    assert not torch.equal(flat(other), flat(first))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr >= 0, got -1.0"),
        ({"lr": float("nan")}, "lr >= 0, got nan"),
        ({"momentum": 1.0}, "0 <= momentum < 1, got 1.0"),
        ({"weight_decay": -0.1}, "weight_decay >= 0, got -0.1"),
        ({"betas": (0.9, 1.0)}, r"got betas=\(0.9, 1.0\)"),
        ({"betas": (0.9,)}, r"two betas.*got betas=\(0.9,\)"),
        ({"eps": -1.0}, "eps=-1.0"),
        ({"adamw_share": 0.0}, "Freeze parameters by requires_grad=False"),
        ({"every": 0}, "every >= 1, got 0"),
        ({"window": 2.5}, "window >= 1, got 2.5"),
        ({"largest_side": 0}, "largest_side >= 1"),
        ({"kappa": 1.0}, "0 < kappa < 1"),
        ({"stretch": 0.5}, "stretch >= 1, got 0.5"),
        ({"power": 3}, r"power=1 \(whitening\) or power=2"),
        ({"sides": "left"}, "sides='all' or sides='smaller', got 'left'"),
        ({"multiply_dtype": torch.float16}, "multiply_dtype=torch.bfloat16, torch.float32 or torch.float64"),
    ],
)
def test_an_option_out_of_range_is_refused_with_what_was_expected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RankOneKron(net(), **options)


@pytest.mark.parametrize("options", [{"momentum": 2.0}, {"adamw_share": -1.0}, {"rule": "sgd"}, {"rule": "kron"}])
def test_a_group_that_is_refused_is_not_added(options: dict[str, Any]) -> None:
    optimizer = RankOneKron(net())
    with pytest.raises(ValueError, match=r"Expected|needs"):
        optimizer.add_param_group({"params": [("extra", torch.ones(3))], **options})
    assert len(optimizer.param_groups) == 1
