"""A step of fixed length: no test, no safeguard but finiteness."""

from __future__ import annotations

from typing import final

from secant.globalization.line import Line, LineSearch, Sample
from secant.step import Outcome


@final
class FixedStep(LineSearch):
    """Walk ``lr`` times ``-H g``, whatever the loss does; a point that is not finite is not entered."""

    def __init__(self) -> None:
        super().__init__(budget=1)

    def _search(self, line: Line, first: float, lr: float) -> tuple[Sample | None, Outcome]:
        sample = line.at(lr)
        return (sample, Outcome.FIXED) if sample.is_finite else line.failure()
