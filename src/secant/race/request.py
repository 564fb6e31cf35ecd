"""What the user asked for, checked before anything runs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from secant.problems import DataError, Problem, Training
from secant.race.batch_method import with_rates
from secant.race.budget import Budget
from secant.race.comparison import Compared, Comparison, compare
from secant.race.errors import UsageError, unknown_name
from secant.race.health_log import HealthRequest
from secant.race.machine import limited_threads
from secant.race.method import Feed, Method
from secant.race.plan import Plan
from secant.race.registry import methods_for, select_methods
from secant.race.source import Source, find_problem, kept_once
from secant.race.technique_rules import refuse_misfits, with_batch_of
from secant.race.techniques import Schedule, Techniques
from secant.race.tuning_plan import refuse_untunable

DEFAULT_METHODS = ("ssbroyden", "ssbfgs", "bfgs", "torch-lbfgs", "scipy-lbfgsb", "adam")
DEFAULT_BATCH_METHODS = ("rank-one-kron", "adamw", "muon", "sgd-momentum")
"""Those of them that are installed."""
DEFAULT_SECONDS = 15.0
"""With the default methods, of which Adam runs three learning rates, one seed takes eight runs: two minutes."""

RECORDS_FILE = "runs.jsonl"
REPORT_FILE = "report.html"
_RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class RaceWords:
    """The words of the command line, unchecked; None or an empty text leaves a choice open.

    Attributes:
        problem: Its name.
        methods: Names separated by commas.
        seconds: Budget in CPU seconds.
        evaluations: Budget in evaluations.
        steps: Budget in iterations.
        epochs: Budget in passes over the data.
        seeds: Numbers separated by commas.
        threads: Of torch and BLAS.
        out: Folder.
        compiled: Whether to compile the loss.
        resume: Whether to leave out runs that the folder holds.
        rates: Learning rates of the methods that learn from batches, separated by commas.
        schedule: Name of the schedule.
        warmup: Steps of warm-up.
        clip_norm: Largest gradient norm or step length.
        clip_value: Largest gradient element.
        accumulate: Micro-batches per step.
        momentum: Of the methods that have one.
        weight_decay: For every method.
        batch: Samples per micro-batch.
        health: Whether to keep the gradients of some steps.
        health_every: Steps between two of them.
        compare: Name of the technique whose settings are compared; empty for a plain race.
        tune: Whether grids of learning rates are run on the first seed only.
    """

    problem: str
    methods: str = ""
    seconds: float | None = None
    evaluations: int | None = None
    steps: int | None = None
    epochs: float | None = None
    seeds: str = "0"
    threads: int = 1
    out: str = ""
    compiled: bool = False
    resume: bool = False
    rates: str = ""
    schedule: str = Schedule.CONSTANT.value
    warmup: int = 0
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    momentum: float | None = None
    weight_decay: float | None = None
    batch: int | None = None
    health: bool = False
    health_every: int | None = None
    compare: str = ""
    tune: bool = False


@dataclass(frozen=True, slots=True)
class RaceRequest:
    """A checked request.

    Attributes:
        plan: What to run.
        folder: Where records and report go.
        resume: Whether runs that the folder holds are left out.
        trains: Whether the problem has training data.
        comparison: The settings that ``plan`` is run under; None for a plain race.
        tunes: Whether grids of learning rates are run on the first seed only.
    """

    plan: Plan
    folder: Path
    resume: bool
    trains: bool
    comparison: Comparison | None = None
    tunes: bool = False

    @property
    def plans(self) -> tuple[Plan, ...]:
        """All that is run."""
        return (self.plan,) if self.comparison is None else self.comparison.plans

    @classmethod
    def parse(cls, words: RaceWords) -> RaceRequest:
        """The request from the words of the command line. The problem is built for its first seed, and that one is raced.

        Raises:
            UsageError: If a word makes no sense, a name is unknown, a technique does not go with a method, or the folder holds another race and ``resume``
                is off.
        """
        source, seeds, threads = find_problem(words.problem), parse_seeds(words.seeds), parse_threads(words.threads)
        given, techniques, rates, health = _given_budget(words), _techniques(words), _rates(words.rates), _health(words)
        compared = _compared(words, rates)
        if words.methods:
            select_methods(_names(words.methods), trains=True)  # an unknown name is told before the problem is built
        folder = Path(words.out) if words.out else default_folder(source.name, words.resume)
        if not words.resume and (folder / RECORDS_FILE).exists():
            raise UsageError(f"The folder {folder} already holds a race.", "add --resume to go on with it, or name another folder with --out")
        problem = _built(source, seeds[0], threads, words.compiled)
        methods = _with_rates(_methods(words.methods, problem), rates)
        budget = given or _own_budget(methods, problem.training)
        _refuse(methods, techniques, budget, problem, health)
        plan = Plan(
            source=kept_once(source, seeds[0], words.compiled, problem),
            methods=methods,
            seeds=seeds,
            budget=budget,
            threads=threads,
            compiled=words.compiled,
            techniques=with_batch_of(techniques, problem.training),
            health=health,
        )
        comparison = _comparison(compared, plan, problem)
        if words.tune:
            refuse_untunable(plan)
        return cls(plan, folder, words.resume, problem.training is not None, comparison, words.tune)


def _compared(words: RaceWords, rates: Sequence[float]) -> Compared | None:
    if not words.compare:
        return None
    names = [technique.value for technique in Compared]
    if words.compare not in names:
        raise UsageError(f"--compare needs one of {', '.join(names)}, got {words.compare!r}.", "for instance --compare schedule")
    if words.tune:
        raise UsageError("--compare and --tune are two races.", "tune first, then compare with --lr at the best rate")
    if words.compare == Compared.LR.value and len(rates) > 1:
        raise UsageError("--compare lr has a grid of its own, got several rates.", "give the one in its middle, or none")
    return Compared(words.compare)


def _comparison(technique: Compared | None, plan: Plan, problem: Problem) -> Comparison | None:
    if technique is None:
        return None
    training = problem.training
    comparison = compare(technique, plan, samples=None if training is None else len(training.inputs), batch=plan.techniques.batch)
    for each in comparison.plans:
        _refuse(each.methods, each.techniques, each.budget, problem, each.health)
    return comparison


def _built(source: Source, seed: int, threads: int, compiled: bool) -> Problem:
    try:
        with limited_threads(threads):
            return source.build(seed, compiled)
    except DataError as error:
        raise UsageError(error.message, error.remedy) from error


def _names(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _methods(words: str, problem: Problem) -> tuple[Method, ...]:
    """The named methods, or the default ones: of float64 parameters those that take the full batch, of narrower ones with training data the others."""
    trains = problem.training is not None
    if words:
        return _refuse_without_residual(select_methods(_names(words), trains=trains), problem)
    if not trains or problem.parameters[0].dtype == torch.float64:
        return tuple(select_methods([*DEFAULT_METHODS, "lm"] if problem.residual else DEFAULT_METHODS, trains=trains))
    possible = methods_for(trains=trains)
    return tuple(select_methods([name for name in DEFAULT_BATCH_METHODS if name in possible and possible[name].is_installed], trains=trains))


def _refuse_without_residual(methods: Sequence[Method], problem: Problem) -> tuple[Method, ...]:
    lost = [method.name for method in methods if method.needs_residual]
    if lost and not problem.residual:
        raise UsageError(
            f"The method {lost[0]!r} minimizes sums of squares, and {problem.name!r} offers no residuals.",
            "race it on poisson-2d or burgers, or return a Problem with `residual` from your own function",
        )
    return tuple(methods)


def _rates(words: str) -> tuple[float, ...]:
    try:
        rates = [float(word) for word in _names(words)]
    except ValueError as error:
        raise UsageError(f"--lr needs numbers separated by commas, got {words!r}.", "for instance --lr 1e-3,1e-2") from error
    if any(not 0.0 < rate < math.inf for rate in rates):
        raise UsageError(f"--lr needs positive numbers, got {words!r}.", "for instance --lr 1e-3,1e-2")
    return tuple(dict.fromkeys(rates))


def _with_rates(methods: Sequence[Method], rates: tuple[float, ...]) -> tuple[Method, ...]:
    if not rates:
        return tuple(methods)
    if all(method.feed is Feed.FULL_BATCH for method in methods):
        raise UsageError("--lr was given, but none of the methods learns from batches.", "methods that take the full batch have their own rates")
    return tuple(with_rates(method, rates) for method in methods)


def _techniques(words: RaceWords) -> Techniques:
    names = [schedule.value for schedule in Schedule]
    if words.schedule not in names:
        raise unknown_name("schedule", words.schedule, names, "secant race --help")
    try:
        return Techniques(
            schedule=Schedule(words.schedule),
            warmup=words.warmup,
            clip_norm=words.clip_norm,
            clip_value=words.clip_value,
            accumulate=words.accumulate,
            momentum=words.momentum,
            weight_decay=words.weight_decay,
            batch=words.batch,
        )
    except ValueError as error:
        raise UsageError(str(error), "`secant race --help` says what each option means") from error


def _health(words: RaceWords) -> HealthRequest | None:
    try:
        return HealthRequest(words.health_every) if words.health or words.health_every is not None else None
    except ValueError as error:
        raise UsageError(str(error), "--health alone looks at about 20 moments") from error


def _refuse(methods: Sequence[Method], techniques: Techniques, budget: Budget, problem: Problem, health: HealthRequest | None) -> None:
    training = problem.training
    samples = None if training is None else len(training.inputs)
    refuse_misfits(methods, techniques, budget, samples=samples, batch=with_batch_of(techniques, training).batch)
    if health is not None and training is None:
        raise UsageError("--health names layers, and this problem has no model to take them from.", "choose a problem with training data, such as mnist-mlp")


def parse_seeds(words: str) -> tuple[int, ...]:
    """Whole numbers separated by commas, each once.

    Raises:
        UsageError: If there is none, one is negative, or one is not a number.
    """
    try:
        seeds = [int(word) for word in words.split(",") if word.strip()]
    except ValueError as error:
        raise UsageError(f"--seeds needs whole numbers separated by commas, got {words!r}.", "for instance --seeds 0,1,2") from error
    if not seeds or min(seeds) < 0:
        raise UsageError(f"--seeds needs at least one number, none negative, got {words!r}.", "for instance --seeds 0,1,2")
    return tuple(dict.fromkeys(seeds))


def _given_budget(words: RaceWords) -> Budget | None:
    """The budget that the user gave; None for the default one."""
    limits = {"seconds": words.seconds, "evaluations": words.evaluations, "steps": words.steps, "epochs": words.epochs}
    given = [f"--{name}" for name, limit in limits.items() if limit is not None]
    if not given:
        return None
    if len(given) > 1:
        raise UsageError(f"A race has one budget, got {' and '.join(given)}.", "keep one of them")
    try:
        return Budget(words.seconds, words.evaluations, words.steps, words.epochs)
    except ValueError as error:
        raise UsageError(str(error), "for instance --seconds 15, --evaluations 2000, --steps 500 or --epochs 3") from error


def _own_budget(methods: Sequence[Method], training: Training | None) -> Budget:
    """The problem's own number of steps where every method learns from batches; seconds where methods differ in what a step is."""
    if training is not None and all(method.feed is Feed.BATCH for method in methods):
        return Budget(steps=training.steps)
    return Budget(seconds=DEFAULT_SECONDS)


def parse_threads(threads: int) -> int:
    """A number of threads that this machine has.

    Raises:
        UsageError: If it is below one or above what there is.
    """
    available = os.cpu_count() or 1
    if not 1 <= threads <= available:
        raise UsageError(f"--threads needs a number from 1 to {available} on this machine, got {threads}.", "--threads 1 compares best")
    return threads


def default_folder(name: str, resume: bool) -> Path:
    """``runs/PROBLEM-TIME``; to resume, the newest one of this problem if there is one."""
    if resume:
        stem = _file_name(name)
        earlier = sorted(path for path in _RUNS.glob(f"{stem}-*") if re.fullmatch(re.escape(stem) + r"-\d{8}-\d{6}", path.name))
        if earlier:
            return earlier[-1]
    return new_folder(name)


def new_folder(name: str) -> Path:
    """``runs/NAME-TIME``."""
    return _RUNS / f"{_file_name(name)}-{datetime.now():%Y%m%d-%H%M%S}"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)
