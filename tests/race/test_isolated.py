from __future__ import annotations

import pytest

from secant.problems import Problem
from secant.race.budget import Budget
from secant.race.isolated import run_isolated
from secant.race.records import Status
from secant.race.registry import select_methods
from secant.race.runner import Run


def run_on(problem_name: str) -> Run:
    (method,) = select_methods(["torch-lbfgs"])
    return Run(problem_name, method, method.variants[0], seed=0, budget=Budget(evaluations=30), threads=1, compiled=False)


def test_a_run_in_its_own_process_gives_the_record_of_a_run_in_this_one(problem: Problem) -> None:
    record = run_isolated(run_on("quadratic"), problem)
    assert record.evaluations == 30
    assert (record.problem, record.method, record.seed) == ("quadratic", "torch-lbfgs", 0)


def test_a_process_that_dies_gives_a_failed_record_and_the_race_goes_on(problem: Problem) -> None:
    record = run_isolated(run_on("no-such-problem"), problem)
    assert record.status is Status.FAILED
    assert "There is no problem named 'no-such-problem'" in record.outcome
    assert record.trace == ()


@pytest.mark.slow
def test_the_method_in_jax_runs_on_our_closure_and_counts_its_evaluations(problem: Problem) -> None:
    pytest.importorskip("ssbroyden_optimistix")
    (method,) = select_methods(["ssbroyden-optimistix"])
    run = Run("quadratic", method, method.variants[0], seed=0, budget=Budget(evaluations=60), threads=1, compiled=False)
    record = run_isolated(run, problem)
    assert (record.status, record.evaluations) == (Status.BUDGET, 60)
    assert record.loss is not None
    assert record.loss < 0.1 * record.trace[0].loss
