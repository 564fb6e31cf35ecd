"""The contract of a linear model: residuals ``r + J p`` and the damped step that makes them small."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from secant.subproblem.solution import Solution


class LinearModel(ABC):
    """The residuals ``r + J p`` around one point, ``J`` of shape ``(N, n)``."""

    @property
    @abstractmethod
    def column_squares(self) -> Tensor:
        """The squared norms of the columns of ``J``: the diagonal of ``J' J``, shape ``(n,)``."""

    @abstractmethod
    def damped(self, damping: float, scale: Tensor) -> Solution:
        """The minimizer of ``|r + J p|^2 + damping p' D p``, with what the model promises for it.

        Args:
            damping: Not negative; 0 asks for the shortest of the undamped steps.
            scale: The diagonal ``D``, shape ``(n,)``, positive.
        """

    @abstractmethod
    def damped_solve(self, v: Tensor, damping: float, scale: Tensor) -> Tensor:
        """``(J' J + damping D)^-1 v``, shape ``(n,)``; ``damping`` positive."""

    @abstractmethod
    def solve(self, v: Tensor) -> Tensor:
        """``(J' J)^-1 v``, shape ``(n,)``; directions in which ``J`` is zero to rounding are left out or damped by that rounding."""

    @abstractmethod
    def multiply(self, v: Tensor) -> Tensor:
        """``J' J v``, shape ``(n,)``."""

    @abstractmethod
    def dense(self) -> Tensor:
        """``J' J`` as a new matrix of shape ``(n, n)``."""
