from __future__ import annotations

from secant.race.budget import Budget
from secant.race.isolated import run_isolated
from secant.race.registry import select_methods
from secant.race.runner import Run


def test_a_run_in_its_own_process_gives_the_record_of_a_run_in_this_one() -> None:
    (method,) = select_methods(["torch-lbfgs"])
    run = Run("quadratic", method, method.variants[0], seed=0, budget=Budget(evaluations=30), threads=1, compiled=False)
    record = run_isolated(run)
    assert record.evaluations == 30
    assert (record.problem, record.method, record.seed) == ("quadratic", "torch-lbfgs", 0)
