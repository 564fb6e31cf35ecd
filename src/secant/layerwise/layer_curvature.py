"""What a tapped method knows of one weight matrix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from secant.layerwise.taps import Capture


class LayerCurvature(ABC):
    """A model ``C`` of the curvature by one weight matrix of shape ``(n, m)``, corrected once per step."""

    @abstractmethod
    def correct(self, capture: Capture) -> None:
        """Take a finite capture into the model; one that is zero changes nothing."""

    @abstractmethod
    def solve_scaled(self, gradient: Tensor) -> Tensor:
        """``scale * C^-1 G`` for a gradient of shape ``(n, m)``: a new tensor never longer than ``G``, whatever the scale of the captures."""

    @property
    @abstractmethod
    def scale(self) -> float | Tensor:
        """What :meth:`solve_scaled` multiplies ``C^-1 G`` by; 1 before the first correction, when ``C`` is the identity."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """All that is needed to go on, as tensors (copies) and plain numbers."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state in the dtype and on the device of this one."""
