"""Races on a problem with training data, from plan to record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from race.blobs import SAMPLES, adamw, blobs, momentum_sgd
from secant.race import isolated
from secant.race.batch_method import batch_method, with_rates
from secant.race.budget import Budget
from secant.race.errors import UsageError
from secant.race.health_log import HealthRequest
from secant.race.ledger import append_record, read_records
from secant.race.method import Method, Origin
from secant.race.plan import Plan, race
from secant.race.records import RunRecord, Status
from secant.race.registry import methods_for, select_methods
from secant.race.runner import Run
from secant.race.source import Source
from secant.race.standings import standings
from secant.race.techniques import Decay, Hyperparameters, Schedule, Techniques

Planner = Callable[..., Plan]


def one(plan: Plan) -> RunRecord:
    (record,) = race(plan)
    return record


def our(*names: str) -> tuple[Method, ...]:
    return tuple(select_methods(names, trains=True))


def test_a_record_of_training_tells_loss_test_loss_accuracy_and_techniques(training_plan: Planner) -> None:
    record = one(training_plan(budget=Budget(steps=60)))
    assert record.status is Status.BUDGET
    assert record.outcome == "Budget of 60 steps used up."
    last = record.trace[-1]
    assert (last.steps, last.evaluations) == (60, 60)
    assert last.loss is not None
    assert last.loss < 0.5 * (record.trace[0].loss or 0.0)
    assert last.test_loss is not None
    assert last.accuracy is not None
    assert last.accuracy > 0.8
    assert record.training is not None
    assert record.training.samples == 480
    assert record.training.techniques["feed"] == "batches"
    assert record.training.health == ()
    assert (record.variant, record.grid) == ("lr=0.01", ("lr=0.01",))


def test_every_method_sees_the_same_samples_from_the_same_start(training_plan: Planner) -> None:
    runs: dict[str, list[list[float]]] = {}

    def watching(name: str) -> Method:
        def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
            model._forward_pre_hooks.clear()
            seen: list[float] = []
            runs.setdefault(name, []).append(seen)
            model.register_forward_pre_hook(lambda module, given: seen.extend(given[0][:, 0].tolist()) if module.training else None)
            torch.rand(7)  # a method may draw random numbers of its own
            return torch.optim.SGD(model.parameters(), lr=wanted.lr)

        return batch_method(name, "", Origin.PEER, build, (0.1, 0.01), settings={}, takes_momentum=False, decay=Decay.NONE)

    records = list(race(training_plan(watching("a"), watching("b"))))
    timed = [run for name in "ab" for run in runs[name][1::2]]  # a rehearsal comes before each
    assert [len(run) for run in timed] == [12 * 8] * 4
    assert all(run == timed[0] for run in timed)
    assert len({record.trace[0].loss for record in records}) == 1


def test_runs_are_the_same_again(training_plan: Planner) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    plan = training_plan(adamw(), adamw(name="twin"), network=network)
    first, twin = race(plan)
    again, _ = race(plan)
    losses = [[(point.loss, point.test_loss) for point in record.trace if point.steps in (0, 1, 2, 12)] for record in (first, twin, again)]
    assert losses[0] == losses[1] == losses[2]


def test_epochs_evaluations_and_steps_end_a_run_where_they_say(training_plan: Planner) -> None:
    counts = {}
    for name, budget in {"epochs": Budget(epochs=1.5), "evaluations": Budget(evaluations=7), "steps": Budget(steps=5)}.items():
        record = one(training_plan(budget=budget, techniques=Techniques(accumulate=2)))
        counts[name] = (record.steps, record.evaluations)
    assert counts == {"epochs": (9, 18), "evaluations": (3, 6), "steps": (5, 10)}
    assert 1.5 * SAMPLES == 18 * 8


def test_a_budget_in_seconds_ends_a_run_of_either_family(training_plan: Planner) -> None:
    for record in race(training_plan(adamw(), *our("ssbroyden"), budget=Budget(seconds=0.05))):
        assert record.cpu_seconds < 0.5
        assert record.steps >= 1


def test_steps_and_epochs_of_the_full_batch_are_its_iterations_and_its_evaluations(training_plan: Planner) -> None:
    methods = our("ssbroyden", "torch-lbfgs")
    for record in race(training_plan(*methods, budget=Budget(steps=2))):
        assert record.steps == 2
        assert record.evaluations > 2
    for record in race(training_plan(*methods, budget=Budget(epochs=9))):
        assert record.evaluations == 9
        assert record.training is not None
        assert record.training.samples == 9 * SAMPLES
        assert record.training.techniques == {"feed": "full batch"}


def test_a_schedule_that_ends_at_zero_adds_no_idle_step(training_plan: Planner) -> None:
    record = one(training_plan(*our("ssbroyden"), budget=Budget(steps=6), techniques=Techniques(schedule=Schedule.COSINE)))
    assert (record.status, record.steps) == (Status.BUDGET, 6)


def test_both_families_are_judged_by_the_same_loss(training_plan: Planner) -> None:
    records = list(race(training_plan(adamw(), *our("ssbroyden"), budget=Budget(epochs=20))))
    assert len({(record.trace[0].loss, record.trace[0].test_loss, record.trace[0].accuracy) for record in records}) == 1
    assert [place.method for place in standings(records)] == ["ssbroyden", "test-adamw"]


@pytest.mark.parametrize("name", ["ssbroyden", "torch-lbfgs", "scipy-lbfgsb", "torchzero-bfgs"])
def test_a_full_batch_in_parts_is_the_same_full_batch(name: str, training_plan: Planner) -> None:
    method = methods_for(trains=True)[name]
    if not method.is_installed:
        pytest.skip(f"{name} is not installed")
    whole = one(training_plan(method, budget=Budget(epochs=12)))
    parts = one(training_plan(method, budget=Budget(epochs=12), techniques=Techniques(accumulate=5)))
    assert parts.status is not Status.FAILED, parts.outcome
    assert parts.evaluations == whole.evaluations
    assert parts.loss == pytest.approx(whole.loss, rel=1e-7)
    assert parts.training is not None
    assert parts.training.techniques["accumulate"] == 5


def test_a_loss_that_is_no_mean_over_samples_is_not_divided() -> None:
    problem = blobs(0)
    penalized = dataclasses.replace(problem, loss=lambda: problem.loss() + 0.1 * sum(p.square().sum() for p in problem.parameters))
    source = Source("penalized", lambda seed, compile_loss: penalized)
    with pytest.raises(UsageError, match="does not divide into parts: over all data it is"):
        list(race(Plan(source, our("ssbroyden"), (0,), Budget(steps=2), techniques=Techniques(accumulate=2))))


def test_our_layerwise_methods_enter_with_their_own_rate_and_the_race_s_decay(training_plan: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Layered(torch.optim.SGD):
        """A method of ours, whitened.

        And more.
        """

        def __init__(self, model: nn.Module, lr: float = 0.25, *, momentum: float = 0.5, weight_decay: float = 0.7) -> None:
            super().__init__(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
            built.append((lr, momentum, weight_decay))

    built: list[tuple[float, float, float]] = []
    monkeypatch.setattr("secant.race.own.LAYERWISE", {"layered": Layered})
    (method,) = our("layered")
    assert (method.summary, method.decay, method.takes_momentum) == ("A method of ours, whitened.", Decay.DECOUPLED, True)
    assert [variant.label for variant in method.variants] == ["lr=0.25"]
    assert one(training_plan(method)).status is Status.BUDGET
    assert one(training_plan(method, techniques=Techniques(momentum=0.1, weight_decay=0.2))).status is Status.BUDGET
    assert built[1::2] == [(0.25, 0.5, 0.0), (0.25, 0.1, 0.2)]


def test_a_step_length_of_the_full_batch_is_limited_and_counted(training_plan: Planner) -> None:
    free = one(training_plan(*our("ssbroyden"), budget=Budget(steps=8)))
    short = one(training_plan(*our("ssbroyden"), budget=Budget(steps=8), techniques=Techniques(clip_norm=0.01)))
    assert free.training is not None
    assert short.training is not None
    assert free.training.clipped_steps == 0
    assert short.training.clipped_steps == 8
    assert (short.loss or 0.0) > (free.loss or 0.0)
    assert short.training.techniques["max_step_length"] == 0.01


def test_a_weight_decay_reaches_the_full_batch(training_plan: Planner) -> None:
    free, held = (one(training_plan(*our("ssbroyden"), budget=Budget(steps=40), techniques=Techniques(weight_decay=decay))) for decay in (0.0, 1.0))
    assert (held.loss or 0.0) > 2.0 * (free.loss or 0.0)


def test_a_schedule_moves_the_first_trial_of_the_full_batch(training_plan: Planner) -> None:
    constant = one(training_plan(*our("ssbroyden"), budget=Budget(steps=10)))
    cosine = one(training_plan(*our("ssbroyden"), budget=Budget(steps=10), techniques=Techniques(schedule=Schedule.COSINE)))
    assert cosine.status is Status.BUDGET, cosine.outcome
    assert cosine.evaluations != constant.evaluations


def test_a_run_with_other_techniques_is_another_run(training_plan: Planner) -> None:
    plain = list(race(training_plan()))
    keys = {record.key for record in plain}
    assert list(race(training_plan(), keys)) == []
    changes: tuple[dict[str, Any], ...] = (
        {"schedule": Schedule.COSINE},
        {"warmup": 2},
        {"clip_norm": 1.0},
        {"clip_value": 1.0},
        {"accumulate": 2},
        {"weight_decay": 0.1},
        {"batch": 9},
    )
    for change in changes:
        assert len(list(race(training_plan(techniques=Techniques(**change)), keys))) == 1, change
    assert len(list(race(training_plan(*(with_rates(adamw(), (0.5,)),)), keys))) == 1
    assert list(race(training_plan(techniques=Techniques(batch=8)), keys)) == []


def test_a_record_with_health_is_read_back_unchanged(tmp_path: Any, training_plan: Planner) -> None:
    techniques = Techniques(clip_norm=0.1, schedule=Schedule.COSINE, accumulate=2)
    for record in race(training_plan(adamw(), *our("ssbroyden"), techniques=techniques, health=HealthRequest(3))):
        append_record(tmp_path / "runs.jsonl", record)
        assert read_records(tmp_path / "runs.jsonl")[-1] == record
        assert record.training is not None
        assert [moment.step for moment in record.training.health] == [1, 4, 7, 10]


def test_the_health_of_the_full_batch_shows_its_own_updates(training_plan: Planner) -> None:
    record = one(training_plan(*our("ssbroyden"), budget=Budget(steps=3), techniques=Techniques(clip_norm=0.01), health=HealthRequest(1)))
    assert record.training is not None
    for moment in record.training.health:
        moved = sum((layer.update or 0.0) ** 2 for layer in moment.layers) ** 0.5
        assert moved == pytest.approx(0.01, rel=1e-6)
        assert all((layer.gradient or 0.0) > 0.0 for layer in moment.layers)


def test_looking_at_the_health_changes_nothing(training_plan: Planner) -> None:
    for method in (adamw(), momentum_sgd(), *our("ssbroyden", "torch-lbfgs", "scipy-lbfgsb")):
        plain, watched = (one(training_plan(method, budget=Budget(steps=4), health=health)) for health in (None, HealthRequest(1)))
        assert (plain.loss, plain.evaluations, plain.key) == (watched.loss, watched.evaluations, watched.key), method.name


def test_the_first_layer_is_watched_on_the_full_batch_too(training_plan: Planner) -> None:
    record = one(training_plan(*our("ssbroyden"), budget=Budget(steps=10)))
    assert record.training is not None
    assert record.training.first_layer_learned_at is not None
    assert 1 <= record.training.first_layer_learned_at <= 10


def test_a_method_that_cannot_be_built_fails_with_the_reason(training_plan: Planner) -> None:
    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        raise ValueError("no such layer")

    record = one(training_plan(batch_method("broken", "", Origin.PEER, build, (0.1,), settings={}, takes_momentum=False, decay=Decay.NONE)))
    assert (record.status, record.outcome) == (Status.FAILED, "ValueError: no such layer")
    assert record.training is not None
    assert record.training.techniques["batch"] == 8


def test_rates_of_the_user_replace_the_grid_of_batch_methods_only() -> None:
    method = with_rates(adamw(), (0.5, 0.25))
    assert [variant.label for variant in method.variants] == ["lr=0.5", "lr=0.25"]
    assert method.variants[0].settings["lr"] == 0.5
    (ours,) = our("ssbroyden")
    assert with_rates(ours, (0.5,)) is ours


def test_a_run_goes_to_its_own_process_with_everything_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Answer:
        returncode, stdout, stderr = 1, "", "gone"

    def take(command: object, *, input: str, **options: object) -> Answer:
        sent["request"] = input
        return Answer()

    (method,) = our("torch-lbfgs")
    techniques = Techniques(schedule=Schedule.COSINE, accumulate=3, clip_norm=0.5)
    run = Run("toy-regression", method, method.variants[0], 4, Budget(epochs=2.5), 1, False, techniques, HealthRequest(7))
    monkeypatch.setattr(isolated.subprocess, "run", take)
    record = isolated.run_isolated(run, blobs(0))
    assert record.status is Status.FAILED
    assert record.key == run.key(blobs(0))
    rebuilt = isolated._run_of(isolated.json.loads(sent["request"]))
    assert dataclasses.replace(rebuilt, method=method, variant=method.variants[0]) == run
    assert (rebuilt.method.name, rebuilt.variant.label) == (method.name, "")
