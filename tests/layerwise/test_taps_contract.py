"""What every tapped method keeps, as a whole optimizer and in front of another one."""

from __future__ import annotations

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from secant.layerwise.preconditioner import Length
from secant.layerwise.tapped_optimizer import Base

from .tapped import OPTIMIZERS, PRECONDITIONERS, SharedNet, conv_net, dense_net, flat, random, train

METHODS = sorted(OPTIMIZERS)
BATCHES = [random(8, 6, seed=step) for step in range(6)]

pytestmark = pytest.mark.parametrize("method", METHODS)


def same(one: Any, other: Any) -> bool:
    """Equality of nested states, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) and one.dtype == other.dtype if isinstance(one, Tensor) else bool(one == other)


@pytest.mark.parametrize("make", [dense_net, conv_net, SharedNet])
def test_accumulated_micro_batches_train_like_the_large_batch(method: str, make: type[nn.Module]) -> None:
    shape = (8, 2, 8, 8) if make is conv_net else (8, 6)
    whole, parts = make(), make()
    batches = [random(*shape, seed=step) for step in range(5)]
    expected = train(whole, OPTIMIZERS[method](whole), batches)
    torch.testing.assert_close(train(parts, OPTIMIZERS[method](parts), batches, micro_batches=4), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_resumed_run_goes_on_bit_for_bit(method: str, dtype: torch.dtype) -> None:
    def build() -> tuple[nn.Module, Any, Any]:
        model = dense_net(dtype)
        optimizer = OPTIMIZERS[method](model, every=2, seed=7, weight_decay=0.1)
        return model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)

    def go_on(model: nn.Module, optimizer: Any, schedule: Any, steps: range) -> None:
        for step in steps:
            train(model, optimizer, [BATCHES[step].to(dtype)], micro_batches=2)
            schedule.step()

    model, optimizer, schedule = build()
    go_on(model, optimizer, schedule, range(3))
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict(), schedule.state_dict()], file)
    go_on(model, optimizer, schedule, range(3, 6))
    file.seek(0)
    resumed, resumed_optimizer, resumed_schedule = build()
    for part, state in zip((resumed, resumed_optimizer, resumed_schedule), torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    go_on(resumed, resumed_optimizer, resumed_schedule, range(3, 6))
    assert torch.equal(flat(resumed), flat(model))
    assert same(resumed_optimizer.state_dict(), optimizer.state_dict())


def test_a_preconditioner_resumes_bit_for_bit_in_front_of_another_optimizer(method: str) -> None:
    def go_on(model: nn.Module, preconditioner: Any, optimizer: Any, batches: list[Tensor]) -> Tensor:
        for batch in batches:
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            preconditioner.step()
            optimizer.step()
        return flat(model)

    model = dense_net()
    parts = [PRECONDITIONERS[method](model), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)]
    go_on(model, *parts, BATCHES[:3])
    saved = copy.deepcopy([part.state_dict() for part in (model, *parts)])
    expected = go_on(model, *parts, BATCHES[3:])
    resumed = dense_net(seed=1)
    others = [PRECONDITIONERS[method](resumed), torch.optim.SGD(resumed.parameters(), lr=0.1, momentum=0.9)]
    for part, state in zip((resumed, *others), saved, strict=True):
        part.load_state_dict(state)
    assert torch.equal(go_on(resumed, *others, BATCHES[3:]), expected)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_changes_nothing_but_a_counter(method: str, poison: float) -> None:
    model = dense_net()
    optimizer = OPTIMIZERS[method](model)
    train(model, optimizer, BATCHES[:2])
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    broken = BATCHES[2].clone()
    broken[3, 1] = poison
    train(model, optimizer, [broken])
    after = (model.state_dict(), optimizer.state_dict())
    assert optimizer.skipped_steps == 1
    assert after[1]["secant"]["preconditioner"].pop("skipped_steps") == before[1]["secant"]["preconditioner"].pop("skipped_steps") + 1
    assert same(after, before)
    assert bool(train(model, optimizer, BATCHES[3:]).isfinite().all())


def test_a_gradient_that_is_not_finite_outside_the_taps_keeps_the_curvature(method: str) -> None:
    model = dense_net()
    preconditioner = PRECONDITIONERS[method](model, exclude=("4.*",))
    model(BATCHES[0]).square().mean().backward()
    model[4].bias.grad.fill_(float("inf"))
    gradient = model[0].weight.grad.clone()
    preconditioner.step()
    assert preconditioner.skipped_steps == 1
    assert not preconditioner.state_dict()["curvatures"]
    assert torch.equal(model[0].weight.grad, gradient)


@pytest.mark.parametrize("is_whole", [True, False])
def test_loss_scaling_with_an_overflow_changes_nothing(method: str, is_whole: bool) -> None:
    """Scales that are powers of two are exact, so that the runs agree to the last bit; the fourth batch overflows, and the scale changes on the way."""

    def run(is_scaled: bool) -> tuple[Tensor, Any]:
        model = dense_net(torch.float32)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=2, enabled=is_scaled)
        preconditioner = None if is_whole else PRECONDITIONERS[method](model, length=Length.AS_SOLVED)
        optimizer: Any = OPTIMIZERS[method](model) if is_whole else torch.optim.SGD(model.parameters(), lr=1e-3)
        for step, batch in enumerate(BATCHES):
            if step == 3 and not is_scaled:
                continue
            optimizer.zero_grad()
            loss = model(batch.float()).square().mean() * (float("inf") if step == 3 else 1.0)
            scaler.scale(loss).backward()
            if preconditioner is None:
                scaler.step(optimizer, scaler=scaler)
            else:
                scaler.unscale_(optimizer)
                preconditioner.step(scaler)
                scaler.step(optimizer)
            scaler.update()
        return flat(model), (preconditioner or optimizer.preconditioner).state_dict()["curvatures"]

    scaled, plain = run(True), run(False)
    assert torch.equal(scaled[0], plain[0])
    assert same(scaled[1], plain[1])


def test_the_scale_of_the_loss_does_not_matter(method: str) -> None:
    paths = []
    for scale in (1.0, 2.0**-26, 2.0**26):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 4, bias=False))
        optimizer = OPTIMIZERS[method](model, base=Base.MOMENTUM, rules={"2.weight": "kron"})  # AdamW's eps is on a scale of its own
        for batch in BATCHES:
            optimizer.zero_grad()
            (model(batch.float()).square().mean() * scale).backward()
            optimizer.step()
        paths.append(flat(model))
    assert torch.equal(paths[1], paths[0])
    assert torch.equal(paths[2], paths[0])


def test_preconditioned_gradients_keep_their_length_and_others_are_left_alone(method: str) -> None:
    model = conv_net()
    preconditioner = PRECONDITIONERS[method](model, exclude=("5.*",))
    model(random(8, 2, 8, 8)).square().mean().backward()
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    preconditioner.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter.grad, before[name])}
    assert changed == {"0.weight", "2.weight", "4.weight"}
    for name in changed:
        gradient = model.get_parameter(name).grad
        torch.testing.assert_close(gradient.norm(), before[name].norm(), rtol=1e-12, atol=0.0)
        assert float((gradient * before[name]).sum()) > 0.0


def test_updates_have_the_stated_size_and_weights_decay_by_themselves(method: str) -> None:
    model = dense_net()
    before = copy.deepcopy(model.state_dict())
    train(model, OPTIMIZERS[method](model, base=Base.MOMENTUM, lr=0.5, weight_decay=0.1), BATCHES[:1])
    update = model[0].weight.detach() - 0.95 * before["0.weight"]
    torch.testing.assert_close(update.square().mean().sqrt(), torch.tensor(0.2 * 0.5, dtype=torch.float64))
    still = dense_net()
    train(still, OPTIMIZERS[method](still, lr=0.0, weight_decay=0.1), BATCHES[:2])
    assert torch.equal(flat(still), flat(dense_net()))


def test_before_adamw_the_whole_optimizer_is_the_preconditioner_and_adamw(method: str) -> None:
    whole, pair = dense_net(), dense_net()
    expected = train(whole, OPTIMIZERS[method](whole, base=Base.ADAMW, lr=0.05, weight_decay=0.1), BATCHES)
    preconditioner = PRECONDITIONERS[method](pair, exclude=("4.*",))
    optimizer = torch.optim.AdamW(pair.parameters(), lr=0.05, weight_decay=0.1)
    for batch in BATCHES:
        optimizer.zero_grad()
        pair(batch).square().mean().backward()
        preconditioner.step()
        optimizer.step()
    torch.testing.assert_close(flat(pair), expected, rtol=1e-10, atol=1e-12)


def test_averages_and_curvature_of_half_precision_weights_are_single(method: str) -> None:
    model = dense_net(torch.bfloat16)
    optimizer = OPTIMIZERS[method](model, base=Base.MOMENTUM)
    train(model, optimizer, [batch.bfloat16() for batch in BATCHES[:2]])
    saved = optimizer.state_dict()["secant"]
    tensors = [*saved["averages"].values()]
    pending = [saved["preconditioner"]["curvatures"]]
    while pending:
        for value in pending.pop().values():
            pending.extend([value] if isinstance(value, dict) else [])
            tensors.extend([value] if isinstance(value, Tensor) else [])
    assert len(tensors) > 2
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_what_was_not_called_or_is_frozen_stays(method: str) -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.used, self.unused, self.frozen, self.last = (nn.Linear(6, 6) for _ in range(4))
            self.scale, self.shift = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(6))
            self.frozen.requires_grad_(False)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.last(torch.tanh(self.frozen(self.used(inputs) * self.scale + self.shift)))

    model = Partial().double()
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match=r"the model itself \(Partial\)"):
        preconditioner = PRECONDITIONERS[method](model)
    preconditioner.remove()
    optimizer = OPTIMIZERS[method](model)
    train(model, optimizer, BATCHES[:3])
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"used.weight", "used.bias", "last.weight", "last.bias", "scale", "shift"}
    train(model.requires_grad_(True), optimizer, BATCHES[3:])
    assert not torch.equal(model.frozen.weight, before["frozen.weight"])


def test_an_empty_batch_is_a_step_without_a_gradient(method: str) -> None:
    model = dense_net()
    train(model, OPTIMIZERS[method](model), [random(0, 6)])
    optimizer = OPTIMIZERS[method](model)
    before = flat(model)
    optimizer.zero_grad()
    model(random(0, 6)).sum().backward()
    optimizer.step()
    assert torch.equal(flat(model), before)


def test_a_weight_that_is_used_behind_the_taps_is_an_error_with_the_remedy(method: str) -> None:
    model = dense_net()
    optimizer = OPTIMIZERS[method](model)
    functional.linear(BATCHES[0], model[0].weight).sum().backward()
    with pytest.raises(RuntimeError, match=r"got none for 0\.weight.*apply the layers by calling them"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()  # all zeros: nobody used it


def test_zero_grad_drops_the_captures_too(method: str) -> None:
    models = [dense_net(), dense_net()]
    for model, wasted in zip(models, (False, True), strict=True):
        optimizer = OPTIMIZERS[method](model)
        if wasted:
            model(BATCHES[5]).sum().backward()
        train(model, optimizer, BATCHES[:2])
    assert torch.equal(flat(models[0]), flat(models[1]))


def test_passes_between_corrections_are_not_captured(method: str) -> None:
    model = dense_net()
    optimizer = OPTIMIZERS[method](model, every=3)
    states = []
    for batch in BATCHES:
        train(model, optimizer, [batch])
        states.append(optimizer.preconditioner.state_dict()["curvatures"])
    assert [same(one, other) for one, other in itertools.pairwise(states)] == [True, True, False, True, True]


def test_a_closure_is_called_once_and_its_loss_returned(method: str) -> None:
    model, calls = dense_net(), []
    optimizer = OPTIMIZERS[method](model)

    def closure() -> Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = model(BATCHES[0]).square().mean()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert len(calls) == 1
    plain = dense_net()
    assert torch.equal(loss, plain(BATCHES[0]).square().mean())
    assert torch.equal(flat(model), train(plain, OPTIMIZERS[method](plain), BATCHES[:1]))


def test_a_model_and_its_optimizer_are_copied_together(method: str) -> None:
    model = dense_net()
    optimizer = OPTIMIZERS[method](model)
    train(model, optimizer, BATCHES[:2])
    other, other_optimizer = copy.deepcopy((model, optimizer))
    expected = train(model, optimizer, BATCHES[2:])
    assert torch.equal(train(other, other_optimizer, BATCHES[2:]), expected)


def test_parameters_of_another_module_can_be_added(method: str) -> None:
    model, extra = dense_net(), nn.Linear(3, 3, dtype=torch.float64)
    optimizer = OPTIMIZERS[method](model)
    optimizer.add_param_group({"params": list(extra.parameters()), "lr": 0.1})
    before = flat(extra)
    extra(model(BATCHES[0])).square().mean().backward()
    optimizer.step()
    assert not torch.equal(flat(extra), before)
    with pytest.raises(ValueError, match="lr"):
        optimizer.add_param_group({"params": [torch.zeros(2, requires_grad=True)], "lr": -1.0})
    assert len(optimizer.param_groups) == 2


def test_routing_says_who_trains_what_and_rules_overrule_it(method: str) -> None:
    model = dense_net()
    optimizer = OPTIMIZERS[method](model)
    assert [route.name for route in optimizer.routing() if route.rule.value == "kron"] == ["0.weight", "2.weight"]
    optimizer.preconditioner.remove()
    other = OPTIMIZERS[method](model, rules={"0.*": "adamw", "4.weight": "kron"})
    assert list(other.preconditioner.taps.weights) == ["2.weight", "4.weight"]


@pytest.mark.parametrize(
    "options",
    [{"lr": -1.0}, {"momentum": 1.0}, {"betas": (0.9, 1.0)}, {"eps": -1.0}, {"every": 0}, {"factor_decay": 1.0}, {"damping": 0.0}, {"weight_decay": -0.1}],
)
def test_options_out_of_range_are_refused_and_leave_the_model_as_it_was(method: str, options: dict[str, Any]) -> None:
    model = dense_net()
    with pytest.raises(ValueError, match=next(iter(options)).removesuffix("s")):
        OPTIMIZERS[method](model, **options)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_state_of_another_method_or_model_is_refused(method: str) -> None:
    model = dense_net()
    preconditioner = PRECONDITIONERS[method](model)
    other = PRECONDITIONERS[METHODS[METHODS.index(method) - 1]](dense_net())
    with pytest.raises(ValueError, match="saved by"):
        preconditioner.load_state_dict(other.state_dict())
    model(BATCHES[0]).sum().backward()
    preconditioner.step()
    with pytest.raises(ValueError, match=r"4\.weight"):
        PRECONDITIONERS[method](dense_net(), exclude=("4.*",)).load_state_dict(preconditioner.state_dict())
    with pytest.raises(ValueError, match="without the entry"):
        OPTIMIZERS[method](dense_net()).load_state_dict(torch.optim.AdamW(model.parameters()).state_dict())


def test_one_warning_names_all_that_is_left_to_the_base_optimizer(method: str) -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.GRU(3, 2))
    with pytest.warns(UserWarning, match=r"0 \(Embedding\), 1 \(LayerNorm\), 3 \(GRU\)\.") as caught:
        PRECONDITIONERS[method](model)
    assert len(caught) == 1
    assert caught[0].filename == __file__
