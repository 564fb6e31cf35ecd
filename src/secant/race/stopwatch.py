"""The clock of a race: process CPU time, wall time beside it, and pauses that count for nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final


@final
class Stopwatch:
    """CPU and wall seconds between ``start`` and ``stop``, without the pauses.

    CPU time is ``time.process_time``: user and system time summed over all threads of this process, so a machine that is busy with other work does not slow
    a method down, and threads are paid for.
    """

    def __init__(self) -> None:
        """A stopped clock at zero."""
        self._cpu = 0.0
        self._wall = 0.0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        """Run from now on; a running clock just goes on."""
        if self._since is None:
            self._since = (time.process_time(), time.perf_counter())

    def stop(self) -> None:
        """Stand still; a stopped clock stays as it is."""
        if self._since is not None:
            self._cpu, self._wall = self.cpu_seconds, self.wall_seconds
            self._since = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still inside the block, and run again after it if the clock ran before."""
        was_running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if was_running:
                self.start()

    @property
    def cpu_seconds(self) -> float:
        """Process CPU seconds counted so far."""
        return self._cpu if self._since is None else self._cpu + time.process_time() - self._since[0]

    @property
    def wall_seconds(self) -> float:
        """Wall-clock seconds counted so far."""
        return self._wall if self._since is None else self._wall + time.perf_counter() - self._since[1]
