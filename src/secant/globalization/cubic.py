"""Adaptive cubic regularization: the model is believed up to a cubic term that follows its success."""

from __future__ import annotations

import math
from typing import final

import torch

from secant.curvature.curvature import QuadraticModel
from secant.globalization.globalization import Globalization, Memory
from secant.objective import Objective
from secant.space import Space
from secant.step import Outcome, Point, Step
from secant.subproblem.cubic import cubic
from secant.subproblem.eigenbasis import Eigenbasis, dense_eigenbasis
from secant.subproblem.exact import within_radius
from secant.subproblem.krylov import Ritz, krylov_eigenbasis
from secant.subproblem.solution import Solution

_EXACT_BELOW = 50  # parameters, as for the trust region
_KRYLOV_LIMIT = 200
_KRYLOV_RESIDUAL = 1e-3  # of |g|, as for Steihaug's conjugate gradients
_LARGEST_FALL = 100.0  # of sigma in one step: a step too long costs one evaluation, a step too short costs a whole iteration
_LARGEST_GROWTH = 10.0  # of the step: sigma may have shrunk while it did not matter, and a model that turns indefinite then asks for any length
_IDLE_SHARE = 1e-3  # below this share of |g| the cubic term's gradient changes nothing: a smaller sigma would not either


@final
class Cubic(Globalization[QuadraticModel]):
    """Minimize the quadratic model plus ``sigma |p|^3 / 3``, and move ``sigma`` by the ratio of actual to predicted decrease.

    The cubic that interpolates the loss at the trial has ``sigma* = 3 (f(x + p) - q(p)) / |p|^3`` with the quadratic model ``q``. A ratio above 0.75 lowers
    ``sigma`` to ``sigma*``, at most a hundredfold; below 0.1 it becomes ``sigma*``, but no less than halves and no more than shortens to a tenth the step
    of the present model. No step is longer than ten times the one before. A step is taken when the ratio exceeds ``accept``. The first ``sigma`` is ``|g| /
    (lr |H g|)^2``: with a model that is a multiple of the identity the first step then has about 0.6 of the length ``lr |H g|``.

    Args:
        accept: Least gain ratio of an accepted step, in (0, 0.1].
        budget: Evaluations per step while trial points are not finite.

    Source:
        Cartis, Gould & Toint (2011), Math. Program. 127, algorithm 2.1; the ratio without the cubic term: Birgin, Gardenghi, Martinez, Santos & Toint (2017);
        sigma by interpolation after Gould, Porcelli & Toint (2012), Comput. Optim. Appl. 53. Departure: their constants are absolute, these follow the loss.
    """

    def __init__(self, *, accept: float = 1e-4, budget: int = 20) -> None:
        if not 0.0 < accept <= 0.1:
            raise ValueError(f"Cubic needs 0 < accept <= 0.1, got accept={accept}.")
        if budget < 1:
            raise ValueError(f"Cubic needs budget >= 1, got budget={budget}.")
        self._accept = accept
        self._budget = budget
        self._sigma: float | None = None
        self._reach = math.inf

    @property
    def needs(self) -> type[QuadraticModel]:
        """A curvature that offers ``multiply``."""
        return QuadraticModel

    def advance(self, objective: Objective, point: Point, curvature: QuadraticModel, lr: float, longest: float = math.inf) -> Step:
        """One trial with the present ``sigma``; see :class:`~secant.globalization.globalization.Globalization`."""
        space = objective.space
        basis = _eigenbasis(space, point, curvature)
        if self._sigma is None:
            length = lr * space.norm(curvature.solve(point.grad))
            if not length > 0.0:  # its square underflows
                return Step(point, None, point, Outcome.ROUNDING_FLOOR)
            self._sigma = space.norm(point.grad) / length / length
        outcome, solution = Outcome.NO_DECREASE, cubic(basis, self._sigma)
        longest = min(longest, self._reach)
        for _ in range(self._budget):
            if solution.length > longest:
                solution = within_radius(basis, longest)
            if not (solution.predicted > 0.0 and solution.length > 0.0):
                return Step(point, None, point, Outcome.NO_DESCENT)
            x = point.x + solution.p
            if torch.equal(x, point.x):
                at_floor = outcome is Outcome.NO_DECREASE and solution.predicted <= point.loss_noise
                return Step(point, None, point, Outcome.ROUNDING_FLOOR if at_floor else outcome)
            trial = objective.at(x)
            if trial.is_finite:
                return self._settle(basis, point, trial, solution)
            outcome, longest = Outcome.NOT_FINITE, 0.1 * solution.length
        return Step(point, None, point, outcome)  # no wall is this near: sigma stays for when the objective recovers

    def forget(self) -> None:
        """Forget sigma and the length of the last step."""
        self._sigma, self._reach = None, math.inf

    def objective_changed(self) -> None:
        """All of it was about the loss."""
        self.forget()

    def memory(self) -> Memory:
        """The weight of the cubic term, and how long the next step may be."""
        return {"sigma": self._sigma, "reach": self._reach}

    def recall(self, memory: Memory) -> None:
        """Take over a saved memory."""
        self._sigma = memory["sigma"]
        self._reach = math.inf if memory["reach"] is None else memory["reach"]

    def _settle(self, basis: Eigenbasis, start: Point, trial: Point, step: Solution) -> Step:
        assert self._sigma is not None
        sigma = max(self._sigma, _shift(step) / step.length)  # larger where a wall or a limit held the step back
        actual, rounding = start.loss - trial.loss, start.loss_noise
        at_floor = step.predicted <= rounding and abs(actual) <= rounding
        is_idle = sigma * step.length**2 <= _IDLE_SHARE * -step.slope / step.length
        wanted = 0.0 if at_floor else 3.0 * (step.predicted - actual) / step.length / step.length / step.length
        ratio = 1.0 if at_floor else actual / step.predicted
        if ratio > 0.75 and not is_idle:
            sigma = min(max(wanted, sigma / _LARGEST_FALL), sigma)
        elif ratio < 0.1:
            half, tenth = (_weight_at(basis, share * step.length) for share in (0.5, 0.1))
            sigma = min(max(wanted, 2.0 * sigma, half), max(2.0 * sigma, tenth))
        self._sigma, self._reach = sigma, math.inf if at_floor else _LARGEST_GROWTH * step.length
        if at_floor:  # where the loss cannot tell, the gradient decides
            falls = trial.largest_grad < start.largest_grad
            return Step(start, trial, trial if falls else start, Outcome.APPROXIMATE_GAIN if falls else Outcome.REJECTED)
        if ratio > self._accept:
            return Step(start, trial, trial, Outcome.GAIN_RATIO)
        return Step(start, trial, start, Outcome.REJECTED)


def _eigenbasis(space: Space, point: Point, curvature: QuadraticModel) -> Eigenbasis:
    basis, g = curvature.eigenbasis(point.grad), point.grad
    if basis is not None:
        return basis
    if g.numel() < _EXACT_BELOW:
        return dense_eigenbasis(g, curvature.dense())
    residual = _KRYLOV_RESIDUAL * space.norm(g)

    def is_enough(ritz: Ritz) -> bool:
        least = max(-float(ritz.values[0]), 0.0) * (1.0 + _KRYLOV_RESIDUAL)
        return ritz.residual(ritz.coefficients / (ritz.values + least)) <= residual  # a larger shift leaves less

    return krylov_eigenbasis(g, curvature.multiply, space, is_enough=is_enough, limit=_KRYLOV_LIMIT)


def _weight_at(basis: Eigenbasis, length: float) -> float:
    """The sigma whose cubic model has its minimizer at this distance."""
    return _shift(within_radius(basis, length)) / length


def _shift(solution: Solution) -> float:
    """``shift`` in ``(B + shift I) p = -g``."""
    return max(-(solution.slope + solution.curvature) / solution.length / solution.length, 0.0)
