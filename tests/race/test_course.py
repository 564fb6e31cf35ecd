from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from secant.problems import Problem
from secant.race.budget import Budget, BudgetExhausted
from secant.race.course import Course
from secant.race.errors import UsageError
from secant.race.gauge import read
from secant.race.records import TracePoint
from secant.race.tracer import Tracer


def ignore(point: TracePoint, share: float) -> None:
    """A watch for tests that look elsewhere."""


def course_of(problem: Problem, evaluations: int = 1000, keep_best: bool = False) -> Course:
    tracer = Tracer(Budget(evaluations=evaluations), lambda held_out: read(problem), ignore, spacing=1.12)
    return Course(problem, tracer, keep_best=keep_best)


def with_backward(problem: Problem) -> Problem:
    def closure() -> torch.Tensor:
        for parameter in problem.parameters:
            parameter.grad = None
        loss = problem.loss()
        loss.backward()
        return loss

    return dataclasses.replace(problem, loss=closure)


def test_each_evaluation_counts_once_and_the_measurements_count_nothing(problem: Problem) -> None:
    course = course_of(problem)
    for _ in range(7):
        course.loss_and_gradient()
        course.settle()
    course.finish()
    assert course.tracer.evaluations == 7
    assert course.tracer.trace[-1].evaluations == 7


def test_the_closure_raises_instead_of_one_evaluation_too_many(problem: Problem) -> None:
    course = course_of(problem, evaluations=2)
    course.loss()
    course.loss_and_gradient()
    with pytest.raises(BudgetExhausted):
        course.loss()
    assert course.tracer.evaluations == 2


def test_a_closure_that_calls_backward_gives_the_same_gradient_as_one_that_does_not(problem: Problem) -> None:
    plain = course_of(problem)
    plain.loss_and_gradient()
    expected = plain.gradient()
    calling = course_of(with_backward(problem))
    calling.loss_and_gradient()
    assert torch.equal(calling.gradient(), expected)


def test_measuring_leaves_the_gradients_of_the_method_alone(problem: Problem) -> None:
    course = course_of(with_backward(problem))
    course.loss_and_gradient()
    before = [parameter.grad for parameter in course.parameters]
    course.settle()
    assert all(parameter.grad is gradient for parameter, gradient in zip(course.parameters, before, strict=True))


def test_the_flat_vector_goes_out_and_in_unchanged(problem: Problem) -> None:
    course = course_of(problem)
    x = course.read()
    loss, gradient = course.value_and_gradient((x + 1).numpy())
    assert gradient.shape == (5,)
    assert torch.equal(course.read(), x + 1)
    assert loss == pytest.approx(problem.loss().item())


def test_a_run_that_keeps_the_best_point_ends_there(problem: Problem) -> None:
    course = course_of(problem, keep_best=True)
    best = torch.full((5,), 1.01, dtype=torch.float64)
    for x in (course.read(), best, best + 5):
        course.value_and_gradient(x.numpy())
    course.finish()
    assert torch.equal(course.read(), best)


def test_a_nan_at_a_traced_moment_stops_the_run_and_is_kept_as_none(problem: Problem) -> None:
    course = course_of(problem)
    course.write(torch.full((5,), math.nan, dtype=torch.float64))
    course.loss_and_gradient()
    with pytest.raises(ArithmeticError, match="not a finite number after 1 evaluations"):
        course.settle()
    assert course.tracer.trace[-1].loss is None
    assert course.tracer.trace[-1].error is None


def test_steps_that_evaluate_nothing_are_stopped(problem: Problem) -> None:
    course = course_of(problem)
    for _ in range(19):
        course.settle()
    with pytest.raises(RuntimeError, match="20 steps in a row evaluated nothing"):
        course.settle()


def test_the_trace_of_a_long_run_stays_short(problem: Problem) -> None:
    course = course_of(problem, evaluations=20_000)
    for _ in range(3000):
        course.loss()
        course.settle()
    assert len(course.tracer.trace) < 150
    assert [point.evaluations for point in course.tracer.trace] == sorted({point.evaluations for point in course.tracer.trace})


def test_a_loss_without_a_graph_is_refused_with_the_remedy(problem: Problem) -> None:
    detached = dataclasses.replace(problem, loss=lambda: problem.loss().detach())
    with pytest.raises(UsageError, match="depends on no parameter") as caught:
        course_of(detached)
    assert "not loss.item()" in caught.value.hint


def test_frozen_parameters_are_not_offered_to_the_methods(problem: Problem) -> None:
    problem.parameters[1].requires_grad_(False)
    assert course_of(problem).read().shape == (3,)
