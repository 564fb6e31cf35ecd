"""The whole race: every method, member of its grid and seed, one run after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

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
    """

    source: Source
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    budget: Budget
    threads: int = 1
    compiled: bool = False
    techniques: Techniques = PLAIN
    health: HealthRequest | None = None

    def runs(self, seed: int) -> list[Run]:
        """The runs from one seed."""
        return [
            Run(self.source.name, method, variant, seed, self.budget, self.threads, self.compiled, self.techniques, self.health)
            for method in self.methods
            for variant in method.variants
        ]

    @property
    def run_count(self) -> int:
        """How many runs there are in all."""
        return len(self.seeds) * sum(len(method.variants) for method in self.methods)


def race(plan: Plan, finished: Collection[str] = frozenset(), watcher: Watcher | None = None) -> Iterator[RunRecord]:
    """Run the plan, seed by seed, and yield each record as soon as its run has ended.

    The problem is built once per seed, and each run starts from the same parameters.

    Args:
        plan: What to run.
        finished: Keys of runs to leave out (see ``RunRecord.key``).
        watcher: Is told about the progress.
    """
    watcher = watcher or Silent()
    with limited_threads(plan.threads):
        for seed in plan.seeds:
            problem = plan.source.build(seed, plan.compiled)
            start = Snapshot.of(problem)
            for run in plan.runs(seed):
                if run.key(problem) in finished:
                    watcher.skipped(run)
                    continue
                watcher.started(run)
                yield run_isolated(run, problem) if run.method.own_process else run_here(run, problem, start, watcher.moved)
