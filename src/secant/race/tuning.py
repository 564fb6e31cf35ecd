"""The best learning rate of every method, found by Optuna on the first seed; the other seeds run that rate alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, final

import optuna
from optuna.samplers import GridSampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import Trial, TrialState
from sqlalchemy.pool import NullPool

from secant.race.machine import limited_threads
from secant.race.plan import Plan, Watcher, carry_out
from secant.race.records import RunRecord, Tuning
from secant.race.runner import Run
from secant.race.snapshot import Snapshot
from secant.race.standings import score_at_end
from secant.race.tuning_plan import has_rates

if TYPE_CHECKING:
    from secant.problems import Problem

STUDY_FILE: Final = "study.db"
"""SQLite, readable by every tool of Optuna."""

Keep: TypeAlias = Callable[[RunRecord], None]
"""Keeps a new record at once."""


class _Broken(BaseException):
    """Carries whatever ends a trial early past Optuna, which would call an interrupted trial finished and never repeat it."""


def race_tuned(plan: Plan, known: Iterable[RunRecord], folder: Path, keep: Keep, watcher: Watcher) -> list[Tuning]:
    """Run a tuned race: from the first seed each grid of learning rates as an Optuna study, from the other seeds the best rate of each.

    A study is kept in ``folder / STUDY_FILE`` and goes on where it stopped: finished trials are not repeated, and neither are runs among ``known``. A run that
    diverged is a finished trial of infinite value.

    Args:
        plan: What to run; its methods are tuned at its techniques and its budget.
        known: Records of finished runs.
        folder: Where the studies are kept; must exist.
        keep: Called with each new record at once.
        watcher: Is told about the progress.

    Returns:
        What each study found, in the order of the methods.
    """
    finished = {record.key: record for record in known}
    tunings: dict[str, Tuning] = {}
    with limited_threads(plan.threads):
        for seed in plan.seeds:
            problem = plan.source.build(seed, plan.compiled)
            ground = _Ground(problem, Snapshot.of(problem), finished, keep, watcher)
            for method in plan.methods:
                runs = [run for run in plan.runs(seed) if run.method is method]
                if has_rates(method) and method.name not in tunings:
                    tunings[method.name] = _study(runs, folder, ground)
                tuning = tunings.get(method.name)
                for run in runs:
                    if tuning is None or run.variant.label == tuning.best:
                        ground.carry_out(run, tuning)
    return list(tunings.values())


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Ground:
    """Where the runs of one seed take place."""

    problem: Problem
    start: Snapshot
    finished: dict[str, RunRecord]
    keep: Keep
    watcher: Watcher

    def carry_out(self, run: Run, tuning: Tuning | None) -> None:
        """Run and keep it with what is known of the grid, unless it was finished before."""
        if run.key(self.problem) in self.finished:
            if tuning is None or run.seed != tuning.seed:
                self.watcher.skipped(run)
            return
        record = carry_out(run, self.problem, self.start, self.watcher)
        self.put(run, record.model_copy(update={"tuning": tuning}))

    def put(self, run: Run, record: RunRecord) -> None:
        """Keep a new record."""
        self.finished[run.key(self.problem)] = record
        self.keep(record)

    def trial(self, run: Run, study: str, values: dict[str, float | None]) -> float:
        """The value of one trial, which is added to ``values``; the record is kept with all of them."""
        known = self.finished.get(run.key(self.problem))
        if known is not None:
            self.watcher.skipped(run)
        record = known or carry_out(run, self.problem, self.start, self.watcher)
        values[run.variant.label] = score_at_end(record)
        if known is None:
            self.put(run, record.model_copy(update={"tuning": _tuning(study, run, values)}))
        return _trial_value(values[run.variant.label])


def _study(runs: Sequence[Run], folder: Path, ground: _Ground) -> Tuning:
    """Run what is missing of a grid."""
    by_rate = {float(run.variant.settings["lr"]): run for run in runs}
    name = _study_name(runs, ground.problem)
    with _quiet():
        storage = RDBStorage(f"sqlite:///{folder / STUDY_FILE}", engine_kwargs={"poolclass": NullPool})
        sampler = GridSampler({"lr": list(by_rate)})
        study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, sampler=sampler)
        values = _finished_trials(study, by_rate, ground.watcher)

        def objective(trial: Trial) -> float:
            run = by_rate[trial.suggest_float("lr", min(by_rate), max(by_rate), log=True)]
            try:
                return ground.trial(run, name, values)
            except BaseException as error:
                raise _Broken from error

        try:
            if not sampler.is_exhausted(study):
                study.optimize(objective)
        except _Broken as broken:
            raise broken.__cause__ or broken from None
        finally:
            storage.remove_session()
    return _tuning(name, runs[0], values)


def _finished_trials(study: Study, by_rate: Mapping[float, Run], watcher: Watcher) -> dict[str, float | None]:
    """The values of earlier trials by the label of their run."""
    values: dict[str, float | None] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        run = by_rate[trial.params["lr"]]
        if run.variant.label not in values:
            watcher.skipped(run)
        values[run.variant.label] = trial.value if trial.value is not None and math.isfinite(trial.value) else None
    return values


def _study_name(runs: Sequence[Run], problem: Problem) -> str:
    """Problem and method in words, and a digest of everything that makes these runs what they are: another grid or budget is another study."""
    digest = hashlib.sha256("\n".join(run.key(problem) for run in runs).encode()).hexdigest()
    return f"{runs[0].problem_name} {runs[0].method.name} {digest[:8]}"


def _tuning(study: str, run: Run, values: Mapping[str, float | None]) -> Tuning:
    ordered = {variant.label: values[variant.label] for variant in run.method.variants if variant.label in values}
    return Tuning(study=study, method=run.method.name, seed=run.seed, values=ordered, best=min(ordered, key=lambda label: _trial_value(ordered[label])))


def _trial_value(value: float | None) -> float:
    return math.inf if value is None or not math.isfinite(value) else value


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says nothing inside the block: the race has its own lines."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
