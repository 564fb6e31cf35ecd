"""The objective along one ray, and the frame that every line search shares."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from secant.curvature.curvature import Curvature
from secant.globalization.globalization import Globalization, Memory, largest_multiple
from secant.objective import Objective
from secant.step import Outcome, Point, Step


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The objective at ``start + length * direction``.

    Attributes:
        length: Multiple of the direction.
        loss: ``phi(length)``.
        slope: ``phi'(length) = grad . direction``.
        point: The evaluation itself.
    """

    length: float
    loss: float
    slope: float
    point: Point

    @property
    def is_finite(self) -> bool:
        """Whether the point is finite and so is the slope."""
        return self.point.is_finite and math.isfinite(self.slope)


@final
class Line:
    """``phi(length) = loss(start + length * direction)``, evaluated at most ``budget`` times.

    Args:
        objective: Evaluates.
        start: A finite point.
        direction: Shape ``(n,)``.
        slope: ``phi'(0)``, negative.
        budget: Evaluations allowed.
        limit: Largest length allowed.
    """

    def __init__(self, objective: Objective, start: Point, direction: Tensor, slope: float, budget: int, limit: float) -> None:
        self._objective = objective
        self._direction = direction
        self._budget = budget
        self._first = 0.0
        self.limit = limit
        self.origin = Sample(0.0, start.loss, slope, start)
        self.best: Sample | None = None
        self.met_not_finite = False
        self.rounding = start.loss_noise

    @property
    def is_exhausted(self) -> bool:
        """Whether the budget is used up."""
        return self._budget <= 0

    def at(self, length: float) -> Sample:
        """Evaluate at one length; the lowest finite loss so far is kept in ``best``."""
        self._budget -= 1
        self._first = self._first or length
        point = self._objective.at(torch.add(self.origin.point.x, self._direction, alpha=length))
        slope = self._objective.space.dot(point.grad, self._direction) if point.is_finite else math.nan
        sample = Sample(length, point.loss, slope, point)
        if sample.is_finite and (self.best is None or sample.loss < self.best.loss) and not self.has_not_moved(sample):
            self.best = sample
        self.met_not_finite |= not sample.is_finite
        return sample

    def has_not_moved(self, sample: Sample) -> bool:
        """A length so short that rounding returns to the start teaches nothing."""
        return sample.loss == self.origin.loss and torch.equal(sample.point.x, self.origin.point.x)

    def failure(self) -> tuple[Sample | None, Outcome]:
        """What to settle on when the search's conditions were met nowhere: the best decrease, or the reason why there is none.

        The floor is reached when the slope promised less than the rounding of the loss at the first length; else slope and loss disagree.
        """
        if self.best is None:  # nothing finite but, at most, lengths that drown in the parameters' rounding
            return None, Outcome.NOT_FINITE if self.met_not_finite else Outcome.ROUNDING_FLOOR
        if self.best.loss < self.origin.loss - self.rounding:
            return self.best, Outcome.DECREASE
        at_floor = -self.origin.slope * self._first <= self.rounding
        return self.best, Outcome.ROUNDING_FLOOR if at_floor else Outcome.NO_DECREASE


class LineSearch(Globalization[Curvature]):
    """Walk along ``-H g`` and look for a length that meets a condition.

    The first trial length is ``lr min(1, 2.02 (f - f_previous) / g.d)``: the minimizer of the parabola through the present slope that would repeat the last
    decrease, never beyond the quasi-Newton step (Nocedal & Wright, eq. 3.60).

    Args:
        budget: Evaluations per search.
    """

    def __init__(self, budget: int) -> None:
        if budget < 1:
            raise ValueError(f"Expected a line search budget of at least 1 evaluation, got {budget}.")
        self._budget = budget
        self._last_decrease: float | None = None

    @property
    def needs(self) -> type[Curvature]:
        """Any curvature."""
        return Curvature

    def advance(self, objective: Objective, point: Point, curvature: Curvature, lr: float, longest: float = math.inf) -> Step:
        """One search along ``-H g``; see :class:`~secant.globalization.globalization.Globalization`."""
        direction = curvature.solve(point.grad).neg()
        slope = objective.space.dot(point.grad, direction)
        if not -math.inf < slope < 0.0:
            return Step(point, None, point, Outcome.NO_DESCENT)
        line = Line(objective, point, direction, slope, self._budget, largest_multiple(objective, direction, longest))
        sample, outcome = self._search(line, min(self._first_length(line, lr), line.limit))
        if sample is None or not outcome.is_accepted:
            return Step(point, _lesson(line, sample), point, outcome)
        self._last_decrease = None if line.met_not_finite else point.loss - sample.loss  # cut short, it says nothing about the next one
        return Step(point, sample.point, sample.point, outcome)

    def forget(self) -> None:
        """Forget the last decrease."""
        self._last_decrease = None

    def objective_changed(self) -> None:
        """All of it was about the loss."""
        self.forget()

    def memory(self) -> Memory:
        """The last decrease of the loss."""
        return {"last_decrease": self._last_decrease}

    def recall(self, memory: Memory) -> None:
        """Take over a saved last decrease."""
        self._last_decrease = memory["last_decrease"]

    @abstractmethod
    def _search(self, line: Line, first: float) -> tuple[Sample | None, Outcome]:
        """A sample and why it was settled on; ``first`` is the length to try first, and none may exceed ``line.limit``."""

    def _first_length(self, line: Line, lr: float) -> float:
        if self._last_decrease is None or self._last_decrease <= line.rounding:
            return lr
        return lr * min(1.0, 2.02 * self._last_decrease / -line.origin.slope)


def _lesson(line: Line, sample: Sample | None) -> Point | None:
    """A rejected trial teaches the model only where the loss really rose: within rounding its gradient change is noise."""
    return sample.point if sample is not None and sample.loss - line.origin.loss > line.rounding else None


def cubic_minimizer(a: Sample, b: Sample) -> float:
    """The minimizer of the cubic through two losses and slopes, NaN where it has none (eq. 3.59)."""
    d1 = a.slope + b.slope - 3.0 * (a.loss - b.loss) / (a.length - b.length)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0.0:
        return math.nan
    d2 = math.copysign(math.sqrt(square), b.length - a.length)
    denominator = b.slope - a.slope + 2.0 * d2
    return b.length - (b.length - a.length) * (b.slope + d2 - d1) / denominator if denominator != 0.0 else math.nan
