"""Backtracking until the loss decreases in proportion to the slope."""

from __future__ import annotations

from typing import final

from secant.globalization.line import Line, LineSearch, Sample
from secant.step import Outcome


@final
class Armijo(LineSearch):
    """Backtracking: ``phi(a) <= phi(0) + decrease a phi'(0)``.

    A rejected length is replaced by the minimizer of the parabola through ``phi(0)``, ``phi'(0)`` and ``phi(a)``, kept within a tenth and a half of it.
    Nothing is asked of the new slope, so the curvature ``s.y`` may be negative and the correction is then skipped.

    Args:
        decrease: Share of the linear decrease that is asked for, in (0, 1).
        budget: Evaluations per search.

    Source:
        Armijo (1966); Nocedal & Wright (2006), algorithm 3.1 and eq. 3.58.
    """

    def __init__(self, *, decrease: float = 1e-4, budget: int = 40) -> None:
        if not 0.0 < decrease < 1.0:
            raise ValueError(f"Armijo needs 0 < decrease < 1, got decrease={decrease}.")
        super().__init__(budget)
        self._decrease = decrease

    def _search(self, line: Line, first: float) -> tuple[Sample | None, Outcome]:
        length = first
        while not line.is_exhausted:
            sample = line.at(length)
            if line.has_not_moved(sample):
                break
            if sample.is_finite and sample.loss <= line.origin.loss + self._decrease * length * line.origin.slope:
                return sample, Outcome.ARMIJO
            length = self._shorter(line, sample)
        return line.failure()

    def _shorter(self, line: Line, sample: Sample) -> float:
        length = sample.length
        if not sample.is_finite:
            return 0.1 * length
        excess = sample.loss - line.origin.loss - length * line.origin.slope  # positive: the sample failed the test
        return min(max(-line.origin.slope * length**2 / (2.0 * excess), 0.1 * length), 0.5 * length)
