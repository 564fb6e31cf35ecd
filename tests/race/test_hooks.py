from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from race.blobs import blobs
from secant.race.batch_method import batch_method
from secant.race.budget import Budget
from secant.race.health_log import HealthRequest
from secant.race.hooks import OwnHooks
from secant.race.method import Method, Origin
from secant.race.plan import Plan, race
from secant.race.techniques import Decay, Hyperparameters, Techniques


def test_hooks_of_others_are_hidden_inside_and_back_after_the_block() -> None:
    model, heard = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), []
    model[0].register_forward_hook(lambda module, args, output: heard.append("own"))
    own = OwnHooks(model)
    handle = model[1].register_forward_hook(lambda module, args, kwargs, output: heard.append("other"), with_kwargs=True)
    before = model.register_forward_pre_hook(lambda module, args: heard.append("before"))
    with own.alone():
        model(torch.ones(1, 2))
    assert heard == ["own"]
    model(torch.ones(1, 2))
    assert heard == ["own", "before", "own", "other"]
    handle.remove()
    model(torch.ones(1, 2))
    assert heard[4:] == ["before", "own"]
    own.restore()
    model(torch.ones(1, 2))
    assert heard[6:] == ["own"]
    before.remove()


def tapping(counts: list[int]) -> Method:
    """SGD whose learning rate depends on how often the model ran since the last step: what is measured aside must not reach it."""

    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        calls: list[int] = []
        assert not model._forward_hooks
        model.register_forward_hook(lambda module, args, output: calls.append(1))

        class Tapping(torch.optim.SGD):
            def step(self, closure: object = None) -> None:  # type: ignore[override]
                counts.append(len(calls))
                calls.clear()
                super().step()

        return Tapping(model.parameters(), lr=wanted.lr)

    return batch_method("tapping", "", Origin.PEER, build, (0.1, 0.2), settings={}, takes_momentum=False, decay=Decay.NONE)


def test_a_method_with_hooks_sees_its_own_passes_only_and_leaves_none_behind(training_plan: Callable[..., Plan]) -> None:
    counts: list[int] = []
    records = list(race(training_plan(tapping(counts), budget=Budget(steps=6), techniques=Techniques(accumulate=2), health=HealthRequest(1))))
    assert [record.outcome for record in records] == ["Budget of 6 steps used up."] * 2
    assert set(counts) == {2}


def test_the_hooks_of_a_run_are_gone_when_the_next_begins() -> None:
    from secant.race.snapshot import Snapshot

    problem = blobs(0)
    assert problem.training is not None
    start = Snapshot.of(problem)
    problem.training.model.register_forward_hook(lambda module, args, output: output * float("nan"))
    start.restore()
    assert bool(problem.loss().isfinite())
