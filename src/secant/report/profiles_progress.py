"""What the user sees while the CUTEst race runs, on stderr: one line per finished problem and one that moves."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from secant.race.cutest_records import CutestRecord, Ending
from secant.report.numbers import count, magnitude


@final
class ProblemLines:
    """A watcher that prints; redrawn only when told."""

    def __init__(self, problems: int, methods: int) -> None:
        """Ready to count ``problems`` of ``methods`` runs each."""
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[state]}"))
        self._bar = Progress(*columns, console=self._console, auto_refresh=False, transient=True)
        self._task = self._bar.add_task("", total=problems * methods, state="")
        self._problems, self._methods = problems, methods
        self._number = 0

    def __enter__(self) -> ProblemLines:
        """Take the last line of the terminal."""
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give it back."""
        if self._console.is_terminal:
            self._bar.stop()

    def problem(self, name: str) -> None:
        """A problem is being built."""
        self._number += 1
        self._show(f"{self._number}/{self._problems} {name}", "reading the problem", (self._number - 1) * self._methods)

    def run(self, name: str, method: str, done: int) -> None:
        """A run starts; ``done`` of this problem are behind it."""
        self._show(f"{self._number}/{self._problems} {name} {method}", "", (self._number - 1) * self._methods + done)

    def moved(self, spent: float, value: float) -> None:
        """The present run has come so far."""
        if self._console.is_terminal:
            self._bar.update(self._task, state=f"{magnitude(value)}, {count(spent)} evaluations", refresh=True)

    def finished(self, name: str, records: Sequence[CutestRecord]) -> None:
        """One line that stays for the problem, and one for each run that failed."""
        values = [record.value for record in records if record.value is not None]
        lowest = min(values, default=None)
        falls = any(record.ending is Ending.UNBOUNDED for record in records)
        said = "unbounded" if falls else f"lowest {magnitude(lowest)}"
        self._print(f"{self._number}/{self._problems} {name}: {said}")
        for record in records:
            if record.failed:
                reason = record.outcome if record.ending is Ending.FAILED else "left parameters that are not finite"
                self._print(f"  {record.method}: {reason}")

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _show(self, description: str, state: str, completed: int) -> None:
        self._bar.update(self._task, description=description, state=state, completed=completed, refresh=self._console.is_terminal)
