"""What is kept of one method on one CUTEst problem: how low it was after how many evaluations."""

from __future__ import annotations

import json
from enum import Enum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from secant.race.records import Finite, Machine, Setting


class Ending(Enum):
    """How a run ended."""

    BUDGET = "budget"
    STOPPED = "stopped"
    UNBOUNDED = "unbounded"
    FAILED = "failed"


class CutestRecord(BaseModel):
    """One method on one problem.

    Attributes:
        schema_version: Version of this layout.
        problem: Name of the problem.
        parameter_count: ``n``.
        method: Name of the method.
        method_settings: What it was built with.
        evaluations: The budget in gradient equivalents.
        product_price: Gradient equivalents that a Hessian product counts as.
        ending: How the run ended.
        outcome: Why it ended, in words.
        spent: Gradient equivalents used.
        products: Hessian products among them.
        steps: Iterations, as the method counts them.
        start_value: ``f`` at the start.
        value: The smallest finite ``f`` evaluated.
        lost: Whether an iteration ended with parameters that are not finite.
        descent: Pairs of gradient equivalents and the smallest finite ``f`` evaluated within them, one at each improvement; the start at 0 first. Beyond a
            thousand, improvements within 0.1 % of the count before are left out, but never the last.
        cpu_seconds: Process CPU seconds.
        versions: Versions by package.
        machine: What it ran on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    problem: str
    parameter_count: int
    method: str
    method_settings: dict[str, Setting]
    evaluations: int
    product_price: float
    ending: Ending
    outcome: str
    spent: float
    products: int
    steps: int
    start_value: float
    value: Finite
    lost: bool
    descent: tuple[tuple[float, float], ...]
    cpu_seconds: float
    versions: dict[str, str]
    machine: Machine

    @property
    def failed(self) -> bool:
        """Whether the method raised or left parameters that are not finite."""
        return self.ending is Ending.FAILED or self.lost

    @property
    def key(self) -> str:
        """What makes two runs the same run; see :func:`cutest_key`."""
        return cutest_key(self.problem, self.method, self.method_settings, self.evaluations, self.product_price)


def cutest_key(problem: str, method: str, settings: dict[str, Setting], evaluations: int, product_price: float) -> str:
    """The identity of a run, whatever the versions and the machine."""
    return json.dumps([problem, method, sorted(settings.items()), evaluations, product_price])
