"""The contract of a globalization: propose a step, test it, settle it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from torch import Tensor

from secant.curvature.curvature import Curvature
from secant.objective import Objective
from secant.step import Point, Step

C = TypeVar("C", bound=Curvature)

Memory = dict[str, float | None]


class Globalization(ABC, Generic[C]):
    """How far to trust a curvature of type ``C``."""

    @property
    @abstractmethod
    def needs(self) -> type[C]:
        """The least curvature this globalization can work with, checked when the optimizer is built."""

    @abstractmethod
    def advance(self, objective: Objective, point: Point, curvature: C, lr: float, longest: float = math.inf) -> Step:
        """One step from ``point``; it evaluates trial points, and leaves it to the loop to write the kept one.

        Args:
            objective: Evaluates trial points.
            point: A finite point where the parameters stand.
            curvature: Corrected with everything up to ``point``.
            lr: The largest learning rate, positive: scales the first trial.
            longest: Largest Euclidean distance of a trial from ``point``, positive.
        """

    @abstractmethod
    def forget(self) -> None:
        """Drop what was learned from earlier steps: the model was reset."""

    @abstractmethod
    def objective_changed(self) -> None:
        """Drop what was learned about the loss, which is another function from now on, though the model was kept."""

    @abstractmethod
    def memory(self) -> Memory:
        """What was learned from earlier steps, as plain numbers, for an exact resume."""

    @abstractmethod
    def recall(self, memory: Memory) -> None:
        """Take over a saved memory."""


def largest_multiple(objective: Objective, direction: Tensor, longest: float) -> float:
    """The multiple of a direction whose length is ``longest``; infinite where that is."""
    if longest == math.inf:
        return math.inf
    length = objective.space.norm(direction)
    return longest / length if length > 0.0 else math.inf  # the square of a length of 1e-161 underflows
