"""The contract of a curvature: a model of the inverse Hessian, corrected once per step."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from secant.linearization.rows import Rows
from secant.objective import Objective
from secant.step import Correction, Point, Step
from secant.subproblem.eigenbasis import Eigenbasis
from secant.subproblem.solution import Solution

StateValue = Tensor | float | int | str | None
State = dict[str, StateValue]


class Curvature(ABC):
    """A model ``H`` of the inverse Hessian.

    The loop calls ``update`` at the start of every iteration with the point it stands at and the step that led there; a step along ``-H g`` follows.
    """

    @abstractmethod
    def update(self, objective: Objective, point: Point, last: Step | None) -> Correction:
        """Correct the model with the last step, or set it up where there is none.

        Args:
            objective: For sizes, group scales and, in exact methods, Hessian products.
            point: Where the next step starts.
            last: The step before, accepted or rejected, whose two points were evaluated with one and the same closure; None at the start and after a reset.
        """

    @abstractmethod
    def solve(self, v: Tensor) -> Tensor:
        """The inverse-curvature product ``H v`` of shape ``(n,)``. ``H`` may be indefinite: callers check ``g . H g > 0``."""

    @abstractmethod
    def dense_inverse(self) -> Tensor:
        """``H`` as a new symmetric matrix of shape ``(n, n)``. Memory: two more matrices while it is built."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything; the next ``update`` starts from the initial scale."""

    @abstractmethod
    def bytes_needed(self, size: int, bytes_per_number: int) -> int:
        """Memory the model will take for ``size`` parameters, in bytes."""

    @abstractmethod
    def state(self) -> State:
        """All that is needed to go on bit for bit: tensors and plain numbers only, which later updates leave alone."""

    @abstractmethod
    def load(self, state: State, like: Tensor) -> None:
        """Take over a saved state, on the device of ``like`` and in the saved dtype."""


class PositiveDefiniteInverse(Curvature):
    """A curvature whose ``H`` is symmetric by storage, outlives a change of the objective, and is to be positive definite."""

    @abstractmethod
    def is_positive_definite(self) -> bool:
        """Whether ``H`` is finite and positive definite in the arithmetic it is stored in; so is a scale that is yet to be set."""


class QuadraticModel(Curvature):
    """A curvature that also knows ``B = H^-1``, as trust regions and cubic regularization need."""

    @abstractmethod
    def multiply(self, v: Tensor) -> Tensor:
        """The curvature product ``B v`` of shape ``(n,)``."""

    @property
    @abstractmethod
    def negative_eigenvalues(self) -> int | None:
        """How many eigenvalues of ``B`` are negative, None where that is not known; 0 makes ``-H g`` the minimizer of the model."""

    @abstractmethod
    def dense(self) -> Tensor:
        """``B`` as a symmetric matrix of shape ``(n, n)``, a new tensor."""

    @abstractmethod
    def eigenbasis(self, g: Tensor) -> Eigenbasis | None:
        """``B`` seen from ``g`` of shape ``(n,)`` where it is known in a few eigenvectors, at the cost of a few passes over the model; None otherwise."""


class DampedModel(QuadraticModel):
    """The positive semidefinite model ``B = J' J`` of a sum of squares, which solves for any damping, as Levenberg-Marquardt needs."""

    @property
    @abstractmethod
    def keeps_rows(self) -> bool:
        """Whether the next point is to be evaluated together with its Jacobian."""

    @property
    @abstractmethod
    def has_factors(self) -> bool:
        """Whether further solves with one damping are cheap."""

    @property
    @abstractmethod
    def rows(self) -> Rows:
        """The residuals and their Jacobian at the present point."""

    @abstractmethod
    def damped(self, damping: float) -> Solution:
        """The minimizer of the model with ``0.5 damping p' D p`` added, in the type of the parameters, with the decrease that the model promises for it.

        ``D`` is the diagonal that the model measures steps by.

        Args:
            damping: Relative to the largest curvature of the model along a parameter, in units of ``D``; not negative.
        """

    @abstractmethod
    def pull_back(self, p: Tensor, damping: float) -> Tensor:
        """``damping D p``: the gradient of the damping term, shape ``(n,)``."""

    @abstractmethod
    def damped_solve(self, v: Tensor, damping: float) -> Tensor:
        """``(B + damping D)^-1 v`` of shape ``(n,)``, the damping in the same units."""
