from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from torch import nn

from race.blobs import adamw, momentum_sgd
from secant.race.batch_method import batch_method
from secant.race.budget import Budget
from secant.race.errors import UsageError
from secant.race.method import Method, Origin
from secant.race.plan import Plan, Silent, race
from secant.race.records import RunRecord, Tuning
from secant.race.registry import select_methods
from secant.race.runner import Run
from secant.race.standings import standings
from secant.race.techniques import Decay, Hyperparameters
from secant.race.tuning import STUDY_FILE, race_tuned
from secant.race.tuning_plan import refuse_untunable, tuned_run_count

Planner = Callable[..., Plan]


class Counting(Silent):
    """Remembers what was started and what was left out."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.left_out: list[str] = []

    def started(self, run: Run) -> None:
        self.begun.append(run.label)

    def skipped(self, run: Run) -> None:
        self.left_out.append(run.label)


def tuned(plan: Plan, folder: Path, known: list[RunRecord] | None = None, watcher: Counting | None = None) -> tuple[list[Tuning], list[RunRecord]]:
    records: list[RunRecord] = []
    tunings = race_tuned(plan, known or [], folder, records.append, watcher or Counting())
    return tunings, records


def breaking(*, at: float, error: BaseException) -> Method:
    """SGD that cannot be built at one learning rate."""

    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        if wanted.lr == at:
            raise error
        return torch.optim.SGD(model.parameters(), lr=wanted.lr)

    return batch_method("test-sgd", "SGD.", Origin.PEER, build, (0.1, 0.3, 0.01), settings={"class": "SGD"}, takes_momentum=False, decay=Decay.NONE)


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{folder / STUDY_FILE}"
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage).get_trials()


def test_the_grid_runs_on_the_first_seed_and_its_best_on_all(tmp_path: Path, training_plan: Planner) -> None:
    plan = training_plan(adamw(0.0001, 0.03, 0.001), seeds=(3, 4, 5))
    (tuning,), records = tuned(plan, tmp_path)
    assert sorted((record.seed, record.variant) for record in records) == [(3, "lr=0.0001"), (3, "lr=0.001"), (3, "lr=0.03"), (4, "lr=0.03"), (5, "lr=0.03")]
    assert len(records) == tuned_run_count(plan)
    assert (tuning.method, tuning.seed, tuning.best) == ("test-adamw", 3, "lr=0.03")
    assert tuning.values == {record.variant: record.loss for record in records if record.seed == 3}
    assert list(tuning.values) == ["lr=0.0001", "lr=0.03", "lr=0.001"]
    assert all(record.grid == ("lr=0.0001", "lr=0.03", "lr=0.001") for record in records)
    assert records[-1].tuning == tuning
    (place,) = standings(records)
    assert (place.variant, len(place.runs)) == ("lr=0.03", 3)


def test_each_trial_of_the_study_is_a_run_of_the_grid(tmp_path: Path, training_plan: Planner) -> None:
    (tuning,), _ = tuned(training_plan(adamw(0.0001, 0.03)), tmp_path)
    assert {f"lr={trial.params['lr']:g}": trial.value for trial in trials(tmp_path)} == tuning.values
    summary = optuna.get_all_study_summaries(f"sqlite:///{tmp_path / STUDY_FILE}")
    assert [each.study_name for each in summary] == [tuning.study]
    assert tuning.study.startswith("blobs test-adamw ")


def test_methods_without_a_grid_run_on_every_seed_as_they_are(tmp_path: Path, training_plan: Planner) -> None:
    plan = training_plan(momentum_sgd(0.1), adamw(0.01, 0.001), *select_methods(["ssbroyden"], trains=True), seeds=(0, 1), budget=Budget(steps=3))
    tunings, records = tuned(plan, tmp_path)
    assert [tuning.method for tuning in tunings] == ["test-adamw"]
    assert [record.method for record in records if record.seed == 1] == ["test-sgd", "test-adamw", "ssbroyden"]
    assert len(records) == tuned_run_count(plan) == 7


def test_a_finished_race_is_not_run_again(tmp_path: Path, training_plan: Planner) -> None:
    plan, watcher = training_plan(adamw(0.01, 0.001), seeds=(0, 1)), Counting()
    tunings, records = tuned(plan, tmp_path)
    again, nothing = tuned(plan, tmp_path, records, watcher)
    assert again == tunings
    assert nothing == []
    assert watcher.begun == []
    assert sorted(watcher.left_out) == ["test-adamw lr=0.001 seed 0", "test-adamw lr=0.01 seed 0", "test-adamw lr=0.01 seed 1"]
    assert len(trials(tmp_path)) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupted_trial_is_repeated_and_the_finished_ones_are_not(error: BaseException, tmp_path: Path, training_plan: Planner) -> None:
    records: list[RunRecord] = []
    with pytest.raises(type(error)):
        race_tuned(training_plan(breaking(at=0.3, error=error)), [], tmp_path, records.append, Counting())
    finished = {record.variant for record in records}
    (tuning,), more = tuned(training_plan(breaking(at=-1.0, error=error)), tmp_path, records)
    assert {record.variant for record in more} == {"lr=0.1", "lr=0.3", "lr=0.01"} - finished
    assert set(tuning.values) == {"lr=0.1", "lr=0.3", "lr=0.01"}
    assert None not in tuning.values.values()


def test_a_trial_whose_process_was_killed_is_repeated(tmp_path: Path, training_plan: Planner) -> None:
    plan = training_plan(adamw(0.01, 0.001))
    (tuning,), records = tuned(plan, tmp_path)
    storage = f"sqlite:///{tmp_path / STUDY_FILE}"
    optuna.delete_study(study_name=tuning.study, storage=storage)
    sampler = optuna.samplers.GridSampler({"lr": [0.01, 0.001]})
    optuna.create_study(study_name=tuning.study, storage=storage, sampler=sampler).ask().suggest_float("lr", 0.001, 0.01, log=True)
    again, nothing = tuned(plan, tmp_path, records)
    assert nothing == []
    assert again == [tuning]
    assert [trial.state.name for trial in trials(tmp_path)].count("COMPLETE") == 2


def test_runs_of_a_plain_race_are_taken_over(tmp_path: Path, training_plan: Planner) -> None:
    plan = training_plan(adamw(0.01, 0.001))
    records = list(race(plan))
    watcher = Counting()
    (tuning,), nothing = tuned(plan, tmp_path, records, watcher)
    assert nothing == []
    assert watcher.begun == []
    assert len(tuning.values) == 2


def test_a_wider_grid_is_another_study_that_runs_only_what_is_new(tmp_path: Path, training_plan: Planner) -> None:
    (first,), records = tuned(training_plan(adamw(0.01, 0.001)), tmp_path)
    (second,), more = tuned(training_plan(adamw(0.01, 0.001, 0.1)), tmp_path, records)
    assert [record.variant for record in more] == ["lr=0.1"]
    assert first.study != second.study


def test_a_rate_that_diverges_is_a_finished_trial_and_never_the_best(tmp_path: Path, training_plan: Planner) -> None:
    method = breaking(at=0.3, error=ArithmeticError("diverged"))
    (tuning,), _ = tuned(training_plan(method), tmp_path)
    assert tuning.values["lr=0.3"] is None
    assert tuning.best != "lr=0.3"
    assert [trial.state.name for trial in trials(tmp_path)] == ["COMPLETE"] * 3
    _, nothing = tuned(training_plan(method), tmp_path, [])
    assert [record.variant for record in nothing] == [tuning.best]


def test_optuna_says_nothing_and_keeps_its_verbosity(tmp_path: Path, training_plan: Planner, capfd: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(logging.INFO)
    tuned(training_plan(adamw(0.01, 0.001)), tmp_path)
    assert optuna.logging.get_verbosity() == logging.INFO
    assert capfd.readouterr() == ("", "")


def test_without_a_grid_there_is_nothing_to_tune(training_plan: Planner) -> None:
    with pytest.raises(UsageError, match="none of the methods has one"):
        refuse_untunable(training_plan(adamw(0.01)))
