"""Which method solves which CUTEst problem after how many evaluations, and the profiles that follow from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from secant.problems.cutest_best import BestValues
from secant.race.cutest_records import CutestRecord, Ending

TAU: Final = 1e-8
"""A problem is solved at the first ``f <= f* + TAU (f0 - f*)``."""

REFERENCE: Final = "torch-lbfgs"
"""Every method is compared with it, where it runs."""

Steps: TypeAlias = tuple[tuple[float, float], ...]
"""Corners ``(x, share of the problems)`` of a rising staircase: the share holds from ``x`` on."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Runs of several methods on the same problems, judged.

    Attributes:
        methods: In the order of the runs.
        problems: The bounded problems that every method ran on.
        unbounded: The unbounded ones.
        best: ``f*`` of each bounded problem: the smallest known value, or the smallest of these runs where it is lower.
        runs: The records by method and problem.
        solved_at: Gradient equivalents at which a method solved a problem; infinite where it did not.
        improved: Problems on which these runs went below the known value by more than ``TAU`` allows.
    """

    methods: tuple[str, ...]
    problems: tuple[str, ...]
    unbounded: tuple[str, ...]
    best: Mapping[str, float]
    runs: Mapping[tuple[str, str], CutestRecord]
    solved_at: Mapping[tuple[str, str], float]
    improved: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """One method's result over the bounded problems.

    Attributes:
        method: Its name.
        solved: How many it solved.
        share: The same over all.
        median_common: Median gradient equivalents over the problems that every method solved; infinite without any.
        against: Its median gradient equivalents over those of the reference, on the problems that both solve; infinite without any.
        shared: How many problems both solve.
        raised: Runs that ended in an exception, on unbounded problems too.
        lost: Runs that left parameters that are not finite.
    """

    method: str
    solved: int
    share: float
    median_common: float
    against: float
    shared: int
    raised: int
    lost: int


def solved_after(record: CutestRecord, best: float, tau: float = TAU) -> float:
    """Gradient equivalents until ``f <= f* + tau (f0 - f*)``; infinite where the run never came so low."""
    target = best + tau * max(0.0, record.start_value - best)
    return next((spent for spent, value in record.descent if value <= target), math.inf)


def judge(records: Sequence[CutestRecord], known: BestValues) -> Judged:
    """The verdict on runs of one budget and product price. Problems that some method has not run yet are left out."""
    methods = tuple(dict.fromkeys(record.method for record in records))
    runs = {(record.method, record.problem): record for record in records}
    complete = [problem for problem in dict.fromkeys(record.problem for record in records) if all((method, problem) in runs for method in methods)]
    unbounded = known.unbounded | {record.problem for record in records if record.ending is Ending.UNBOUNDED}
    problems = tuple(problem for problem in complete if problem not in unbounded)
    best, improved = {}, []
    for problem in problems:
        here = [runs[method, problem] for method in methods]
        lowest = min((record.value for record in here if record.value is not None), default=math.inf)
        before = known.values.get(problem, math.inf)
        best[problem] = min(lowest, before)
        if math.isfinite(before) and lowest < before - TAU * abs(here[0].start_value - before):
            improved.append(problem)
    solved_at = {(method, problem): solved_after(runs[method, problem], best[problem]) for method in methods for problem in problems}
    return Judged(methods, problems, tuple(problem for problem in complete if problem in unbounded), best, runs, solved_at, tuple(improved))


def places(judged: Judged) -> list[Place]:
    """The methods, most problems solved first; among equals the fewer evaluations first."""
    common = [problem for problem in judged.problems if all(math.isfinite(judged.solved_at[method, problem]) for method in judged.methods)]
    found = [_place(judged, method, common) for method in judged.methods]
    return sorted(found, key=lambda place: (-place.solved, place.median_common, place.against))


def _place(judged: Judged, method: str, common: Sequence[str]) -> Place:
    spent = {problem: judged.solved_at[method, problem] for problem in judged.problems}
    solved = sum(map(math.isfinite, spent.values()))
    reference = {problem: judged.solved_at.get((REFERENCE, problem), math.inf) for problem in judged.problems}
    shared = [problem for problem in judged.problems if math.isfinite(spent[problem]) and math.isfinite(reference[problem])]
    own = [judged.runs[method, problem] for problem in (*judged.problems, *judged.unbounded)]
    return Place(
        method=method,
        solved=solved,
        share=solved / len(spent) if spent else 0.0,
        median_common=_median(spent[problem] for problem in common),
        against=_median(spent[problem] for problem in shared) / _median(reference[problem] for problem in shared) if shared else math.inf,
        shared=len(shared),
        raised=sum(record.ending is Ending.FAILED for record in own),
        lost=sum(record.lost for record in own),
    )


def _median(values: Iterable[float]) -> float:
    return statistics.median(found) if (found := list(values)) else math.inf


def performance_profile(judged: Judged, method: str) -> Steps:
    """The share of problems that ``method`` solves within ``a`` times the evaluations of the fastest method, from ``a = 1`` on.

    Source:
        Dolan & More (2002), Math. Program. 91, section 2. Problems that no method solves stay in the denominator.
    """
    fastest = {problem: min(judged.solved_at[other, problem] for other in judged.methods) for problem in judged.problems}
    ratios = [judged.solved_at[method, problem] / fastest[problem] for problem in judged.problems if math.isfinite(judged.solved_at[method, problem])]
    return _staircase(ratios, len(judged.problems), 1.0)


def data_profile(judged: Judged, method: str) -> Steps:
    """The share of problems that ``method`` solves within ``k`` gradient equivalents, from ``k = 1`` on.

    Source:
        More & Wild (2009), SIAM J. Optim. 20, section 2. Departure: gradients are given, so the unit is one gradient, not ``n + 1`` values.
    """
    spent = [judged.solved_at[method, problem] for problem in judged.problems]
    return _staircase([value for value in spent if math.isfinite(value)], len(judged.problems), 1.0)


def _staircase(values: Iterable[float], total: int, first: float) -> Steps:
    corners = {first: 0.0}
    for number, value in enumerate(sorted(values), start=1):
        corners[max(value, first)] = number / total
    return tuple(corners.items())
