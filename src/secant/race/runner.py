"""One run: one method from one start under one budget, to its record."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secant.race.budget import Budget, BudgetExhausted
from secant.race.course import Course, Watch
from secant.race.machine import this_machine, versions
from secant.race.method import Keeps, Method, Variant
from secant.race.records import RunRecord, Status, run_key

if TYPE_CHECKING:
    from secant.problems import Problem

# What numerical code of other authors raises when a problem is too hard for it or a version does not fit: singular matrices and overflow, failed assertions,
# an argument or attribute that another version of torch has not. KeyboardInterrupt, SystemExit and the exceptions of this package pass.
_METHOD_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
REHEARSED_EVALUATIONS = 6
_ABSOLUTE_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[/\\][\w.+-]+){2,}")


@dataclass(frozen=True, slots=True)
class Run:
    """What one run is asked to do.

    Attributes:
        problem_name: Name of the problem.
        method: The method.
        variant: The member of its grid.
        seed: Seed of the initial parameters.
        budget: The limit.
        threads: Threads of torch and BLAS.
        compiled: Whether the loss is compiled.
    """

    problem_name: str
    method: Method
    variant: Variant
    seed: int
    budget: Budget
    threads: int
    compiled: bool

    @property
    def label(self) -> str:
        """Method, member of the grid and seed in a few words."""
        return " ".join(part for part in (self.method.name, self.variant.label, f"seed {self.seed}") if part)

    def key(self, problem: Problem) -> str:
        """The identity of the run; equal to that of its record."""
        return run_key(
            problem=self.problem_name,
            problem_settings=dict(problem.settings),
            compiled=self.compiled,
            method=self.method.name,
            variant=self.variant.label,
            method_settings=dict(self.variant.settings),
            seed=self.seed,
            budget=self.budget,
            threads=self.threads,
        )


def run_here(run: Run, problem: Problem, start: Sequence[Tensor], watch: Watch) -> RunRecord:
    """Drive one run in this process.

    A rehearsal of a few evaluations from the same start comes before the clock, for every method alike: it loads and compiles what is loaded and compiled
    lazily (torch alone takes a second at the first optimizer of a process). Nothing of it is kept.

    Args:
        run: What to do.
        problem: The problem; its parameters are overwritten.
        start: The initial values of its parameters.
        watch: Called with the clock paused, a few times per second.

    Returns:
        The record. A method that raises gives a record that says so; an error of the problem itself is raised.
    """
    _drive(run, _course(run, problem, start, Budget(evaluations=REHEARSED_EVALUATIONS), lambda point: None))
    course = _course(run, problem, start, run.budget, watch)
    status, outcome = _drive(run, course)
    course.finish()
    return RunRecord(
        **_identity(run, problem),
        status=status,
        outcome=outcome,
        steps=course.steps,
        evaluations=course.evaluations,
        cpu_seconds=course.clock.cpu_seconds,
        wall_seconds=course.clock.wall_seconds,
        loss=course.trace[-1].loss,
        error=course.trace[-1].error,
        trace=tuple(course.trace),
    )


def lost_run(run: Run, problem: Problem, reason: str) -> RunRecord:
    """The record of a run whose process ended without one."""
    return RunRecord(
        **_identity(run, problem),
        status=Status.FAILED,
        outcome=without_paths(reason),
        steps=0,
        evaluations=0,
        cpu_seconds=0.0,
        wall_seconds=0.0,
        loss=None,
        error=None,
        trace=(),
    )


def _identity(run: Run, problem: Problem) -> dict[str, Any]:
    """What a record says before the run has begun."""
    return {
        "problem": run.problem_name,
        "problem_settings": dict(problem.settings),
        "parameter_count": sum(parameter.numel() for parameter in problem.parameters if parameter.requires_grad),
        "compiled": run.compiled,
        "error_name": problem.error_name if problem.error is not None else None,
        "reference": problem.reference,
        "method": run.method.name,
        "variant": run.variant.label,
        "grid": tuple(variant.label for variant in run.method.variants if variant.label),
        "method_settings": dict(run.variant.settings),
        "seed": run.seed,
        "budget": run.budget,
        "versions": versions(*run.method.packages),
        "machine": this_machine(run.threads),
    }


def _course(run: Run, problem: Problem, start: Sequence[Tensor], budget: Budget, watch: Watch) -> Course:
    with torch.no_grad():
        for parameter, value in zip(problem.parameters, start, strict=True):
            parameter.copy_(value)
    torch.manual_seed(run.seed)
    return Course(problem, budget, keep_best=run.method.keeps is Keeps.BEST, watch=watch)


def _drive(run: Run, course: Course) -> tuple[Status, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a method's warning is not the user's: what it led to is in the record
            course.clock.start()
            return Status.STOPPED, run.variant.drive(course)
    except BudgetExhausted:
        return Status.BUDGET, f"Budget of {run.budget.text} used up."
    except _METHOD_FAILURES as error:
        return Status.FAILED, f"{type(error).__name__}: {without_paths(str(error))}"
    finally:
        course.clock.stop()


def without_paths(reason: str) -> str:
    """The first line of a message, without the folders of this machine."""
    lines = reason.strip().splitlines() or ["no message"]
    return _ABSOLUTE_PATH.sub("...", lines[0])[:200]
