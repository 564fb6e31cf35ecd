"""A request that cannot be served as it was written."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Bad usage: a sentence that says what was wrong, and the remedy.

    Attributes:
        hint: What to do instead; empty when there is nothing to add.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep the sentence and its remedy."""
        super().__init__(message)
        self.hint = hint


def unknown_name(kind: str, name: str, known: Iterable[str], command: str) -> UsageError:
    """The error for a name that does not exist, with the nearest names that do.

    Args:
        kind: What the name should have named, for instance ``"method"``.
        name: What was asked for.
        known: The names that exist.
        command: The command that lists them.
    """
    nearest = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(nearest)}? `{command}` lists all" if nearest else f"`{command}` lists all"
    return UsageError(f"There is no {kind} named {name!r}.", hint)
