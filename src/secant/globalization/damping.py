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
_GROWTH = 2.0
_SMALLEST = 1e-16
"""Relative damping below which nothing is hidden any more."""
_CONTRACTION = 0.75
"""Of one correction to the next. Leaving out small corrections, or measuring them in the norm of the model, was far worse on physics-informed nets."""


@final
class Damping(Globalization[DampedModel]):
    """Levenberg-Marquardt steps, damped by the ratio of actual to predicted decrease, and bent around the curves of the valley.

    The damped step ``v`` minimizes ``|r + J v|^2 + damping v' D v``: a straight line into a valley that is bent. From ``p = v`` the corrections

        e = -(J' J + damping D)^-1 (J' r(x + p) + damping D p),    p <- p + e

    go on, with the factors at hand and the residuals alone, to the minimizer of ``|r(x + p)|^2 + damping p' D p`` itself, as long as each is at most 0.75 times
    as long as the one before. The first of them is the geodesic acceleration of Transtrum and Sethna up to third order; the limit is a step of the proximal
    point method. An accepted step multiplies the damping by ``max(1/3, 1 - (2 ratio - 1)^3)``, where the ratio's prediction is that of ``v``; rejected ones
    multiply it by 2, 4, 8, ...

    Near the floor: a damping whose step promises less than the loss can show is lowered first, and where the loss cannot tell two points apart,
    ``g (J' J + damping D)^-1 g`` decides, a gradient in the units of the loss.

    Args:
        initial: First damping, relative to the largest curvature along a parameter; the learning rate divides it.
        corrections: Most corrections of a trial, each at one evaluation of the residuals; 0 for the classical step.
        accelerate: Whether ``p`` starts at ``v + a / 2`` with the acceleration ``a`` from the second derivative of the residuals along ``v``, where
            ``2 |a| <= 0.75 |v|``; costs one evaluation for each trial. Worth it with ``corrections=0``.
        largest_bend: Largest ``2 |a| / |v|`` of a bent step.
        probe: How far along ``v`` the second derivative is measured, as a share of it.
        accept: Least gain ratio of an accepted step.
        budget: Trials per step.

    Source:
        Damping: Madsen, Nielsen & Tingleff (2004), Methods for Non-Linear Least Squares Problems, eq. 2.21 and algorithm 3.16; acceleration:
        Transtrum & Sethna (2012), arXiv 1201.5885, section 4; one correction with the same Jacobian: Fan (2012), Math. Comp. 81, 447. Several of them under the
        damping, stopped by contraction, are our own.
    """

    def __init__(
        self,
        *,
        initial: float = 1e-3,
        corrections: int = 6,
        accelerate: bool = False,
        largest_bend: float = 0.75,
        probe: float = 0.1,
        accept: float = 1e-4,
        budget: int = 30,
    ) -> None:
        if not 0.0 < initial < math.inf:
            raise ValueError(f"Damping needs a positive initial damping, got initial={initial}.")
        if not 0.0 < largest_bend < math.inf or not 0.0 < probe <= 1.0:
            raise ValueError(f"Damping needs largest_bend > 0 and 0 < probe <= 1, got largest_bend={largest_bend}, probe={probe}.")
        if not 0.0 < accept < 0.5 or budget < 1 or corrections < 0:
            raise ValueError(f"Damping needs 0 < accept < 0.5, budget >= 1 and corrections >= 0, got {accept}, {budget} and {corrections}.")
        self._initial = initial
        self._corrections = corrections
        self._accelerate = accelerate
        self._largest_bend = largest_bend
        self._probe = probe
        self._accept = accept
        self._budget = budget
        self._damping: float | None = None
        self._growth = _GROWTH
        self._floor_rejections = 0

    @property
    def needs(self) -> type[DampedModel]:
        """A curvature that solves for any damping."""
        return DampedModel

    def advance(self, objective: Objective, point: Point, curvature: DampedModel, lr: float, longest: float = math.inf) -> Step:
        """Trials with growing damping until one is accepted; see :class:`~secant.globalization.globalization.Globalization`."""
        if self._damping is None:
            self._damping = self._initial / lr
        solved = self._uncovered(point, curvature) if self._growth == _GROWTH else None  # else the last trial was rejected at less damping
        first, outcome = self._damping, Outcome.NO_DECREASE
        for _ in range(self._budget):
            step, solved = _within(solved or curvature.damped(self._damping), longest), None
            if math.isnan(step.predicted):  # a residual was not a number when it was linearized
                return Step(point, None, point, Outcome.NOT_FINITE)
            if not step.predicted > 0.0:
                return Step(point, None, point, Outcome.ROUNDING_FLOOR if step.slope >= -point.loss_noise else Outcome.NO_DESCENT)
            p = self._bent(objective, point, curvature, step, longest)
            x = point.x + p
            if torch.equal(x, point.x):
                return Step(point, None, point, Outcome.ROUNDING_FLOOR if outcome is Outcome.NO_DECREASE else outcome)
            x, r = self._corrected(objective, point, curvature, p, x, longest)
            loss = 0.5 * float(torch.dot(r, r))
            if step.predicted <= point.loss_noise and abs(point.loss - loss) <= point.loss_noise:
                return self._settle_at_floor(point, objective.at(x), curvature)
            ratio = (point.loss - loss) / step.predicted
            evaluate = objective.linearized_at if curvature.keeps_rows else objective.at
            trial = evaluate(x) if ratio > self._accept else None
            if trial is not None and trial.is_finite:
                self._damping *= max(1.0 / 3.0, 1.0 - (2.0 * min(ratio, 1.0) - 1.0) ** 3)
                self._growth, self._floor_rejections = _GROWTH, 0
                return Step(point, trial, trial, Outcome.GAIN_RATIO)
            outcome = Outcome.NO_DECREASE if trial is None and math.isfinite(loss) else Outcome.NOT_FINITE
            self._damping *= self._growth
            self._growth *= _GROWTH
            if self._damping > _LARGEST:
                break
        self._damping, self._growth = first, _GROWTH  # what fails at every length says nothing about the damping
        return Step(point, None, point, outcome)

    def forget(self) -> None:
        """Begin again with the initial damping."""
        self._damping = None
        self._growth = _GROWTH
        self._floor_rejections = 0

    def objective_changed(self) -> None:
        """Keep the damping, which is relative to the curvature."""
        self._growth = _GROWTH
        self._floor_rejections = 0

    def memory(self) -> Memory:
        """The damping, its growth at the next rejection, and how many trials in a row the loss could not tell from the start."""
        return {"damping": self._damping, "growth": self._growth, "floor_rejections": float(self._floor_rejections)}

    def recall(self, memory: Memory) -> None:
        """Take over a saved memory."""
        self._damping = memory["damping"]
        self._growth = memory["growth"] or _GROWTH
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

    def _corrected(self, objective: Objective, point: Point, curvature: DampedModel, p: Tensor, x: Tensor, longest: float) -> tuple[Tensor, Tensor]:
        """The trial point after its corrections, evaluated last, and its residuals."""
        assert self._damping is not None
        r, length = objective.trial(x), objective.space.norm(p)
        for _ in range(self._corrections if curvature.has_factors else 0):
            slope = curvature.rows.transposed_times(r).to(p.dtype) + curvature.pull_back(p, self._damping)
            e = curvature.damped_solve(slope, self._damping).neg()
            before, length = length, objective.space.norm(e)
            if not length <= _CONTRACTION * before:  # also where it is not a number
                break
            if longest < math.inf and objective.space.norm(p + e) > longest:
                break
            p = p + e
            x = point.x + p
            r = objective.trial(x)
        return x, r

    def _uncovered(self, point: Point, curvature: DampedModel) -> Solution:
        """The damped step, after lowering a damping that hides in the rounding of the loss what the model has to gain."""
        assert self._damping is not None
        step = curvature.damped(self._damping)
        while self._damping > _SMALLEST and 0.0 < step.predicted <= point.loss_noise:
            self._damping *= 0.1
            step = curvature.damped(self._damping)
        return step

    def _promise(self, curvature: DampedModel, point: Point) -> float:
        """``g (J' J + damping D)^-1 g`` with the present ``J``: the size of a gradient in the units of the loss, whatever those of the parameters."""
        assert self._damping is not None
        return float(torch.dot(point.grad, curvature.damped_solve(point.grad, self._damping)))

    def _settle_at_floor(self, start: Point, trial: Point, curvature: DampedModel) -> Step:
        """Where the loss cannot tell, the gradient decides; after a few rejections the model is the suspect."""
        assert self._damping is not None
        if trial.is_finite and self._promise(curvature, trial) < self._promise(curvature, start):
            self._damping /= 3.0
            self._growth, self._floor_rejections = _GROWTH, 0
            return Step(start, trial, trial, Outcome.APPROXIMATE_GAIN)
        self._floor_rejections += 1
        self._damping *= self._growth
        self._growth *= _GROWTH
        return Step(start, trial, start, Outcome.REJECTED if self._floor_rejections < _FLOOR_REJECTIONS else Outcome.NO_DECREASE)


def _within(step: Solution, longest: float) -> Solution:
    return step if step.length <= longest else step.times(longest / step.length)
