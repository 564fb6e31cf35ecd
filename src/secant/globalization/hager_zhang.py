"""Hager and Zhang's line search, which keeps working where the loss is lost in rounding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from secant.globalization.line import Line, LineSearch, Sample
from secant.step import Outcome

_EXPANSION = 5.0  # rho: growth of the trial length while the loss still falls
_SHRINKAGE = 0.66  # gamma: a bracket that shrinks less than this per round is bisected


@dataclass(frozen=True, slots=True, eq=False)
class _Bracket:
    """An interval with the minimizer inside: the slope at ``low`` is negative, ``high`` lies beyond; ``found`` ends the search."""

    low: Sample
    high: Sample
    found: Sample | None = None

    @property
    def width(self) -> float:
        return abs(self.high.length - self.low.length)


@final
class HagerZhang(LineSearch):
    """Approximate Wolfe conditions, bracketing, double secant steps and bisection.

    A length is accepted when the Wolfe conditions hold, ``phi(a) - phi(0) <= decrease a phi'(0)`` and ``phi'(a) >= curvature phi'(0)``, or when their
    derivative form holds, ``(2 decrease - 1) phi'(0) >= phi'(a) >= curvature phi'(0)``, and the loss rose by no more than its rounding. The second form
    needs no difference of losses: it still decides when the decrease is below the last digit of the loss.

    Args:
        decrease: ``delta``, in (0, 1/2).
        curvature: ``sigma``, in (decrease, 1).
        budget: Evaluations per search.

    Source:
        Hager & Zhang (2005), SIAM J. Optim. 16(1), section 4 and algorithm L0 to L3; constants from Hager & Zhang (2006), ACM TOMS 32(1). Departures: their
        ``epsilon |phi(0)|`` is the noise of the loss (9e-13 of it in float64), not 1e-6 of it; the bracket starts from the last
        length on the way out, not from 0; a value that is not finite counts as beyond the minimizer.
    """

    def __init__(self, *, decrease: float = 0.1, curvature: float = 0.9, budget: int = 40) -> None:
        if not 0.0 < decrease < 0.5 or not decrease < curvature < 1.0:
            raise ValueError(f"HagerZhang needs 0 < decrease < 1/2 and decrease < curvature < 1, got decrease={decrease}, curvature={curvature}.")
        super().__init__(budget)
        self._decrease = decrease
        self._curvature = curvature

    def _search(self, line: Line, first: float) -> tuple[Sample | None, Outcome]:
        bracket = self._enclose(line, first)
        while bracket is not None and bracket.found is None and not line.is_exhausted:
            shrunk = self._double_secant(line, bracket)
            if shrunk.found is None and shrunk.width > _SHRINKAGE * bracket.width:
                shrunk = self._update(line, shrunk, 0.5 * (shrunk.low.length + shrunk.high.length))
            if shrunk.found is None and shrunk.width >= bracket.width:
                break  # neighbouring floating-point numbers
            bracket = shrunk
        if bracket is None or bracket.found is None:
            return line.failure()
        outcome = self._accepts(line, bracket.found)
        assert outcome is not None
        return bracket.found, outcome

    def _accepts(self, line: Line, sample: Sample) -> Outcome | None:
        if not sample.is_finite or sample.length <= 0.0:
            return None
        if sample.slope < self._curvature * line.origin.slope:
            return Outcome.LONGEST if sample.length >= line.limit and self._is_low(line, sample) else None
        if sample.loss - line.origin.loss <= self._decrease * sample.length * line.origin.slope:
            return Outcome.WOLFE
        if sample.slope <= (2.0 * self._decrease - 1.0) * line.origin.slope and sample.loss <= line.origin.loss + line.rounding:
            return Outcome.APPROXIMATE_WOLFE
        return None

    def _is_low(self, line: Line, sample: Sample) -> bool:
        """Still before the minimizer: downhill and not above the start."""
        return sample.is_finite and sample.slope < 0.0 and sample.loss <= line.origin.loss + line.rounding

    def _enclose(self, line: Line, first: float) -> _Bracket | None:
        """Grow the length until the minimizer is behind it (B0 to B3); None when the budget ends first."""
        low, length, growth = line.origin, first, _EXPANSION
        while not line.is_exhausted:
            sample = line.at(length)
            if self._accepts(line, sample):
                return _Bracket(low, sample, found=sample)
            if not self._is_low(line, sample):
                return self._tighten(line, _Bracket(low, sample))
            low, length = sample, min(length * growth, line.limit)
        return None

    def _tighten(self, line: Line, bracket: _Bracket) -> _Bracket:
        """Bisect until the upper end slopes upwards (U3); towards the lower end faster while values are not finite."""
        while not (bracket.high.is_finite and bracket.high.slope >= 0.0) and not line.is_exhausted:
            share = 0.5 if bracket.high.is_finite else 0.1
            sample = line.at(bracket.low.length + share * (bracket.high.length - bracket.low.length))
            if self._accepts(line, sample):
                return replace(bracket, found=sample)
            if sample.length in (bracket.low.length, bracket.high.length):
                break
            bracket = replace(bracket, low=sample) if self._is_low(line, sample) else replace(bracket, high=sample)
        return bracket

    def _update(self, line: Line, bracket: _Bracket, length: float) -> _Bracket:
        """Shrink the bracket by one more length (U0 to U3); a length outside changes nothing."""
        if not bracket.low.length < length < bracket.high.length or line.is_exhausted:
            return bracket
        sample = line.at(length)
        if self._accepts(line, sample):
            return replace(bracket, found=sample)
        if self._is_low(line, sample):
            return replace(bracket, low=sample)
        return self._tighten(line, replace(bracket, high=sample))

    def _double_secant(self, line: Line, bracket: _Bracket) -> _Bracket:
        """Two secant steps on the slope, the second from the end that the first moved (S1 to S4)."""
        length = _secant(bracket.low, bracket.high)
        shrunk = self._update(line, bracket, length)
        if shrunk.found is not None:
            return shrunk
        if shrunk.high.length == length:
            length = _secant(bracket.high, shrunk.high)
        elif shrunk.low.length == length:
            length = _secant(bracket.low, shrunk.low)
        else:
            return shrunk
        return self._update(line, shrunk, length)


def _secant(a: Sample, b: Sample) -> float:
    """Where the line through two slopes is zero; NaN (outside every bracket) when they are equal or one is not finite."""
    difference = b.slope - a.slope
    return (a.length * b.slope - b.length * a.slope) / difference if difference != 0.0 else float("nan")
