"""A trust region: the model is believed within a radius that follows its success."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from secant.curvature.curvature import QuadraticModel
from secant.globalization.globalization import Globalization, Memory
from secant.objective import Objective
from secant.space import Space
from secant.step import Outcome, Point, Step
from secant.subproblem.eigenbasis import dense_eigenbasis
from secant.subproblem.exact import within_radius
from secant.subproblem.solution import Solution
from secant.subproblem.steihaug import steihaug

EXACT_BELOW = 50
"""Below this many parameters an eigendecomposition costs at most 0.2 ms more per step than conjugate gradients and saves 9 to 19 % of the evaluations
(benchmarks/results/subproblem.json)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Proposal:
    """A model step with the decrease the model promises, positive."""

    p: Tensor
    length: float
    slope: float
    predicted: float


@final
class TrustRegion(Globalization[QuadraticModel]):
    """Minimize the quadratic model within a radius, and move the radius by the ratio of actual to predicted decrease.

    A ratio above 0.75 at the boundary doubles the radius; below 0.1 it becomes the minimizer of the parabola along the step, between a tenth and a half of
    it. A step is taken when the ratio exceeds ``accept``; a rejected trial still corrects the model. The first radius is ``lr |H g|``.

    Args:
        accept: Least gain ratio of an accepted step, in (0, 0.1].
        exact_below: Number of parameters below which the subproblem is solved exactly by an eigendecomposition instead of by Steihaug's conjugate
            gradients.
        budget: Evaluations per step while trial points are not finite.

    Source:
        Conn, Gould & Toint (1991); Nocedal & Wright (2006), algorithm 6.2. Departure: where the model is positive definite and its minimizer lies inside,
        the step is ``-H g`` without any inner iteration.
    """

    def __init__(self, *, accept: float = 1e-4, exact_below: int = EXACT_BELOW, budget: int = 20) -> None:
        if not 0.0 < accept <= 0.1:
            raise ValueError(f"TrustRegion needs 0 < accept <= 0.1, got accept={accept}.")
        if budget < 1 or exact_below < 0:
            raise ValueError(f"TrustRegion needs budget >= 1 and exact_below >= 0, got budget={budget}, exact_below={exact_below}.")
        self._accept = accept
        self._exact_below = exact_below
        self._budget = budget
        self._radius: float | None = None

    @property
    def needs(self) -> type[QuadraticModel]:
        """A curvature that offers ``multiply``."""
        return QuadraticModel

    def advance(self, objective: Objective, point: Point, curvature: QuadraticModel, lr: float, longest: float = math.inf) -> Step:
        """One trial within the radius; see :class:`~secant.globalization.globalization.Globalization`."""
        if self._radius is None:
            self._radius = lr * objective.space.norm(curvature.solve(point.grad))
        radius, outcome = min(self._radius, longest), Outcome.NO_DECREASE
        for _ in range(self._budget):
            proposal = self._propose(objective.space, point, curvature, radius)
            if proposal is None:
                return Step(point, None, point, Outcome.NO_DESCENT)
            x = point.x + proposal.p
            if torch.equal(x, point.x):
                return Step(point, None, point, outcome)
            trial = objective.at(x)
            if trial.is_finite:
                self._radius = radius
                return self._settle(point, trial, proposal, radius)
            radius, outcome = 0.1 * proposal.length, Outcome.NOT_FINITE
        return Step(point, None, point, outcome)  # no wall is this near: the radius stays for when the objective recovers

    def forget(self) -> None:
        """Forget the radius."""
        self._radius = None

    def memory(self) -> Memory:
        """The radius."""
        return {"radius": self._radius}

    def recall(self, memory: Memory) -> None:
        """Take over a saved radius."""
        self._radius = memory["radius"]

    def _propose(self, space: Space, point: Point, curvature: QuadraticModel, radius: float) -> _Proposal | None:
        """The model's minimizer within the radius; None when rounding leaves no predicted decrease."""
        newton = self._newton(space, point, curvature, radius)
        if newton is not None:
            return newton
        basis = curvature.eigenbasis(point.grad)
        if basis is None and point.x.numel() < self._exact_below:
            basis = dense_eigenbasis(point.grad, curvature.dense())
        solution = steihaug(point.grad, curvature.multiply, radius, space) if basis is None else within_radius(basis, radius)
        return _proposal(space, point, solution)

    def _newton(self, space: Space, point: Point, curvature: QuadraticModel, radius: float) -> _Proposal | None:
        if curvature.negative_eigenvalues != 0:
            return None
        p = curvature.solve(point.grad).neg()
        if space.norm(p) > radius:
            return None
        return _proposal(space, point, Solution(p, curvature.multiply(p), False, False))

    def _settle(self, start: Point, trial: Point, proposal: _Proposal, radius: float) -> Step:
        actual, rounding = start.loss - trial.loss, start.loss_noise
        is_confined = proposal.length > 0.8 * radius
        if proposal.predicted <= rounding and abs(actual) <= rounding:
            self._radius = 10.0 * radius if is_confined else radius  # a radius that hides every change of the loss is useless
            return self._settle_at_floor(start, trial)
        ratio = actual / proposal.predicted
        if ratio > 0.75 and is_confined:
            self._radius = 2.0 * radius
        elif ratio < 0.1:
            share = -proposal.slope / (2.0 * (-actual - proposal.slope)) if -actual > proposal.slope else 0.5
            self._radius = min(max(share, 0.1), 0.5) * proposal.length
        if ratio > self._accept:
            return Step(start, trial, trial, Outcome.GAIN_RATIO)
        return Step(start, trial, start, Outcome.REJECTED)

    def _settle_at_floor(self, start: Point, trial: Point) -> Step:
        """Where the loss cannot tell, the gradient decides; a rejected trial still teaches the model, whose gradients have digits left."""
        if trial.largest_grad < start.largest_grad:
            return Step(start, trial, trial, Outcome.APPROXIMATE_GAIN)
        return Step(start, trial, start, Outcome.REJECTED)


def _proposal(space: Space, point: Point, solution: Solution) -> _Proposal | None:
    G = space.gram(point.grad, solution.p, solution.Bp)
    slope, predicted = G[0][1], -(G[0][1] + 0.5 * G[1][2])
    return _Proposal(solution.p, G[1][1] ** 0.5, slope, predicted) if predicted > 0.0 else None
