"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_INNER = (str(Path(__file__).parent), "torch")


def warn_user(message: str) -> None:
    """A ``UserWarning`` at the nearest line outside this package and torch, so that it shows what to change and is shown once per place."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and _is_inner(frame.f_code.co_filename, str(frame.f_globals.get("__name__", ""))):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _is_inner(file: str, module: str) -> bool:
    return file.startswith(_INNER[0]) or module.partition(".")[0] == _INNER[1]
