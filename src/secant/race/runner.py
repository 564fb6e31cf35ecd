"""One run: one method from one start under one budget, to its record."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from secant.race.batch_course import BatchCourse
from secant.race.budget import Budget, BudgetExhausted
from secant.race.course import Course
from secant.race.gauge import Reading, read
from secant.race.health_log import HealthLog, HealthRequest
from secant.race.machine import this_machine, versions
from secant.race.method import BatchVariant, Feed, Keeps, Method, Variant
from secant.race.records import RunRecord, Setting, Status, TrainingDetails, run_key
from secant.race.snapshot import Snapshot
from secant.race.technique_rules import recorded, with_batch_of
from secant.race.techniques import PLAIN, Techniques
from secant.race.tracer import ReadPresent, Tracer, Watch

if TYPE_CHECKING:
    from secant.problems import Problem

# What numerical code of other authors raises when a problem is too hard for it or a version does not fit: singular matrices and overflow, failed assertions,
# an argument or attribute that another version of torch has not. KeyboardInterrupt, SystemExit and the exceptions of this package pass.
METHOD_FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
REHEARSED_EVALUATIONS = 6
REHEARSED_STEPS = 3
_SPACING = 1.12
"""Ratio of successive traced moments: 20 points per decade, so about 120 over the six decades a run can span."""
_BATCH_SPACING, _EVEN_MOMENTS = 1.5, 60
"""Batches move a loss most in the first steps, and a time to a target is read off a trace: few moments early, then one in every sixtieth of the run."""
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
        techniques: The same for every method of the race.
        health: When to look at the gradients; None never.
        setting: What tells the run from others of a comparison; empty elsewhere.
    """

    problem_name: str
    method: Method
    variant: Variant | BatchVariant
    seed: int
    budget: Budget
    threads: int
    compiled: bool
    techniques: Techniques = PLAIN
    health: HealthRequest | None = None
    setting: str = ""

    @property
    def label(self) -> str:
        """Method, member of the grid, setting and seed in a few words."""
        return " ".join(part for part in (self.method.name, self.variant.label, self.setting, f"seed {self.seed}") if part)

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
            techniques=self.technique_settings(problem),
        )

    def technique_settings(self, problem: Problem) -> dict[str, Setting]:
        """What the record says of the techniques."""
        return recorded(self.method, with_batch_of(self.techniques, problem.training), trains=problem.training is not None)


def run_here(run: Run, problem: Problem, start: Snapshot, watch: Watch) -> RunRecord:
    """Drive one run in this process.

    A rehearsal of a few evaluations from the same start comes before the clock, for every method alike: it loads and compiles what is loaded and compiled
    lazily (torch alone takes a second at the first optimizer of a process). Nothing of it is kept.

    Args:
        run: What to do.
        problem: The problem; its parameters are overwritten.
        start: What the run starts from.
        watch: Called with the clock paused, a few times per second.

    Returns:
        The record. A method that raises gives a record that says so; an error of the problem itself is raised.
    """
    rehearsal = Budget(steps=REHEARSED_STEPS) if run.method.feed is Feed.BATCH else Budget(evaluations=REHEARSED_EVALUATIONS)
    _drive(run, *_prepared(run, problem, start, _tracer(run, rehearsal, lambda held_out: Reading(0.0), lambda point, share: None)))
    limit = run.budget.counted(_evaluations_per_epoch(run, problem))
    course, go = _prepared(run, problem, start, _tracer(run, limit, functools.partial(_read_aside, problem, start), watch))
    status, outcome = _drive(run, course, go)
    course.finish()
    tracer = course.tracer
    return RunRecord(
        **_identity(run, problem),
        status=status,
        outcome=outcome,
        steps=tracer.steps,
        evaluations=tracer.evaluations,
        cpu_seconds=tracer.clock.cpu_seconds,
        wall_seconds=tracer.clock.wall_seconds,
        loss=tracer.trace[-1].loss,
        error=tracer.trace[-1].error,
        trace=tuple(tracer.trace),
        training=course.details(run.technique_settings(problem)),
    )


def lost_run(run: Run, problem: Problem, reason: str) -> RunRecord:
    """The record of a run whose process ended without one."""
    techniques = run.technique_settings(problem)
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
        training=TrainingDetails(techniques=techniques, samples=0) if techniques else None,
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


def _tracer(run: Run, limit: Budget, read_present: ReadPresent, watch: Watch) -> Tracer:
    if run.method.feed is Feed.BATCH:
        return Tracer(limit, read_present, watch, spacing=_BATCH_SPACING, even_moments=_EVEN_MOMENTS)
    return Tracer(limit, read_present, watch, spacing=_SPACING)


def _prepared(run: Run, problem: Problem, start: Snapshot, tracer: Tracer) -> tuple[Course | BatchCourse, Callable[[], str]]:
    """A course from the start, and what drives the method over it."""
    start.restore()
    torch.manual_seed(run.seed)
    variant, steps = run.variant, _length(run, problem)
    health = None
    if run.health is not None and problem.training is not None:
        health = HealthLog(problem.training.model, run.health, steps)
    if isinstance(variant, BatchVariant):
        by_batches = BatchCourse(problem, tracer, run.techniques, seed=run.seed, steps=steps, health=health)
        return by_batches, functools.partial(by_batches.train, variant)
    course = Course(problem, tracer, keep_best=run.method.keeps is Keeps.BEST, techniques=run.techniques, steps=steps, health=health)
    return course, functools.partial(variant.drive, course)


def _read_aside(problem: Problem, start: Snapshot, held_out: bool) -> Reading:
    with start.without_hooks():
        return read(problem, held_out=held_out)


def _length(run: Run, problem: Problem) -> int | None:
    """Steps of the run; None when they are not known before its end."""
    if run.method.feed is Feed.FULL_BATCH:
        return run.budget.steps
    return run.budget.counted(_evaluations_per_epoch(run, problem)).steps_of(run.techniques.accumulate)


def _evaluations_per_epoch(run: Run, problem: Problem) -> float:
    if run.method.feed is Feed.FULL_BATCH or problem.training is None:
        return 1.0
    return len(problem.training.inputs) / (run.techniques.batch or problem.training.batch)


def _drive(run: Run, course: Course | BatchCourse, go: Callable[[], str]) -> tuple[Status, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a method's warning is not the user's: what it led to is in the record
            course.tracer.clock.start()
            return Status.STOPPED, go()
    except BudgetExhausted:
        return Status.BUDGET, f"Budget of {run.budget.text} used up."
    except METHOD_FAILURES as error:
        return Status.FAILED, f"{type(error).__name__}: {without_paths(str(error))}"
    finally:
        course.tracer.clock.stop()


def without_paths(reason: str) -> str:
    """The first line of a message, without the folders of this machine."""
    lines = reason.strip().splitlines() or ["no message"]
    return _ABSOLUTE_PATH.sub("...", lines[0])[:200]
