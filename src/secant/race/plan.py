"""The whole race: every method, member of its grid and seed, one run after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from secant.race.budget import Budget
from secant.race.health_log import HealthRequest
from secant.race.isolated import run_isolated
from secant.race.machine import limited_threads
from secant.race.method import Method
from secant.race.records import RunRecord, TracePoint
from secant.race.runner import Run, run_here
from secant.race.snapshot import Snapshot
from secant.race.source import Source
from secant.race.techniques import PLAIN, Techniques

if TYPE_CHECKING:
    from secant.problems import Problem


class Watcher(Protocol):
    """Is told what happens. Called only while no clock runs."""

    def started(self, run: Run) -> None:
        """A run begins."""

    def moved(self, point: TracePoint, share: float) -> None:
        """The run has come this far, and has spent this share of its budget."""

    def skipped(self, run: Run) -> None:
        """The run is left out, because it was finished before."""


class Silent:
    """A watcher that keeps what it is told to itself."""

    def started(self, run: Run) -> None:
        """Nothing."""

    def moved(self, point: TracePoint, share: float) -> None:
        """Nothing."""

    def skipped(self, run: Run) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A race before it is run.

    Attributes:
        source: The problem.
        methods: The entrants.
        seeds: Seeds of the initial parameters.
        budget: The limit of each run.
        threads: Threads of torch and BLAS.
        compiled: Whether the loss is compiled, for every method alike.
        techniques: Training techniques, for every method alike.
        health: When to look at the gradients; None never.
        members: By method, the label of the only member of its grid that is run; methods that are not named run all of it.
        setting: What tells the plan from others of a comparison; empty elsewhere.
    """

    source: Source
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    budget: Budget
    threads: int = 1
    compiled: bool = False
    techniques: Techniques = PLAIN
    health: HealthRequest | None = None
    members: Mapping[str, str] = field(default_factory=dict)
    setting: str = ""

    def runs(self, seed: int) -> list[Run]:
        """The runs from one seed."""
        return [
            Run(self.source.name, method, variant, seed, self.budget, self.threads, self.compiled, self.techniques, self.health, self.setting)
            for method in self.methods
            for variant in method.variants
            if self.members.get(method.name, variant.label) == variant.label
        ]

    @property
    def run_count(self) -> int:
        """How many runs there are in all."""
        return sum(len(self.runs(seed)) for seed in self.seeds)


def race(plan: Plan, finished: Collection[str] = frozenset(), watcher: Watcher | None = None) -> Iterator[RunRecord]:
    """Run the plan, seed by seed, and yield each record as soon as its run has ended; see :func:`race_all`."""
    return race_all((plan,), finished, watcher)


def race_all(plans: Sequence[Plan], finished: Collection[str] = frozenset(), watcher: Watcher | None = None) -> Iterator[RunRecord]:
    """Run several plans side by side, seed by seed, and yield each record as soon as its run has ended.

    The problem is built once per seed, and each run starts from the same parameters.

    Args:
        plans: What to run: at least one, all of the same problem, seeds, threads and compilation.
        finished: Keys of runs to leave out (see ``RunRecord.key``).
        watcher: Is told about the progress.
    """
    watcher, first = watcher or Silent(), plans[0]
    with limited_threads(first.threads):
        for seed in first.seeds:
            problem = first.source.build(seed, first.compiled)
            start = Snapshot.of(problem)
            for run in (run for plan in plans for run in plan.runs(seed)):
                if run.key(problem) in finished:
                    watcher.skipped(run)
                    continue
                yield carry_out(run, problem, start, watcher)


def carry_out(run: Run, problem: Problem, start: Snapshot, watcher: Watcher) -> RunRecord:
    """The record of one run, here or in a process of its own."""
    watcher.started(run)
    return run_isolated(run, problem) if run.method.own_process else run_here(run, problem, start, watcher.moved)
