"""Damping: the shorter the steps, the less the linear model of the residuals is trusted."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from secant.curvature.curvature import DampedModel
from secant.globalization.globalization import Globalization, Memory
from secant.objective import Objective
from secant.step import Outcome, Point, Step
from secant.subproblem.solution import Solution

_LARGEST = 1e20
"""Relative damping beyond which a step is a rounding error."""
_FLOOR_REJECTIONS = 3


@final
class Damping(Globalization[DampedModel]):
    """Levenberg-Marquardt steps, damped by the ratio of actual to predicted decrease, and bent along the geodesic.

    The damped step ``v`` minimizes ``|r + J v|^2 + damping v' D v``. With acceleration the trial is ``v + a / 2``, where ``a`` follows from the second
    derivative of the residuals along ``v``: it is what lets a step go around the bend of a narrow curved valley, and is left out where ``2 |a| > 0.75 |v|``. An
    accepted step multiplies the damping by ``max(1/3, 1 - (2 ratio - 1)^3)``; rejected ones by 2, 4, 8, ...

    Args:
        initial: First damping, relative to the largest curvature along a parameter; the learning rate divides it.
        accelerate: Whether steps are bent; costs one evaluation of the residuals for each trial.
        largest_bend: Largest ``2 |a| / |v|`` of a bent step.
        probe: How far along ``v`` the second derivative is measured, as a share of it.
        accept: Least gain ratio of an accepted step.
        budget: Trials per step.

    Source:
        Damping: Madsen, Nielsen & Tingleff (2004), Methods for Non-Linear Least Squares Problems, eq. 2.21 and algorithm 3.16; acceleration:
        Transtrum & Sethna (2012), arXiv 1201.5885, section 4.
    """

    def __init__(
        self,
        *,
        initial: float = 1e-3,
        accelerate: bool = True,
        largest_bend: float = 0.75,
        probe: float = 0.1,
        accept: float = 1e-4,
        budget: int = 30,
    ) -> None:
        if not 0.0 < initial < math.inf:
            raise ValueError(f"Damping needs a positive initial damping, got initial={initial}.")
        if not 0.0 < largest_bend < math.inf or not 0.0 < probe <= 1.0:
            raise ValueError(f"Damping needs largest_bend > 0 and 0 < probe <= 1, got largest_bend={largest_bend}, probe={probe}.")
        if not 0.0 < accept < 0.5 or budget < 1:
            raise ValueError(f"Damping needs 0 < accept < 0.5 and budget >= 1, got accept={accept}, budget={budget}.")
        self._initial = initial
        self._accelerate = accelerate
        self._largest_bend = largest_bend
        self._probe = probe
        self._accept = accept
        self._budget = budget
        self._damping: float | None = None
        self._growth = 2.0
        self._floor_rejections = 0

    @property
    def needs(self) -> type[DampedModel]:
        """A curvature that solves for any damping."""
        return DampedModel

    def advance(self, objective: Objective, point: Point, curvature: DampedModel, lr: float, longest: float = math.inf) -> Step:
        """Trials with growing damping until one is accepted; see :class:`~secant.globalization.globalization.Globalization`."""
        if self._damping is None:
            self._damping = self._initial / lr
        outcome = Outcome.NO_DECREASE
        for _ in range(self._budget):
            step = _within(curvature.damped(self._damping), longest)
            if not step.predicted > 0.0:
                return Step(point, None, point, Outcome.ROUNDING_FLOOR if step.slope > -point.loss_noise else Outcome.NO_DESCENT)
            x = point.x + self._bent(objective, point, curvature, step, longest)
            if torch.equal(x, point.x):
                return Step(point, None, point, Outcome.ROUNDING_FLOOR if outcome is Outcome.NO_DECREASE else outcome)
            r = objective.trial(x)
            loss = 0.5 * float(torch.dot(r, r))
            if step.predicted <= point.loss_noise and abs(point.loss - loss) <= point.loss_noise:
                return self._settle_at_floor(point, objective.at(x))
            ratio = (point.loss - loss) / step.predicted
            if ratio > self._accept:
                trial = objective.at(x)
                if trial.is_finite:
                    self._damping *= max(1.0 / 3.0, 1.0 - (2.0 * min(ratio, 1.0) - 1.0) ** 3)
                    self._growth, self._floor_rejections = 2.0, 0
                    return Step(point, trial, trial, Outcome.GAIN_RATIO)
            outcome = Outcome.NO_DECREASE if math.isfinite(loss) else Outcome.NOT_FINITE
            self._damping *= self._growth
            self._growth *= 2.0
            if self._damping > _LARGEST:
                break
        return Step(point, None, point, outcome)

    def forget(self) -> None:
        """Begin again with the initial damping."""
        self._damping = None
        self._growth = 2.0
        self._floor_rejections = 0

    def memory(self) -> Memory:
        """The damping, its growth at the next rejection, and how many trials in a row the loss could not tell from the start."""
        return {"damping": self._damping, "growth": self._growth, "floor_rejections": float(self._floor_rejections)}

    def recall(self, memory: Memory) -> None:
        """Take over a saved memory."""
        self._damping = memory["damping"]
        self._growth = memory["growth"] or 2.0
        self._floor_rejections = int(memory["floor_rejections"] or 0)

    def _bent(self, objective: Objective, point: Point, curvature: DampedModel, step: Solution, longest: float) -> Tensor:
        """The step with half its acceleration ``-(J' J + damping D)^-1 J' r_vv``, where that is small against it."""
        assert self._damping is not None
        if not self._accelerate:
            return step.p
        rows, h = curvature.rows, self._probe
        ahead = objective.trial(point.x + h * step.p)
        r_vv = (2.0 / h) * ((ahead - rows.residuals().to(ahead.dtype)) / h - rows.times(step.p).to(ahead.dtype))
        a = curvature.damped_solve(rows.transposed_times(r_vv), self._damping).neg().to(step.p.dtype)
        bend = 2.0 * objective.space.norm(a) / step.length
        if not bend <= self._largest_bend:  # also where it is not a number
            return step.p
        bent = step.p + 0.5 * a
        length = objective.space.norm(bent)
        return bent if length <= longest else bent * (longest / length)

    def _settle_at_floor(self, start: Point, trial: Point) -> Step:
        """Where the loss cannot tell, the gradient decides; after a few rejections the model is the suspect."""
        assert self._damping is not None
        if trial.is_finite and trial.largest_grad < start.largest_grad:
            self._floor_rejections = 0
            return Step(start, trial, trial, Outcome.APPROXIMATE_GAIN)
        self._floor_rejections += 1
        self._damping *= self._growth
        return Step(start, trial, start, Outcome.REJECTED if self._floor_rejections < _FLOOR_REJECTIONS else Outcome.NO_DECREASE)


def _within(step: Solution, longest: float) -> Solution:
    return step if step.length <= longest else step.times(longest / step.length)
