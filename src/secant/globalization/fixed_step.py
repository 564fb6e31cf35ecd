"""A step of fixed length: no test, no safeguard but finiteness."""

from __future__ import annotations

import math
from typing import final

import torch

from secant.curvature.curvature import Curvature
from secant.globalization.globalization import Globalization, Memory, largest_multiple
from secant.objective import Objective
from secant.step import Outcome, Point, Step


@final
class FixedStep(Globalization[Curvature]):
    """Walk ``lr`` times ``-H g`` (less where that is longer than allowed), uphill too, whatever the loss does; a point that is not finite is not entered."""

    @property
    def needs(self) -> type[Curvature]:
        """Any curvature."""
        return Curvature

    def advance(self, objective: Objective, point: Point, curvature: Curvature, lr: float, longest: float = math.inf) -> Step:
        """One evaluation; see :class:`~secant.globalization.globalization.Globalization`."""
        direction = curvature.solve(point.grad)
        trial = objective.at(torch.sub(point.x, direction, alpha=min(lr, largest_multiple(objective, direction, longest))))
        if not trial.is_finite:
            return Step(point, None, point, Outcome.NOT_FINITE)
        return Step(point, trial, trial, Outcome.FIXED)

    def forget(self) -> None:
        """Nothing to forget."""

    def objective_changed(self) -> None:
        """Nothing to forget."""

    def memory(self) -> Memory:
        """Nothing to remember."""
        return {}

    def recall(self, memory: Memory) -> None:
        """Nothing to take over."""
