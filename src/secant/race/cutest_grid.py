"""Every method on every problem, a problem at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from secant.problems.cutest import build_cutest
from secant.race.cutest_records import CutestRecord, cutest_key
from secant.race.cutest_request import CutestRequest
from secant.race.cutest_run import run_cutest
from secant.race.machine import limited_threads
from secant.race.method import Method
from secant.race.snapshot import Snapshot


class Watcher(Protocol):
    """Is told how far the grid is."""

    def problem(self, name: str) -> None:
        """A problem is being built."""

    def run(self, name: str, method: str, done: int) -> None:
        """A run starts; ``done`` of this problem are behind it."""

    def moved(self, spent: float, value: float) -> None:
        """The present run has come so far."""

    def finished(self, name: str, records: Sequence[CutestRecord]) -> None:
        """All methods have run on the problem."""


def run_grid(request: CutestRequest, finished: dict[str, CutestRecord], keep: Callable[[CutestRecord], None], watcher: Watcher) -> None:
    """Run what is not finished, and give each new record to ``keep`` at once.

    A problem of which every run is finished is not even built.

    Args:
        request: What to run.
        finished: Earlier records by key.
        keep: Takes a new record.
        watcher: See above.

    Raises:
        DataError: The package with the problems is not installed.
    """
    with limited_threads(request.threads):
        for name in request.problems:
            watcher.problem(name)
            watcher.finished(name, _run_problem(request, name, finished, keep, watcher))


def record_key(request: CutestRequest, method: Method, problem: str) -> str:
    """The key of a record that the request asks for."""
    return cutest_key(problem, method.name, dict(method.variants[0].settings), request.evaluations, request.product_price)


def _run_problem(
    request: CutestRequest, name: str, finished: dict[str, CutestRecord], keep: Callable[[CutestRecord], None], watcher: Watcher
) -> list[CutestRecord]:
    keys = [record_key(request, method, name) for method in request.methods]
    records = [finished[key] for key in keys if key in finished]
    if len(records) == len(keys):
        return records
    problem = build_cutest(name)
    start = Snapshot.of(problem)
    for done, (method, key) in enumerate(zip(request.methods, keys, strict=True)):
        if key in finished:
            continue
        watcher.run(name, method.name, done)
        record = run_cutest(method, problem, start, request.evaluations, product_price=request.product_price, watch=watcher.moved)
        keep(record)
        records.append(record)
    return records
