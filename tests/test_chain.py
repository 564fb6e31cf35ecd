"""Optimizers that take turns behave as one optimizer of torch, and leave no trace of the switch but the switch."""

from __future__ import annotations

import copy
import functools
import io
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, SequentialLR

import secant
from secant import Chain, Iterations, Outcome, SSBroyden, Stage, Stall
from secant.chain.until import Elapsed

STEPS, SWITCH = 30, 12


class Net:
    """A small net on fixed data, with closures of both kinds that count their calls."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)
        self.inputs = torch.randn(24, 2, dtype=dtype)
        self.targets = torch.sin(self.inputs.sum(dim=1, keepdim=True))
        self.calls = 0

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.model.parameters())

    def loss(self) -> Tensor:
        self.calls += 1
        return (self.model(self.inputs) - self.targets).square().mean()

    def backward(self) -> Tensor:
        self.model.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss

    def flat(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])


def adam(groups: Any) -> Adam:
    return Adam(groups, lr=0.01)


def stages(count: int = SWITCH) -> list[Stage]:
    return [Stage(adam, until=Iterations(count)), Stage(SSBroyden)]


def drive(chain: torch.optim.Optimizer, closure: Callable[[], Any], steps: int) -> list[float]:
    return [float(chain.step(closure)) for _ in range(steps)]


def through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Clock:
    """Moves on by what it is told, at every look."""

    def __init__(self, seconds: float = 0.5) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


# ---- the chain is its stages, one after the other


@pytest.mark.parametrize("closure", ["loss", "backward"])
def test_chain_walks_the_path_of_its_optimizers_by_hand(closure: str) -> None:
    chained, by_hand = Net(), Net()
    chain = Chain(chained.parameters, stages())
    losses = drive(chain, getattr(chained, closure), STEPS)
    first = Adam(by_hand.parameters, lr=0.01)
    expected = [first.step(by_hand.backward).item() for _ in range(SWITCH)]
    expected += drive(SSBroyden(by_hand.parameters), getattr(by_hand, closure), STEPS - SWITCH)
    assert losses == expected
    assert torch.equal(chained.flat(), by_hand.flat())
    assert chained.calls == by_hand.calls


@pytest.mark.parametrize("closure", ["loss", "backward"])
def test_adam_evaluates_once_per_step_and_a_switch_not_at_all(closure: str) -> None:
    net = Net()
    chain = Chain(net.parameters, stages())
    for number in range(1, SWITCH + 1):
        chain.step(getattr(net, closure))
        assert net.calls == number
    assert isinstance(chain.optimizer, SSBroyden)
    chain.step(getattr(net, closure))
    assert net.calls - SWITCH == chain.optimizer.counts.losses


def test_next_stage_is_built_when_it_is_reached_and_once() -> None:
    built: list[str] = []

    def build(groups: Any, name: str) -> Adam:
        built.append(name)
        return adam(groups)

    net = Net()
    chain = Chain(net.parameters, [Stage(functools.partial(build, name=name), until=Iterations(2)) for name in "abc"])
    seen = []
    for _ in range(6):
        chain.step(net.loss)
        seen.append("".join(built))
    assert seen == ["a", "ab", "ab", "abc", "abc", "abc"]


def test_lbfgs_of_torch_takes_a_closure_that_only_returns_the_loss() -> None:
    chained, by_hand = Net(), Net()
    chain = Chain(chained.parameters, [Stage(adam, until=Iterations(3)), Stage(functools.partial(torch.optim.LBFGS, line_search_fn="strong_wolfe"))])
    losses = drive(chain, chained.loss, 6)
    first = Adam(by_hand.parameters, lr=0.01)
    expected = [first.step(by_hand.backward).item() for _ in range(3)]
    second = torch.optim.LBFGS(by_hand.parameters, line_search_fn="strong_wolfe")
    expected += [second.step(by_hand.backward).item() for _ in range(3)]
    assert losses == expected
    assert chained.calls == by_hand.calls


def test_loss_is_returned_detached_and_as_it_was_at_the_start_of_the_step() -> None:
    net = Net()
    chain = Chain(net.parameters, stages())
    start = net.loss().item()
    loss = chain.step(net.loss)
    assert loss is not None
    assert loss.item() == start
    assert not loss.requires_grad
    assert loss.shape == ()


def test_closure_that_reuses_the_memory_of_its_loss_gets_every_value_reported() -> None:
    net = Net()
    memory = torch.zeros((), dtype=torch.float64)

    def closure() -> Tensor:
        memory.copy_(net.backward().detach())
        return memory

    losses = [loss for _ in range(4) if (loss := Chain(net.parameters, stages()).step(closure)) is not None]
    assert len({loss.item() for loss in losses}) == 4


def test_closure_may_return_a_number_after_backward() -> None:
    one, other = Net(), Net()
    first = drive(Chain(one.parameters, stages()), lambda: one.backward().item(), SWITCH)
    second = drive(Chain(other.parameters, stages()), other.backward, SWITCH)
    assert first == second


def test_gradients_made_ready_with_zeros_are_not_taken_for_a_backward_pass() -> None:
    net, plain = Net(), Net()

    def closure() -> Tensor:
        for parameter in net.parameters:
            parameter.grad = torch.zeros_like(parameter)
        return net.loss()

    assert drive(Chain(net.parameters, stages()), closure, SWITCH) == drive(Chain(plain.parameters, stages()), plain.loss, SWITCH)


def test_backward_pass_whose_gradient_is_zero_is_not_repeated() -> None:
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def closure() -> Tensor:
        loss = (x * x).sum()
        loss.backward()
        return loss.detach()

    assert drive(Chain([x], stages()), closure, 2) == [0.0, 0.0]


def test_gradients_that_the_closure_assigned_are_used() -> None:
    net, plain = Net(), Net()

    def closure() -> Tensor:
        loss = net.loss()
        for parameter, grad in zip(net.parameters, torch.autograd.grad(loss, net.parameters), strict=True):
            parameter.grad = grad
        return loss.detach()

    assert drive(Chain(net.parameters, stages()), closure, SWITCH) == drive(Chain(plain.parameters, stages()), plain.loss, SWITCH)


def test_leaves_outside_the_optimizer_collect_no_gradient() -> None:
    net = Net()
    net.inputs.requires_grad_()
    Chain(net.parameters, stages()).step(net.loss)
    assert net.inputs.grad is None


@pytest.mark.parametrize(
    ("closure", "error", "says"),
    [
        (lambda net: net.backward() and None, TypeError, "return loss"),
        (lambda net: net.loss().item(), RuntimeError, "without a graph"),
        (lambda net: net.model(net.inputs), ValueError, "one real number"),
        (lambda net: torch.ones((), requires_grad=True) * 2.0, RuntimeError, "No trainable parameter"),
    ],
)
def test_closure_without_a_usable_loss_is_refused_and_no_step_is_counted(closure: Callable[[Net], Any], error: type[Exception], says: str) -> None:
    net = Net()
    before = net.flat()
    chain = Chain(net.parameters, stages())
    with pytest.raises(error, match=says):
        chain.step(lambda: closure(net))
    assert chain.elapsed.iterations == 0
    assert torch.equal(net.flat(), before)


def test_bare_steps_train_and_count_until_a_stage_needs_a_closure() -> None:
    net, by_hand = Net(), Net()
    chain, reference = Chain(net.parameters, stages(3)), Adam(by_hand.parameters, lr=0.01)
    for _ in range(3):
        chain.zero_grad()
        net.loss().backward()
        assert chain.step() is None
        by_hand.backward()
        reference.step()
    assert torch.equal(net.flat(), by_hand.flat())
    assert chain.stage == 1
    with pytest.raises(TypeError, match=r"SSBroyden\.step needs a closure"):
        chain.step()


def test_stall_refuses_a_bare_step_before_anything_moves() -> None:
    net = Net()
    chain = Chain(net.parameters, [Stage(adam, until="stall"), Stage(SSBroyden)])
    net.backward()
    before = net.flat()
    with pytest.raises(TypeError, match="Stall judges the loss"):
        chain.step()
    assert torch.equal(net.flat(), before)


def test_gradient_scaler_steps_the_current_stage() -> None:
    net, plain = Net(torch.float32), Net(torch.float32)
    chain, reference = Chain(net.parameters, stages(3)), Adam(plain.parameters, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for number in range(3):
        chain.zero_grad()
        scaler.scale(net.loss()).backward()
        if number == 1:
            net.parameters[0].grad[0, 0] = math.inf  # type: ignore[index]
        else:
            plain.backward()
            reference.step()
        scaler.step(chain)
        scaler.update()
    assert chain.elapsed.iterations == 2  # the overflow was skipped
    assert torch.equal(net.flat(), plain.flat())


# ---- when a stage ends


def test_outcome_that_stops_ends_the_stage_and_its_sentence_is_the_reason() -> None:
    x = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
    chain = Chain([x], [Stage(functools.partial(SSBroyden, gradient_tolerance=1e-6), until=Iterations(1000)), Stage(adam)])

    def bowl() -> Tensor:
        return (x * x * torch.tensor([1.0, 5.0])).sum()

    while chain.stage == 0:
        chain.step(bowl)
        assert chain.elapsed.iterations < 50
    assert chain.switches[0].reason == Outcome.CONVERGED.sentence
    assert chain.outcome is None
    assert x.abs().max() < 1e-5  # the new stage starts from the point that was kept
    chain.step(bowl)
    assert isinstance(chain.optimizer, Adam)


def test_callback_that_stops_ends_its_stage() -> None:
    def callback(iteration: secant.optimizer.Iteration) -> None:
        if iteration.number == 4:
            raise StopIteration

    net = Net()
    chain = Chain(net.parameters, [Stage(functools.partial(SSBroyden, callback=callback), until=Iterations(100)), Stage(SSBroyden)])
    drive(chain, net.loss, 5)
    assert chain.stage == 1
    assert chain.switches[0].iterations == 4


def test_last_stage_goes_on_past_its_end_and_says_that_it_is_finished() -> None:
    net = Net()
    chain = Chain(net.parameters, [Stage(adam, until=Iterations(2)), Stage(adam, until=Iterations(3))])
    finished = []
    for _ in range(7):
        chain.step(net.loss)
        finished.append(chain.finished)
    assert finished == [False, False, False, False, True, True, True]
    assert (chain.stage, chain.elapsed.iterations, len(chain.switches)) == (1, 5, 1)


def test_switches_tell_what_after_how_long_and_why() -> None:
    net = Net()
    chain = Chain(net.parameters, stages(4), clock=Clock())
    drive(chain, net.loss, 6)
    (switch,) = chain.switches
    assert str(switch) == "Adam -> SSBroyden after 4 iterations (2 s): Its iterations are done."


def test_stage_that_cannot_be_built_leaves_the_chain_where_it_was() -> None:
    net = Net()
    chain = Chain(net.parameters, [Stage(adam, until=Iterations(2)), Stage(functools.partial(SSBroyden, lr=-1.0))])
    chain.step(net.loss)
    for _ in range(2):
        with pytest.raises(ValueError, match="lr"):
            chain.step(net.loss)
    assert chain.stage == 0
    assert chain.switches == ()
    assert chain.elapsed.iterations == 3
    assert isinstance(chain.optimizer, Adam)


def measured(losses: list[float], stall: Stall, seconds: float | Callable[[int], float] = 1.0) -> int | None:
    """The number of steps after which the stage ends; None when it does not."""
    elapsed = Elapsed()
    for number, loss in enumerate(losses, start=1):
        spent = seconds(number) if callable(seconds) else seconds
        elapsed = stall.after(elapsed, loss, lambda spent=spent: spent)
        if stall.reason(elapsed) is not None:
            return number
    return None


def noisy(losses: list[float]) -> list[float]:
    noise = torch.randn(len(losses), generator=torch.Generator().manual_seed(1)).tolist()
    return [loss * math.exp(0.2 * n) for loss, n in zip(losses, noise, strict=True)]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_power_law_runs_as_long_as_the_docstring_says(power: float) -> None:
    end = measured([k**-power for k in range(1, 5000)], Stall(window=20, share=0.05, patience=1))
    assert end is not None
    assert 1.2 <= end / 20 * 0.05 <= 2.4


def test_exponential_decay_never_stalls_and_its_plateau_does() -> None:
    falling = [0.99**k for k in range(2000)]
    assert measured(noisy(falling), Stall()) is None
    plateau = falling + [falling[-1]] * 1000
    end = measured(noisy(plateau), Stall())
    assert end is not None
    assert 2000 < end <= 2600


def test_stall_does_not_depend_on_the_unit_of_the_loss_or_of_time() -> None:
    losses = noisy([1.0 / k + 1e-3 for k in range(1, 4000)])
    end = measured(losses, Stall())
    assert end is not None
    assert end == measured([2.0**-60 * loss for loss in losses], Stall())
    assert end == measured(losses, Stall(), seconds=2.0**-10)


def test_losses_below_zero_are_judged_like_others() -> None:
    falling = [-(k**0.8) for k in range(1, 1500)]
    assert measured(falling + [falling[-1]] * 1000, Stall(share=0.05)) == 1700  # the windows of 1501 to 1600 and to 1700 are flat
    crossing = [1.0 - 0.002 * k for k in range(1200)]
    assert measured(crossing, Stall(share=0.02)) is None


def test_rising_loss_is_a_stall_from_the_first_windows_on() -> None:
    assert measured([1.0 + 0.01 * k for k in range(1000)], Stall(window=10, patience=2)) == 30
    assert measured([0.0] * 100, Stall(window=10, patience=2)) == 30


def test_one_spike_and_the_way_back_neither_end_a_stage_nor_count_as_progress() -> None:
    losses = [0.99**k for k in range(1000)]
    spiked = [loss * (1e6 if k % 37 == 0 else 1.0) for k, loss in enumerate(losses)]
    assert measured(spiked, Stall()) is None
    thrown_up = [1.0] * 20 + [100.0] * 10 + [1.0] * 30
    assert measured(thrown_up, Stall(window=10, patience=4)) == 50


def test_speed_is_per_second_and_not_per_step() -> None:
    losses = [0.999**k for k in range(3000)]
    assert measured(losses, Stall(), seconds=1.0) is None
    assert measured(losses, Stall(), seconds=lambda number: 1.0 if number <= 1000 else 100.0) == 1200


def test_clock_without_resolution_does_not_divide_by_zero() -> None:
    assert measured([0.99**k for k in range(1000)], Stall(window=10), seconds=0.0) is None


def test_losses_that_are_not_finite_are_left_out_of_a_window() -> None:
    losses = noisy([1.0 / k + 1e-3 for k in range(1, 4000)])
    assert measured([math.nan if k % 5 == 0 else loss for k, loss in enumerate(losses)], Stall()) is not None


def test_lost_run_does_not_switch_silently() -> None:
    net = Net()
    chain = Chain(net.parameters, [Stage(adam, until=Stall(window=5, patience=1)), Stage(SSBroyden)])
    drive(chain, net.loss, 5)
    net.targets[:] = math.nan
    with pytest.warns(UserWarning, match="None of the last 5 losses was finite") as caught:
        drive(chain, net.loss, 5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drive(chain, net.loss, 50)
    assert chain.stage == 0


def test_stall_ends_adam_and_one_instance_serves_two_chains() -> None:
    stall = Stall(window=5, patience=2)
    ends = []
    for _ in range(2):
        x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        chain = Chain([x], [Stage(functools.partial(SGD, lr=0.5), until=stall), Stage(SGD)], clock=Clock())
        while chain.stage == 0:
            chain.step(lambda x=x: (x * x).sum() + 1.0)  # at its minimum after one step
            assert chain.elapsed.iterations < 100
        ends.append(chain.switches)
    assert ends[0] == ends[1]
    assert ends[0][0].iterations == 15
    assert ends[0][0].reason.startswith("Stalled: over 2 windows of 5 iterations the loss did not fall")


def test_maximized_loss_that_rises_is_no_stall() -> None:
    ends = {}
    for maximize, sign in ((True, 1.0), (False, -1.0)):
        x = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        build = functools.partial(SGD, lr=1e-3, maximize=maximize)
        chain = Chain([x], [Stage(build, until=Stall(window=5, patience=1)), Stage(SGD)], clock=Clock())
        drive(chain, lambda x=x, sign=sign: sign * (x * x).sum(), 60)
        ends[maximize] = chain.stage
    assert ends == {True: 0, False: 0}


def test_time_between_the_steps_does_not_count() -> None:
    net, clock = Net(), Clock(0.0)
    chain = Chain(net.parameters, stages(), clock=clock)

    def slow() -> Tensor:
        clock.now += 2.0
        return net.loss()

    for _ in range(3):
        clock.now += 1000.0
        chain.step(slow)
    assert chain.elapsed.seconds == 6.0


# ---- resume


@pytest.mark.parametrize("cut", [0, 1, 7, SWITCH - 1, SWITCH, SWITCH + 1, 20])
def test_resumed_run_goes_on_bit_for_bit(cut: int) -> None:
    undisturbed = Net()
    expected = drive(Chain(undisturbed.parameters, stages()), undisturbed.loss, STEPS)
    net = Net()
    chain = Chain(net.parameters, stages())
    assert drive(chain, net.loss, cut) == expected[:cut]
    saved = through_a_file({"model": net.model.state_dict(), "chain": chain.state_dict()})
    again = Net()
    again.model.load_state_dict(saved["model"])
    resumed = Chain(again.parameters, stages())
    resumed.load_state_dict(saved["chain"])
    assert (resumed.stage, resumed.elapsed, resumed.switches) == (chain.stage, chain.elapsed, chain.switches)
    assert drive(resumed, again.loss, STEPS - cut) == expected[cut:]
    assert torch.equal(again.flat(), undisturbed.flat())


def test_state_is_taken_over_by_a_chain_that_stands_elsewhere() -> None:
    undisturbed = Net()
    expected = drive(Chain(undisturbed.parameters, stages()), undisturbed.loss, STEPS)
    net = Net()
    chain = Chain(net.parameters, stages())
    drive(chain, net.loss, 5)
    early = through_a_file({"model": net.model.state_dict(), "chain": chain.state_dict()})
    drive(chain, net.loss, STEPS - 5)
    assert chain.stage == 1
    net.model.load_state_dict(early["model"])
    chain.load_state_dict(early["chain"])
    assert chain.stage == 0
    assert drive(chain, net.loss, STEPS - 5) == expected[5:]


def test_options_of_a_later_stage_are_gone_when_an_earlier_state_is_loaded() -> None:
    net = Net()
    chain = Chain(net.parameters, [Stage(SSBroyden, until=Iterations(2)), Stage(adam)])
    group, early = chain.param_groups[0], through_a_file(chain.state_dict())
    drive(chain, net.loss, 3)
    assert "betas" in group
    chain.load_state_dict(early)
    assert chain.param_groups[0] is group
    assert "betas" not in group


def test_window_in_progress_is_resumed() -> None:
    def build(net: Net) -> Chain:
        return Chain(net.parameters, [Stage(adam, until=Stall(window=8, share=0.5, patience=1)), Stage(SSBroyden)], clock=Clock())

    undisturbed = Net()
    whole = build(undisturbed)
    drive(whole, undisturbed.loss, 60)
    assert whole.stage == 1
    for cut in (3, 8, 13):
        net = Net()
        chain = build(net)
        drive(chain, net.loss, cut)
        saved = through_a_file(chain.state_dict())
        assert all(isinstance(loss, float) for loss in saved["secant"]["elapsed"]["losses"])
        resumed = build(net)
        resumed.load_state_dict(saved)
        drive(resumed, net.loss, 60 - cut)
        assert resumed.switches == whole.switches
        assert torch.equal(net.flat(), undisturbed.flat())


@pytest.mark.parametrize("cut", [5, SWITCH, 20])
def test_scheduler_and_chain_resume_together(cut: int) -> None:
    def build(net: Net) -> tuple[Chain, LambdaLR]:
        chain = Chain(net.parameters, stages())
        return chain, LambdaLR(chain, lambda step: 1.0 / (1.0 + 0.05 * step))

    def run(net: Net, chain: Chain, scheduler: LambdaLR, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            losses += drive(chain, net.loss, 1)
            scheduler.step()
        return losses

    undisturbed = Net()
    expected = run(undisturbed, *build(undisturbed), STEPS)
    net = Net()
    chain, scheduler = build(net)
    run(net, chain, scheduler, cut)
    saved = through_a_file({"chain": chain.state_dict(), "scheduler": scheduler.state_dict()})
    resumed, again = build(net)
    again.load_state_dict(saved["scheduler"])
    resumed.load_state_dict(saved["chain"])
    assert run(net, resumed, again, STEPS - cut) == expected[cut:]


def test_states_of_other_optimizers_stages_and_groups_are_refused_and_change_nothing() -> None:
    net = Net()
    chain = Chain(net.parameters, stages())
    drive(chain, net.loss, 3)
    before = copy.deepcopy(chain.state_dict())
    first, last = net.parameters[:2], net.parameters[2:]
    two_groups = Chain([{"params": first}, {"params": last}], stages())
    longer = Chain(net.parameters, [Stage(adam, until=Iterations(1)), Stage(adam, until=Iterations(1)), Stage(adam)])
    flat = net.flat()
    drive(longer, net.loss, 3)
    refused = {
        "one of another optimizer": Adam(net.parameters).state_dict(),
        "saved by Chain": SSBroyden(net.parameters).state_dict(),
        r"groups of \[4\] parameters, got one for \[2, 2\]": two_groups.state_dict(),
        "one of 2 stages, got one of stage 2": longer.state_dict(),
        "stage 0 by Adam, got one by SGD": Chain(net.parameters, [Stage(SGD)]).state_dict(),
    }
    vector_to = torch.nn.utils.vector_to_parameters
    vector_to(flat, net.model.parameters())
    for says, state in refused.items():
        with pytest.raises(ValueError, match=says):
            chain.load_state_dict(state)
    after = chain.state_dict()
    assert after["secant"]["elapsed"] == before["secant"]["elapsed"]
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(after["state"][k]["exp_avg"], before["state"][k]["exp_avg"]) for k in before["state"])


def test_deep_copies_run_the_same_path_on_their_own() -> None:
    for cut in (5, SWITCH, 20):
        net = Net()
        chain = Chain(net.parameters, stages())
        drive(chain, net.loss, cut)
        other, copied = copy.deepcopy((net, chain))
        expected = drive(chain, net.loss, STEPS - cut)
        assert drive(copied, other.loss, STEPS - cut) == expected
        assert copied.param_groups[0] is copied.optimizer.param_groups[0]
        assert copied.state is copied.optimizer.state


def test_functions_of_a_module_are_pickled_and_lambdas_are_not() -> None:
    net = Net()
    chain = Chain(net.parameters, stages())
    drive(chain, net.loss, 5)
    other, copied = pickle.loads(pickle.dumps((net, chain)))
    assert drive(copied, other.loss, 20) == drive(chain, net.loss, 20)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(Chain(net.parameters, [Stage(lambda groups: Adam(groups))]))


# ---- groups


def test_groups_keep_their_identity_and_their_options_through_a_switch() -> None:
    net = Net()
    first = {"params": net.parameters[:2], "weight_decay": 0.25, "name": "first"}
    second = {"params": net.parameters[2:]}
    chain = Chain([first, second], stages(3))
    assert [group["weight_decay"] for group in chain.param_groups] == [0.25, 0]
    drive(chain, net.loss, 5)
    assert chain.param_groups[0] is first
    assert chain.param_groups[1] is second
    assert chain.optimizer.param_groups[0] is first
    assert [group["weight_decay"] for group in chain.param_groups] == [0.25, 0.0]
    assert first["name"] == "first"
    assert [group["lr"] for group in chain.param_groups] == [1.0, 1.0]


def test_option_of_a_group_that_was_changed_stays_changed_and_one_of_a_stage_ends_with_it() -> None:
    net = Net()
    chain = Chain([{"params": net.parameters, "weight_decay": 0.25}], [Stage(adam, until=Iterations(2)), Stage(adam)])
    chain.param_groups[0]["weight_decay"] = 0.5
    chain.param_groups[0]["betas"] = (0.5, 0.9)
    drive(chain, net.loss, 2)
    assert chain.param_groups[0]["weight_decay"] == 0.5
    assert chain.param_groups[0]["betas"] == (0.9, 0.999)


def test_named_parameters_keep_their_names() -> None:
    net = Net()
    chain = Chain(net.model.named_parameters(), stages(2))
    drive(chain, net.loss, 3)
    assert chain.optimizer.param_groups[0]["param_names"] == [name for name, _ in net.model.named_parameters()]


def test_parameters_frozen_at_the_start_or_on_the_way_stay() -> None:
    net = Net()
    weight, bias = net.parameters[0], net.parameters[1]
    weight.requires_grad_(False)
    chain = Chain(net.parameters, stages(4))
    frozen = weight.clone()
    drive(chain, net.loss, 2)
    bias.requires_grad_(False)  # its gradient and its averages are still there
    resting = bias.clone()
    drive(chain, net.loss, 6)
    assert torch.equal(weight, frozen)
    assert torch.equal(bias, resting)
    assert isinstance(chain.optimizer, SSBroyden)
    assert chain.optimizer.size == 7
    weight.requires_grad_(True)
    drive(chain, net.loss, 1)
    assert not torch.equal(weight, frozen)


@pytest.mark.parametrize("added_after", [2, 6])
def test_group_added_on_the_way_is_trained_by_this_stage_and_the_next(added_after: int) -> None:
    net = Net()
    chain = Chain(net.parameters[:2], stages(4))
    drive(chain, net.loss, added_after)
    group = {"params": net.parameters[2:], "weight_decay": 0.125}
    before = [parameter.clone() for parameter in net.parameters]
    chain.add_param_group(group)
    assert chain.param_groups[1] is group
    drive(chain, net.loss, 1)
    assert not any(torch.equal(a, b) for a, b in zip(before, net.parameters, strict=True))
    drive(chain, net.loss, 4)
    assert chain.stage == 1
    assert chain.optimizer.param_groups[1] is group
    assert group["weight_decay"] == 0.125
    saved = through_a_file({"model": net.model.state_dict(), "chain": chain.state_dict()})
    again = Net()
    again.model.load_state_dict(saved["model"])
    resumed = Chain(again.parameters[:2], stages(4))
    resumed.add_param_group({"params": again.parameters[2:], "weight_decay": 0.125})
    resumed.load_state_dict(saved["chain"])
    assert drive(resumed, again.loss, 5) == drive(chain, net.loss, 5)


def test_group_that_is_refused_is_not_added() -> None:
    net = Net()
    chain = Chain(net.parameters[:2], stages(1))
    drive(chain, net.loss, 2)
    for group, error in (({"params": net.parameters[:1]}, ValueError), ({"params": net.parameters[2:], "lr": -1.0}, ValueError), ([], TypeError)):
        with pytest.raises(error):
            chain.add_param_group(group)  # type: ignore[arg-type]
    assert len(chain.param_groups) == len(chain.optimizer.param_groups) == 1
    drive(chain, net.loss, 2)


def test_adam_state_is_seen_in_the_chain() -> None:
    net = Net()
    chain = Chain(net.parameters, stages(4))
    drive(chain, net.loss, 2)
    assert set(chain.state[net.parameters[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    drive(chain, net.loss, 4)
    assert not chain.state


def test_layerwise_stage_runs_with_closures_of_both_kinds() -> None:
    ends = []
    for kind in ("loss", "backward"):
        net = Net(torch.float32)
        chain = Chain(net.model.named_parameters(), [Stage(secant.RankOneKron, until=Iterations(5)), Stage(SSBroyden)])
        drive(chain, getattr(net, kind), 8)
        assert chain.stage == 1
        ends.append(net.flat())
    assert torch.equal(*ends)


# ---- learning rates and schedulers


@pytest.fixture
def net() -> Net:
    return Net()


def rates_used(chain: Chain, net: Net, scheduler: Any, steps: int) -> Iterator[tuple[str, float]]:
    """Which optimizer stepped with which learning rate, as seen from inside the step."""
    for _ in range(steps):
        seen: list[float] = []

        def closure(seen: list[float] = seen) -> Tensor:
            seen.append(float(chain.optimizer.param_groups[0]["lr"]))
            return net.loss()

        name, promised = type(chain.optimizer).__name__, chain.learning_rates[0]
        loss = chain.step(closure)
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(loss)
        elif scheduler is not None:
            scheduler.step()
        assert seen[0] == promised
        yield name, seen[0]


def test_new_stage_starts_at_its_own_rate_and_takes_the_rate_that_is_written(net: Net) -> None:
    chain = Chain(net.parameters, stages(3))
    chain.param_groups[0]["lr"] = 0.002
    assert [rate for _, rate in rates_used(chain, net, None, 4)] == [0.002, 0.002, 0.002, 1.0]
    chain.param_groups[0]["lr"] = 0.5
    assert [rate for _, rate in rates_used(chain, net, None, 2)] == [0.5, 0.5]


def test_rate_given_with_a_group_holds_in_every_stage(net: Net) -> None:
    chain = Chain([{"params": net.parameters[:2], "lr": 0.05}, {"params": net.parameters[2:]}], [Stage(adam, until=Iterations(2)), Stage(SGD)])
    assert chain.learning_rates == [0.05, 0.01]
    drive(chain, net.loss, 3)
    assert chain.learning_rates == [0.05, 0.001]


def test_lambda_is_a_factor_of_the_rate_of_whatever_stage_is_running(net: Net) -> None:
    chain = Chain(net.parameters, stages(3))
    scheduler = LambdaLR(chain, lambda step: 0.5**step)
    used = list(rates_used(chain, net, scheduler, 6))
    assert used == [("Adam", 0.01), ("Adam", 0.005), ("Adam", 0.0025), ("SSBroyden", 0.125), ("SSBroyden", 0.0625), ("SSBroyden", 0.03125)]
    assert chain.param_groups[0]["lr"] == 0.01 * 0.5**6  # in the unit that the scheduler knows


def test_lambda_may_leave_the_later_stages_at_their_own_rate(net: Net) -> None:
    chain = Chain(net.parameters, stages(3))
    scheduler = LambdaLR(chain, lambda step: 0.0 if step == 3 and chain.stage == 0 else (1.0 - step / 3 if chain.stage == 0 else 1.0))
    assert [rate for _, rate in rates_used(chain, net, scheduler, 5)][-2:] == [1.0, 1.0]


def factors(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    """What a schedule does to one optimizer, as factors of its rate."""
    x = torch.ones(1, requires_grad=True)
    optimizer = Adam([x], lr=0.01)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"] / 0.01)
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    "make",
    [
        lambda o: ExponentialLR(o, 0.8),
        lambda o: CosineAnnealingLR(o, 20),
        lambda o: CosineAnnealingLR(o, 4, eta_min=1e-3),
        lambda o: OneCycleLR(o, max_lr=0.03, total_steps=14, cycle_momentum=True),
        lambda o: SequentialLR(o, [LambdaLR(o, lambda step: 0.25 * (step + 1)), ExponentialLR(o, 0.9)], milestones=[4]),
    ],
    ids=["exponential", "cosine", "cosine and back", "one cycle", "sequential"],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_every_schedule_carries_on_through_the_switch_as_the_factor_it_is(make: Callable[[torch.optim.Optimizer], Any], net: Net) -> None:
    expected = factors(make, 12)
    chain = Chain(net.parameters, [Stage(adam, until=Iterations(5)), Stage(functools.partial(SGD, lr=0.5), until=Iterations(4)), Stage(SSBroyden)])
    used = list(rates_used(chain, net, make(chain), 12))
    own = {"Adam": 0.01, "SGD": 0.5, "SSBroyden": 1.0}
    assert [name for name, _ in used] == ["Adam"] * 5 + ["SGD"] * 4 + ["SSBroyden"] * 3
    assert [rate / own[name] for name, rate in used] == pytest.approx(expected, rel=1e-12)


def test_scheduler_leaves_the_first_stage_exactly_as_it_is_without_a_chain() -> None:
    chained, plain = Net(), Net()
    chain, reference = Chain(chained.parameters, stages(40)), Adam(plain.parameters, lr=0.01)
    schedulers = [CosineAnnealingLR(chain, 15), CosineAnnealingLR(reference, 15)]
    for _ in range(30):
        chain.step(chained.loss)
        reference.step(plain.backward)
        for scheduler in schedulers:
            scheduler.step()
    assert torch.equal(chained.flat(), plain.flat())


def test_scheduler_bound_after_the_switch_has_the_rate_of_that_stage_as_its_unit(net: Net) -> None:
    chain = Chain(net.parameters, [Stage(adam, until=Iterations(2)), Stage(functools.partial(SGD, lr=0.5), until=Iterations(2)), Stage(SSBroyden)])
    drive(chain, net.loss, 2)
    scheduler = LambdaLR(chain, lambda step: 0.5**step)
    assert list(rates_used(chain, net, scheduler, 4)) == [("SGD", 0.5), ("SGD", 0.25), ("SSBroyden", 0.25), ("SSBroyden", 0.125)]


def test_plateau_scheduler_reduces_the_rate_of_the_current_stage(net: Net) -> None:
    chain = Chain(net.parameters, stages(3))
    scheduler = ReduceLROnPlateau(chain, mode="max", patience=0, factor=0.5)  # a falling loss is a plateau of the maximum
    used = [rate for _, rate in rates_used(chain, net, scheduler, 6)]
    assert used[0] == 0.01
    assert used[2] < 0.01
    assert used[5] < used[3] <= 1.0
    assert used[3] >= 0.5


def test_schedule_that_has_died_out_at_the_switch_is_told(net: Net) -> None:
    chain = Chain(net.parameters, stages(30))
    scheduler = CosineAnnealingLR(chain, 30)
    with pytest.warns(UserWarning, match=r"schedule has brought the learning rate to .* where SSBroyden takes over") as caught:
        list(rates_used(chain, net, scheduler, 30))
    assert caught[0].filename == __file__
    assert chain.stage == 1


def test_rate_in_a_tensor_is_converted_too(net: Net) -> None:
    chain = Chain(net.parameters, [Stage(functools.partial(Adam, lr=torch.tensor(0.01)), until=Iterations(2)), Stage(SSBroyden)])
    scheduler = ExponentialLR(chain, 0.5)
    used = [rate for _, rate in rates_used(chain, net, scheduler, 4)]
    assert used == pytest.approx([0.01, 0.005, 0.25, 0.125], rel=1e-6)


def test_closure_that_raises_leaves_the_schedulers_rate_in_the_group(net: Net) -> None:
    chain = Chain(net.parameters, stages(1))
    LambdaLR(chain, lambda step: 0.5)
    chain.step(net.loss)

    def broken() -> Tensor:
        raise KeyError

    with pytest.raises(KeyError):
        chain.step(broken)
    assert chain.param_groups[0]["lr"] == 0.005
    assert chain.learning_rates == [0.5]


# ---- the border with torch


def test_hooks_of_the_chain_run_once_per_step_and_through_the_switch(net: Net) -> None:
    chain = Chain(net.parameters, stages(2))
    heard: list[str] = []
    chain.register_step_pre_hook(lambda optimizer, *_: heard.append(f"before {optimizer.stage}"))
    chain.register_step_post_hook(lambda optimizer, *_: heard.append(f"after {optimizer.stage}"))
    drive(chain, net.loss, 3)
    assert heard == ["before 0", "after 0", "before 0", "after 1", "before 1", "after 1"]


def test_hooks_of_the_state_run_once(net: Net) -> None:
    chain = Chain(net.parameters, stages(2))
    heard: list[str] = []
    chain.register_state_dict_pre_hook(lambda _: heard.append("saving"))
    chain.register_state_dict_post_hook(lambda *_: heard.append("saved"))
    chain.register_load_state_dict_pre_hook(lambda *_: heard.append("loading"))
    chain.register_load_state_dict_post_hook(lambda _: heard.append("loaded"))
    chain.load_state_dict(chain.state_dict())
    assert heard == ["saving", "saved", "loading", "loaded"]


def test_representation_shows_the_stages_and_where_it_stands(net: Net) -> None:
    chain = Chain(net.parameters, [Stage(adam, until=Iterations(1)), Stage(SSBroyden, until="stall"), Stage(SGD)])
    drive(chain, net.loss, 3)
    assert repr(chain).splitlines()[:4] == [
        "Chain (",
        "  Stage 0: Adam, 1 iteration. Its iterations are done.",
        "> Stage 1: SSBroyden, 2 iterations so far, until Stall(window=100, share=0.1, patience=2)",
        "  Stage 2: to come",
    ]
    assert "Parameter Group 0" in repr(chain)
    assert repr(chain).endswith(")")


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda p: Chain(p, []), ValueError, "at least one stage"),
        (lambda p: Chain(p, Stage(adam)), TypeError, "got one Stage"),  # type: ignore[arg-type]
        (lambda p: Chain(p, [adam]), TypeError, "element 0 of stages"),
        (lambda p: Chain(p, [Stage(adam), Stage(SSBroyden)]), ValueError, "stage 0 to say when it ends"),
        (lambda p: Stage(Adam(p)), TypeError, r"lambda groups: Adam\(groups"),
        (lambda p: Stage(adam, until=1000), TypeError, r"Iterations\(count\)"),
        (lambda p: Stage(adam, until=Stall), TypeError, "Stall()"),
        (lambda p: Stage(adam, until="plateau"), TypeError, "'stall'"),
        (lambda p: Chain(p, [Stage(lambda groups: None)]), TypeError, "stage 0 to build a torch.optim.Optimizer, got NoneType"),
        (lambda p: Chain(p, [Stage(lambda groups: Adam(p[:1]))]), ValueError, "other parameters or another order"),
        (lambda p: Chain(p, [Stage(lambda groups: Chain(groups, [Stage(adam)]))]), TypeError, "got a Chain"),
        (lambda p: Iterations(0), ValueError, "1 or more"),
        (lambda p: Iterations(2.5), ValueError, "1 or more"),
        (lambda p: Stall(window=0), ValueError, "window"),
        (lambda p: Stall(patience=0), ValueError, "patience"),
        (lambda p: Stall(share=1.0), ValueError, "share"),
        (lambda p: Stall(share=math.nan), ValueError, "share"),
        (lambda p: Chain([], [Stage(adam)]), ValueError, "empty parameter list"),
    ],
)
def test_wrong_use_is_refused_with_a_sentence(make: Callable[[list[Tensor]], object], error: type[Exception], says: str, net: Net) -> None:
    with pytest.raises(error, match=says):
        make(net.parameters)


def test_stage_may_ignore_the_groups_when_it_trains_the_same_parameters(net: Net) -> None:
    chain = Chain(net.parameters, [Stage(lambda _: secant.RankOneKron(net.model), until=Iterations(2)), Stage(SSBroyden)])
    drive(chain, net.loss, 4)
    assert chain.stage == 1
