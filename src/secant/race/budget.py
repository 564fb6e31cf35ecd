"""How much a run may spend, and the signal that it is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass

_ROUNDING = 1e-9
"""Of a product such as 0.29 epochs times 100 evaluations, which is 28.999999999999996 in floating point."""


class BudgetExhausted(Exception):  # noqa: N818 - a signal like StopIteration, not an error
    """Raised by the counted closure instead of one evaluation too many. Ends a run; nothing went wrong."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on CPU seconds, evaluations, steps or epochs: exactly one of the four.

    Attributes:
        seconds: Process CPU seconds, summed over all threads.
        evaluations: Evaluations of the loss with its gradient, over the full batch or over one micro-batch.
        steps: Iterations, as the method counts them.
        epochs: Passes over the data; an evaluation over the full batch is one.

    Raises:
        ValueError: If several or none are given, or the one given is not positive.
    """

    seconds: float | None = None
    evaluations: int | None = None
    steps: int | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        """Check that exactly one positive limit is set."""
        limits = {"seconds": self.seconds, "evaluations": self.evaluations, "steps": self.steps, "epochs": self.epochs}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        if len(given) != 1:
            found = ", ".join(f"{name}={limit}" for name, limit in given.items()) or "none"
            raise ValueError(f"A budget is either seconds, evaluations, steps or epochs, got {found}.")
        ((_, limit),) = given.items()
        if not math.isfinite(limit) or limit <= 0:
            raise ValueError(f"A budget needs a positive finite limit, got {limit}.")

    def counted(self, evaluations_per_epoch: float) -> Budget:
        """The limit that a run is held to: epochs become evaluations, rounded down but to one at least; every other limit stays."""
        if self.epochs is None:
            return self
        return Budget(evaluations=max(1, math.floor(self.epochs * evaluations_per_epoch * (1.0 + _ROUNDING))))

    def is_used_up(self, evaluations: float, cpu_seconds: float, steps: int = 0) -> bool:
        """Whether nothing is left for one more evaluation.

        Raises:
            ValueError: If the limit is in epochs; see :meth:`counted`.
        """
        return self._share(evaluations, cpu_seconds, steps) >= 1.0

    def fraction(self, evaluations: float, cpu_seconds: float, steps: int = 0) -> float:
        """The spent share of the budget, between 0 and 1; errors as in :meth:`is_used_up`."""
        return min(1.0, self._share(evaluations, cpu_seconds, steps))

    def steps_of(self, evaluations_per_step: int) -> int | None:
        """How many steps a run takes that evaluates so often in each; None when seconds decide."""
        return self.steps if self.evaluations is None else self.evaluations // evaluations_per_step

    @property
    def text(self) -> str:
        """The limit in words, with its unit."""
        if self.seconds is not None:
            return f"{self.seconds:g} s of CPU time"
        if self.epochs is not None:
            return f"{self.epochs:g} epochs"
        return f"{self.steps} steps" if self.evaluations is None else f"{self.evaluations} evaluations"

    def _share(self, evaluations: float, cpu_seconds: float, steps: int) -> float:
        if self.evaluations is not None:
            return evaluations / self.evaluations
        if self.steps is not None:
            return steps / self.steps
        if self.seconds is None:
            raise ValueError(f"Expected a limit that can be counted, got {self.text}. Convert it with counted().")
        return cpu_seconds / self.seconds
