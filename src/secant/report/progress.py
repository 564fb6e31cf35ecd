"""What the user sees while long work runs, on stderr: in a race one line per finished run and one that moves, in an inspection one line that moves."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from secant.progress import ProgressLine, terminal_line
from secant.race.records import RunRecord, Status, TracePoint
from secant.race.runner import Run
from secant.report.numbers import count, duration, magnitude
from secant.report.table import percent


@final
class ProgressLines:
    """A watcher that prints. Redrawn only when told, while no clock runs: no thread of its own takes CPU time from a race."""

    def __init__(self, total: int) -> None:
        """Ready to count ``total`` runs."""
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[state]}"), console=self._console, auto_refresh=False, transient=True
        )
        self._task = self._bar.add_task("", total=1.0, state="")
        self._total = total
        self._number = 0
        self._run: Run | None = None

    def __enter__(self) -> ProgressLines:
        """Take the last line of the terminal."""
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give it back."""
        if self._console.is_terminal:
            self._bar.stop()

    def started(self, run: Run) -> None:
        """Name the run."""
        self._number += 1
        self._run = run
        self._bar.update(self._task, completed=0.0, description=f"{self._number}/{self._total} {run.label}", state="", refresh=self._console.is_terminal)

    def moved(self, point: TracePoint, share: float) -> None:
        """Move the bar to the spent share of the budget."""
        if self._run is None or not self._console.is_terminal:
            return
        what = f"error {magnitude(point.error)}" if point.error is not None else f"loss {magnitude(point.loss)}"
        state = f"{what}, {count(point.evaluations)} evaluations, {duration(point.cpu_seconds)}"
        self._bar.update(self._task, completed=share, state=state, refresh=True)

    def skipped(self, run: Run) -> None:
        """Say that the run was finished before."""
        self._number += 1
        self._console.print(f"{self._number}/{self._total} {run.label}: finished before", markup=False, soft_wrap=True)

    def finished(self, record: RunRecord) -> None:
        """One line that stays."""
        label = f"{self._number}/{self._total} {self._run.label if self._run else record.method}"
        if record.status is Status.FAILED:
            self._console.print(f"{label}: failed. {record.outcome}", markup=False, soft_wrap=True)
            return
        measure = f"error {magnitude(record.error)}" if record.error_name else f"loss {magnitude(record.loss)}"
        if record.trace and record.trace[-1].test_loss is not None:
            measure += f", test loss {magnitude(record.trace[-1].test_loss)}"
        if record.trace and record.trace[-1].accuracy is not None:
            measure += f", accuracy {percent(record.trace[-1].accuracy)}"
        spent = f"{count(record.evaluations)} evaluations, {duration(record.cpu_seconds)} CPU"
        self._console.print(f"{label}: {measure} ({spent})", markup=False, soft_wrap=True)


def stage_lines(every_seconds: float = 10.0) -> ProgressLine:
    """A line on stderr that overwrites itself; where stderr is not a terminal, a new line at most every so many seconds."""
    if sys.stderr.isatty():
        return terminal_line()
    next_at = time.monotonic() + every_seconds

    def show(text: str) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + every_seconds
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    return show
