"""How much a run may spend, and the signal that it is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass


class BudgetExhausted(Exception):  # noqa: N818 - a signal like StopIteration, not an error
    """Raised by the counted closure instead of one evaluation too many. Ends a run; nothing went wrong."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on CPU seconds or on evaluations: exactly one of the two.

    Attributes:
        seconds: Process CPU seconds, summed over all threads.
        evaluations: Evaluations of the loss with its gradient.

    Raises:
        ValueError: If both or none are given, or the one given is not positive.
    """

    seconds: float | None = None
    evaluations: int | None = None

    def __post_init__(self) -> None:
        """Check that exactly one positive limit is set."""
        if (self.seconds is None) == (self.evaluations is None):
            raise ValueError(f"A budget is either seconds or evaluations, got seconds={self.seconds}, evaluations={self.evaluations}.")
        limit = self.seconds if self.evaluations is None else self.evaluations
        if limit is None or not math.isfinite(limit) or limit <= 0:
            raise ValueError(f"A budget needs a positive finite limit, got {limit}.")

    def is_used_up(self, evaluations: int, cpu_seconds: float) -> bool:
        """Whether nothing is left for one more evaluation."""
        if self.evaluations is not None:
            return evaluations >= self.evaluations
        return self.seconds is not None and cpu_seconds >= self.seconds

    def fraction(self, evaluations: int, cpu_seconds: float) -> float:
        """The spent share of the budget, between 0 and 1."""
        spent = evaluations / self.evaluations if self.evaluations is not None else cpu_seconds / (self.seconds or math.inf)
        return min(1.0, spent)

    @property
    def text(self) -> str:
        """The limit in words, with its unit."""
        return f"{self.seconds:g} s of CPU time" if self.evaluations is None else f"{self.evaluations} evaluations"
