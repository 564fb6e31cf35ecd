"""The textbook line search for the strong Wolfe conditions, by cubic interpolation."""

from __future__ import annotations

import math
from typing import final

from secant.globalization.line import Line, LineSearch, Sample, cubic_minimizer
from secant.step import Outcome


@final
class StrongWolfe(LineSearch):
    """``phi(a) <= phi(0) + decrease a phi'(0)`` and ``|phi'(a)| <= curvature |phi'(0)|``.

    Args:
        decrease: ``c1``, in (0, curvature).
        curvature: ``c2``, in (decrease, 1).
        budget: Evaluations per search.

    Source:
        Nocedal & Wright (2006), algorithms 3.5 and 3.6, cubic interpolation eq. 3.59. Departure: a value that is not finite counts as a loss above the line of
        sufficient decrease, and the interval to it is cut to a tenth.
    """

    def __init__(self, *, decrease: float = 1e-4, curvature: float = 0.9, budget: int = 40) -> None:
        if not 0.0 < decrease < curvature < 1.0:
            raise ValueError(f"StrongWolfe needs 0 < decrease < curvature < 1, got decrease={decrease}, curvature={curvature}.")
        super().__init__(budget)
        self._decrease = decrease
        self._curvature = curvature

    def _search(self, line: Line, first: float) -> tuple[Sample | None, Outcome]:
        previous, length = line.origin, first
        while not line.is_exhausted:
            sample = line.at(length)
            if not self._decreases(line, sample) or (previous.length > 0.0 and sample.loss >= previous.loss):
                return self._zoom(line, previous, sample)
            if self._is_flat(line, sample):
                return sample, Outcome.STRONG_WOLFE
            if sample.slope >= 0.0:
                return self._zoom(line, sample, previous)
            if sample.length >= line.limit:
                return sample, Outcome.LONGEST
            previous, length = sample, min(_expanded(previous, sample), line.limit)
        return line.failure()

    def _zoom(self, line: Line, low: Sample, high: Sample) -> tuple[Sample | None, Outcome]:
        """Shrink an interval whose end ``low`` decreases most of all the lengths that decrease sufficiently."""
        while not line.is_exhausted:
            length = _inside(low, high)
            if length in (low.length, high.length):
                break
            sample = line.at(length)
            if not self._decreases(line, sample) or sample.loss >= low.loss:
                high = sample
                continue
            if self._is_flat(line, sample):
                return sample, Outcome.STRONG_WOLFE
            if sample.slope * (high.length - low.length) >= 0.0:
                high = low
            low = sample
        return line.failure()

    def _decreases(self, line: Line, sample: Sample) -> bool:
        return sample.is_finite and sample.loss <= line.origin.loss + self._decrease * sample.length * line.origin.slope

    def _is_flat(self, line: Line, sample: Sample) -> bool:
        return abs(sample.slope) <= -self._curvature * line.origin.slope


def _inside(low: Sample, high: Sample) -> float:
    """A length between two samples: the cubic's minimizer kept a tenth away from the ends, the middle where there is none."""
    width = high.length - low.length
    if not high.is_finite:
        return low.length + 0.1 * width
    length = cubic_minimizer(low, high)
    if math.isnan(length):
        return low.length + 0.5 * width
    share = min(max((length - low.length) / width, 0.1), 0.9)
    return low.length + share * width


def _expanded(previous: Sample, sample: Sample) -> float:
    """A longer length: the cubic's minimizer where it lies between twice and ten times as far, else the nearer bound."""
    length = cubic_minimizer(previous, sample)
    if math.isnan(length) or length <= sample.length:
        return 10.0 * sample.length if math.isnan(length) else 2.0 * sample.length
    return min(max(length, 2.0 * sample.length), 10.0 * sample.length)
