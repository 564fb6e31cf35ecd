"""Lines that say how far long work has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

ProgressLine = Callable[[str], object]
"""Takes one line of text; it is called often and decides itself what to show."""


def terminal_line(every_seconds: float = 0.5) -> ProgressLine:
    """A line on stderr that overwrites itself, at most every so many seconds; silent where stderr is not a terminal."""
    if not sys.stderr.isatty():
        return lambda text: None
    shown_at = -every_seconds

    def show(text: str) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at >= every_seconds:
            shown_at = now
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    return show


def end_line() -> None:
    """Clear the line that ``terminal_line`` left."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
