"""A trust region: the model is believed within a radius that follows its success."""

from __future__ import annotations

import math
from typing import final

import torch

from secant.curvature.curvature import QuadraticModel
from secant.globalization.globalization import Globalization, Memory
from secant.globalization.line import Sample, cubic_minimizer
from secant.objective import Objective
from secant.space import Space
from secant.step import Outcome, Point, Step
from secant.subproblem.eigenbasis import dense_eigenbasis
from secant.subproblem.exact import within_radius
from secant.subproblem.solution import Solution, solution
from secant.subproblem.steihaug import steihaug

EXACT_BELOW = 50
"""Below this many parameters an eigendecomposition costs at most 0.6 ms more per evaluation than conjugate gradients and saves about a fifth of the
evaluations (benchmarks/results/subproblem.json). With a costly loss it pays up to some hundreds: ``exact_below`` is an option."""


_REFUTED = 0.1
"""A rejected trial whose parabola or cubic has its minimizer below this share of the step says nothing about the neighborhood of the start: its pair would
give the model a curvature that does not exist there."""
_FLOOR_REJECTIONS = 3  # in a row: then it is rather the model that is wrong


@final
class TrustRegion(Globalization[QuadraticModel]):
    """Minimize the quadratic model within a radius, and move the radius by the ratio of actual to predicted decrease.

    The slope at the trial belongs to every decision. A ratio above 0.75 at the boundary moves the radius to where the slope along the step extrapolates to
    zero, between twice and ten times the step (twice where the slope is past zero); a ratio below 0.1 moves it to the minimizer of the cubic through both
    ends, between a tenth and a half of the step. A step is taken when the ratio exceeds ``accept``. A rejected trial corrects the model, unless the cubic
    (or the parabola, where the loss has risen far) has its minimizer within a tenth of the step: such a trial is far outside the neighborhood that the model
    can describe, and the search goes on along the same step, at that minimizer. The first radius is ``lr |H g|``.

    Args:
        accept: Least gain ratio of an accepted step, in (0, 0.1].
        exact_below: Number of parameters below which the subproblem is solved exactly by an eigendecomposition instead of by Steihaug's conjugate
            gradients.
        budget: Evaluations per step while trial points are not finite or refute the model.
        tolerance: Relative residual at which conjugate gradients stop. None: ``min(1/2, sqrt(|g| / |g|_max))`` with the largest gradient so far, for models
            whose products are costly; convergence stays superlinear (Nocedal & Wright, eq. 7.3).

    Source:
        Conn, Gould & Toint (1991); Nocedal & Wright (2006), algorithm 6.2; the search along a rejected step is that of Nocedal & Yuan (1998). Departures:
        where the model is positive definite and its minimizer lies inside, the step is ``-H g`` without any inner iteration; the radius follows the slope.
    """

    def __init__(self, *, accept: float = 1e-4, exact_below: int = EXACT_BELOW, budget: int = 20, tolerance: float | None = 1e-3) -> None:
        if not 0.0 < accept <= 0.1:
            raise ValueError(f"TrustRegion needs 0 < accept <= 0.1, got accept={accept}.")
        if budget < 1 or exact_below < 0:
            raise ValueError(f"TrustRegion needs budget >= 1 and exact_below >= 0, got budget={budget}, exact_below={exact_below}.")
        if tolerance is not None and not 0.0 < tolerance < 1.0:
            raise ValueError(f"TrustRegion needs 0 < tolerance < 1, got tolerance={tolerance}.")
        self._accept = accept
        self._tolerance = tolerance
        self._steepest = 0.0
        self._exact_below = exact_below
        self._budget = budget
        self._radius: float | None = None
        self._floor_rejections = 0

    @property
    def needs(self) -> type[QuadraticModel]:
        """A curvature that offers ``multiply``."""
        return QuadraticModel

    def advance(self, objective: Objective, point: Point, curvature: QuadraticModel, lr: float, longest: float = math.inf) -> Step:
        """One trial within the radius, cut where it refutes the model; see :class:`~secant.globalization.globalization.Globalization`."""
        if self._radius is None:
            self._radius = lr * objective.space.norm(curvature.solve(point.grad))
        radius, outcome = min(self._radius, longest), Outcome.NO_DECREASE
        step = self._model_step(objective.space, point, curvature, radius)
        if not step.predicted > 0.0:  # rounding leaves nothing of it
            return Step(point, None, point, Outcome.NO_DESCENT)
        for _ in range(self._budget):
            x = point.x + step.p
            if not step.predicted > 0.0 or torch.equal(x, point.x):
                at_floor = outcome is Outcome.NO_DECREASE and step.predicted <= point.loss_noise
                return Step(point, None, point, Outcome.ROUNDING_FLOOR if at_floor else outcome)
            trial = objective.at(x)
            if not trial.is_finite:
                step, outcome = step.times(0.1), Outcome.NOT_FINITE
                continue
            far = objective.space.dot(trial.grad, step.p)
            share = _minimizer_along(point, trial, step, far)
            if share >= _REFUTED or self._is_good_enough(point, trial, step):
                return self._settle(point, trial, step, far, share, radius)
            step, outcome = step.times(max(share, 1e-3)), Outcome.NO_DECREASE
        return Step(point, None, point, outcome)  # no wall is this near: the radius stays for when the objective recovers

    def forget(self) -> None:
        """Forget the radius."""
        self._radius = None
        self._floor_rejections = 0
        self._steepest = 0.0

    def objective_changed(self) -> None:
        """All of it was about the loss."""
        self.forget()

    def memory(self) -> Memory:
        """The radius, how many trials in a row the loss could not tell from the start, and the largest gradient so far."""
        return {"radius": self._radius, "floor_rejections": float(self._floor_rejections), "steepest": self._steepest}

    def recall(self, memory: Memory) -> None:
        """Take over a saved memory."""
        self._radius = memory["radius"]
        self._floor_rejections = int(memory["floor_rejections"] or 0)
        self._steepest = memory["steepest"] or 0.0

    def _model_step(self, space: Space, point: Point, curvature: QuadraticModel, radius: float) -> Solution:
        """The model's minimizer within the radius."""
        basis = curvature.eigenbasis(point.grad)
        if basis is None:
            newton = self._newton(space, point, curvature, radius)
            if newton is not None:
                return newton
            if point.x.numel() >= self._exact_below:
                return steihaug(point.grad, curvature.multiply, radius, space, tolerance=self._residual(space, point))
            basis = dense_eigenbasis(point.grad, curvature.dense())
        return within_radius(basis, radius)

    def _newton(self, space: Space, point: Point, curvature: QuadraticModel, radius: float) -> Solution | None:
        if curvature.negative_eigenvalues != 0:
            return None
        p = curvature.solve(point.grad).neg()
        if space.norm(p) > radius:
            return None
        return solution(space, point.grad, p, curvature.multiply(p), on_boundary=False, negative_curvature=False)

    def _residual(self, space: Space, point: Point) -> float:
        """How far conjugate gradients go, as a share of the gradient."""
        if self._tolerance is not None:
            return self._tolerance
        length = space.norm(point.grad)
        self._steepest = max(self._steepest, length)
        return min(0.5, math.sqrt(length / self._steepest)) if length > 0.0 else 0.5

    def _is_good_enough(self, start: Point, trial: Point, step: Solution) -> bool:
        """Whether the trial is accepted, or differs from the start by rounding only."""
        actual = start.loss - trial.loss
        return actual > self._accept * step.predicted or abs(actual) <= start.loss_noise

    def _settle(self, start: Point, trial: Point, step: Solution, far: float, share: float, radius: float) -> Step:
        actual, rounding = start.loss - trial.loss, start.loss_noise
        is_confined = step.is_cut or step.length > 0.8 * radius
        if step.predicted <= rounding and abs(actual) <= rounding:
            self._radius = 10.0 * step.length if is_confined else radius  # a radius that hides every change of the loss is useless
            return self._settle_at_floor(start, trial, step)
        self._floor_rejections = 0
        ratio = actual / step.predicted
        self._radius = step.length if step.is_cut else radius
        if ratio > 0.75 and is_confined:
            self._radius = min(max(_growth(step.slope, far), 2.0), 10.0) * step.length
        elif ratio < 0.1:
            self._radius = min(max(share, 0.1), 0.5) * step.length
        if ratio > self._accept:
            return Step(start, trial, trial, Outcome.GAIN_RATIO)
        return Step(start, trial, start, Outcome.REJECTED)

    def _settle_at_floor(self, start: Point, trial: Point, step: Solution) -> Step:
        """Where the loss cannot tell, the gradient decides; a rejected trial still teaches the model, whose gradients have digits left.

        On the way out of a saddle the gradient grows: along negative curvature the step is taken as long as the loss does not rise at all.

        A model that promises nothing, time after time, may have been misled by a distant trial while the loss has a long way to go: that is for the loop to
        find out, which starts a fresh model after two failures.
        """
        leaves_saddle = step.curvature < 0.0 and trial.loss <= start.loss
        falls = trial.largest_grad < start.largest_grad
        if falls or leaves_saddle:
            self._floor_rejections = 0
            return Step(start, trial, trial, Outcome.APPROXIMATE_GAIN if falls else Outcome.NEGATIVE_CURVATURE)
        self._floor_rejections += 1
        return Step(start, trial, start, Outcome.REJECTED if self._floor_rejections < _FLOOR_REJECTIONS else Outcome.NO_DECREASE)


def _minimizer_along(start: Point, trial: Point, step: Solution, far: float) -> float:
    """Where the loss along the step has its minimum, as a share of the step: of the cubic through both ends, or of the parabola where that is refuting."""
    rise = trial.loss - start.loss - step.slope
    parabola = -step.slope / (2.0 * rise) if rise > 0.0 else 0.5
    if not parabola >= _REFUTED:
        return max(parabola, 0.0)
    share = cubic_minimizer(Sample(0.0, start.loss, step.slope, start), Sample(1.0, trial.loss, far, trial))
    return parabola if math.isnan(share) else share


def _growth(slope: float, far: float) -> float:
    """Where the slope, extrapolated through both ends of the step, is zero, in lengths of the step."""
    if far >= 0.0:
        return 1.0
    return slope / (slope - far) if far > slope else math.inf
