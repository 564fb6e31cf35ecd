"""Who came where: median and range over the seeds, the best member of each grid."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from secant.race.records import RunRecord, Status


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of one number over the seeds; infinite where a run has no finite value."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Standing:
    """One method's result.

    Attributes:
        method: Name of the method.
        variant: The best member of its grid, empty without a grid.
        runs: Its records for that member, by seed.
        others: The standings of the other members, best first.
        score: The error at the end, or the loss when the problem has no error.
        loss: The loss at the end.
        test_loss: The loss on held-out data at the end; infinite without any.
        accuracy: Share of the held-out samples classified right at the end; infinite where nothing is classified.
        steps: Iterations.
        evaluations: Losses with gradients.
        cpu_seconds: Process CPU seconds.
        wall_seconds: Wall-clock seconds.
        outcome: Why the runs ended, each reason once.
    """

    method: str
    variant: str
    runs: tuple[RunRecord, ...]
    others: tuple[Standing, ...]
    score: Spread
    loss: Spread
    test_loss: Spread
    accuracy: Spread
    steps: float
    evaluations: float
    cpu_seconds: float
    wall_seconds: float
    outcome: str

    @property
    def failures(self) -> int:
        """How many of its runs failed."""
        return sum(run.status is Status.FAILED for run in self.runs)

    @property
    def name(self) -> str:
        """Method and member of the grid."""
        return f"{self.method} ({self.variant})" if self.variant else self.method


def standings(records: Iterable[RunRecord]) -> list[Standing]:
    """One standing per method, the lowest median score first.

    Of a grid, the member with the lowest median counts, among those run from the most seeds: a grid that was tried on one seed says no more than which member
    to run from the others.
    """
    by_member: dict[str, dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        by_member[record.method][record.variant].append(record)
    best = []
    for members in by_member.values():
        ranked = sorted((_standing(runs, ()) for runs in members.values()), key=lambda place: (-len(place.runs), _rank(place)))
        best.append(_standing(ranked[0].runs, tuple(ranked[1:])))
    return sorted(best, key=_rank)


def _rank(standing: Standing) -> tuple[float, int, float, float]:
    return standing.score.median, standing.failures, standing.score.lowest, standing.cpu_seconds


def score(record: RunRecord) -> float | None:
    """What a run is judged by: its error, or its loss when the problem has no error."""
    return record.loss if record.error_name is None else record.error


def score_at_end(record: RunRecord) -> float | None:
    """The same for a run that came to its end: one that failed has reached nothing, even if what it stood at can be measured."""
    return None if record.status is Status.FAILED else score(record)


def _standing(runs: Sequence[RunRecord], others: tuple[Standing, ...]) -> Standing:
    def median(number: Callable[[RunRecord], float]) -> float:
        return statistics.median(number(run) for run in runs)

    return Standing(
        method=runs[0].method,
        variant=runs[0].variant,
        runs=tuple(sorted(runs, key=lambda run: run.seed)),
        others=others,
        score=spread_of(score(run) for run in runs),
        loss=spread_of(run.loss for run in runs),
        test_loss=spread_of(run.trace[-1].test_loss if run.trace else None for run in runs),
        accuracy=spread_of(run.trace[-1].accuracy if run.trace else None for run in runs),
        steps=median(lambda run: run.steps),
        evaluations=median(lambda run: run.evaluations),
        cpu_seconds=median(lambda run: run.cpu_seconds),
        wall_seconds=median(lambda run: run.wall_seconds),
        outcome=" ".join(dict.fromkeys(run.outcome for run in runs)),
    )


def spread_of(values: Iterable[float | None]) -> Spread:
    """Median and range of what may be missing; a missing number counts as infinite."""
    numbers = sorted(math.inf if value is None else value for value in values)
    middle = len(numbers) // 2
    # The upper of the two middle values when their mean would hide an infinite one.
    median = numbers[middle] if math.isinf(numbers[middle]) else statistics.median(numbers)
    return Spread(median, numbers[0], numbers[-1])
