from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from secant.problems import Problem
from secant.race.budget import Budget
from secant.race.course import Course
from secant.race.method import Drive, Keeps, Method, Origin
from secant.race.peers import peer_methods
from secant.race.plan import Plan, race
from secant.race.records import Status, TracePoint
from secant.race.registry import all_methods, methods_for
from secant.race.runner import Run
from secant.race.source import Source

FULL_BATCH = methods_for(trains=False)
HERE = [name for name, method in FULL_BATCH.items() if method.is_installed and not method.own_process]


@pytest.mark.parametrize("name", HERE)
def test_every_installed_method_runs_within_its_budget_and_gets_nearer(name: str, plan: Callable[..., Plan]) -> None:
    for record in race(plan(name, evaluations=40)):
        assert record.evaluations <= 40
        assert record.machine.threads == 1
        assert [point.evaluations for point in record.trace] == sorted(point.evaluations for point in record.trace)
        if record.status is not Status.FAILED:
            assert record.loss is not None
            assert record.loss < record.trace[0].loss
            assert record.error == record.trace[-1].error


@pytest.mark.parametrize("name", [name for name in HERE if FULL_BATCH[name].origin is Origin.SECANT and name not in ("dfp", "broyden")])
def test_our_methods_reach_the_minimum_of_a_quadratic(name: str, plan: Callable[..., Plan]) -> None:
    (record,) = race(plan(name, evaluations=200))
    assert record.error is not None
    assert record.error < 1e-6


def test_every_method_starts_from_the_same_point(plan: Callable[..., Plan]) -> None:
    records = list(race(plan("torch-lbfgs", "adam", "scipy-bfgs", evaluations=5)))
    assert len({record.trace[0].loss for record in records}) == 1
    assert {record.trace[0].evaluations for record in records} == {0}


def test_a_grid_gives_one_run_per_learning_rate_with_the_whole_budget_each(plan: Callable[..., Plan]) -> None:
    records = list(race(plan("adam", evaluations=12)))
    assert [record.variant for record in records] == ["lr=0.01", "lr=0.003", "lr=0.001"]
    assert {record.evaluations for record in records} == {12}
    assert all(record.grid == ("lr=0.01", "lr=0.003", "lr=0.001") for record in records)


def test_finished_runs_are_left_out(plan: Callable[..., Plan]) -> None:
    first = list(race(plan("torch-lbfgs", seeds=(0,))))
    again = list(race(plan("torch-lbfgs", "scipy-bfgs", seeds=(0, 1)), {record.key for record in first}))
    assert [(record.method, record.seed) for record in again] == [("scipy-bfgs", 0), ("torch-lbfgs", 1), ("scipy-bfgs", 1)]


def test_another_budget_is_another_run(plan: Callable[..., Plan]) -> None:
    first = list(race(plan("torch-lbfgs", evaluations=10)))
    assert len(list(race(plan("torch-lbfgs", evaluations=11), {record.key for record in first}))) == 1


def test_a_method_that_raises_gives_a_failed_record_without_paths(plan: Callable[..., Plan], entrant: Callable[[Drive], Method]) -> None:
    def drive(course: Course) -> str:
        course.loss_and_gradient()
        raise RuntimeError("no convergence in /some/folder/of/mine/code.cpp line 3\nmore")

    (record,) = race(dataclasses.replace(plan("adam"), methods=(entrant(drive),)))
    assert record.status is Status.FAILED
    assert record.outcome == "RuntimeError: no convergence in ... line 3"


def test_a_method_that_runs_into_nan_fails_with_the_reason(plan: Callable[..., Plan], entrant: Callable[[Drive], Method]) -> None:
    def drive(course: Course) -> str:
        while True:
            course.loss_and_gradient()
            course.write(torch.full((5,), math.nan, dtype=torch.float64))
            course.settle()

    (record,) = race(dataclasses.replace(plan("adam"), methods=(entrant(drive),)))
    assert record.status is Status.FAILED
    assert "not a finite number" in record.outcome
    assert record.error is None


def test_a_method_that_stops_by_itself_says_why(plan: Callable[..., Plan], entrant: Callable[[Drive], Method]) -> None:
    def drive(course: Course) -> str:
        course.loss_and_gradient()
        return "Stopped: enough."

    (record,) = race(dataclasses.replace(plan("adam"), methods=(entrant(drive),)))
    assert (record.status, record.outcome) == (Status.STOPPED, "Stopped: enough.")


def test_a_warning_of_a_method_does_not_reach_the_user(plan: Callable[..., Plan], entrant: Callable[[Drive], Method]) -> None:
    def drive(course: Course) -> str:
        import warnings

        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        return "Stopped: enough."

    (record,) = race(dataclasses.replace(plan("adam"), methods=(entrant(drive),)))
    assert record.status is Status.STOPPED


def test_ctrl_c_passes_through_a_run(plan: Callable[..., Plan], entrant: Callable[[Drive], Method]) -> None:
    def drive(course: Course) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(race(dataclasses.replace(plan("adam"), methods=(entrant(drive),))))


def test_an_error_of_the_problem_itself_is_not_blamed_on_a_method(plan: Callable[..., Plan], problem: Problem) -> None:
    def broken(seed: int, compile_loss: bool) -> Problem:
        def loss() -> torch.Tensor:
            raise ZeroDivisionError("in the loss")

        return dataclasses.replace(problem, loss=loss)

    with pytest.raises(ZeroDivisionError):
        list(race(dataclasses.replace(plan("adam"), source=Source("broken", broken))))


def test_the_number_of_threads_is_restored(plan: Callable[..., Plan]) -> None:
    before = torch.get_num_threads()
    list(race(plan("torch-lbfgs", evaluations=3)))
    assert torch.get_num_threads() == before


def test_the_watcher_is_told_of_starts_moves_and_skips(plan: Callable[..., Plan]) -> None:
    heard: list[str] = []

    class Listening:
        def started(self, run: Run) -> None:
            heard.append(f"start {run.label}")

        def moved(self, point: TracePoint, share: float) -> None:
            heard.append("move")

        def skipped(self, run: Run) -> None:
            heard.append(f"skip {run.label}")

    first = list(race(plan("torch-lbfgs")))
    list(race(plan("torch-lbfgs", "scipy-bfgs"), {record.key for record in first}, Listening()))
    assert heard[:3] == ["skip torch-lbfgs seed 0", "start scipy-bfgs seed 0", "move"]


def test_each_peer_that_is_not_installed_names_its_remedy() -> None:
    assert all(method.remedy.startswith("pip install") for method in peer_methods() if method.needs)


def test_every_record_states_what_the_run_ends_with() -> None:
    stated = [variant.settings["keeps"] for forms in all_methods().values() for method in forms for variant in method.variants]
    assert set(stated) == {keeps.value for keeps in Keeps}


def test_a_budget_in_seconds_is_stated_in_words() -> None:
    assert Budget(seconds=15.0).text == "15 s of CPU time"
