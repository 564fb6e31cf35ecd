"""A symmetric matrix in coordinates where it is diagonal, seen from one gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secant.subproblem.solution import Solution


@dataclass(frozen=True, slots=True, eq=False)
class Eigenbasis:
    """``B = V diag(values) V'`` on the span of orthonormal vectors ``V`` that holds the gradient: ``g = V coefficients``.

    The minimizer of a model that depends on ``g``, ``B`` and ``|p|`` alone lies in the span when that is all of the space, when it is the whole eigenspace of
    the lowest eigenvalue and the gradient, or when it is a Krylov space that has converged. A matrix that is a multiple of the identity but for a few
    eigenvectors needs no more than these and one vector, the normalized rest of the gradient.

    Attributes:
        values: Eigenvalues in any order, shape ``(k,)``.
        coefficients: ``V' g``, shape ``(k,)``, type and device of ``values``.
        vector: Maps coordinates of shape ``(k,)`` to ``V`` times them, shape ``(n,)``, a new tensor.
    """

    values: Tensor
    coefficients: Tensor
    vector: Callable[[Tensor], Tensor]

    @property
    def lowest(self) -> float:
        """The lowest eigenvalue."""
        return float(self.values.amin())

    @property
    def tiny(self) -> float:
        """Below this an eigenvalue is zero to rounding."""
        return torch.finfo(self.values.dtype).eps * float(self.values.abs().amax())

    def solution(self, coordinates: Tensor, *, on_boundary: bool) -> Solution:
        """The step with these coordinates. Cost: one combination of the basis vectors; everything else is known in coordinates."""
        c, g, values = (part.cpu().double() for part in (coordinates, self.coefficients, self.values))  # the square of 1e-23 underflows in float32
        length, slope, curvature = float(c.norm()), float(c @ g), float(values @ c.square())
        return Solution(self.vector(coordinates), length, slope, curvature, on_boundary, self.lowest < 0.0)


def dense_eigenbasis(g: Tensor, B: Tensor) -> Eigenbasis:
    """The whole eigenbasis of a symmetric matrix of shape ``(n, n)``, seen from ``g`` of shape ``(n,)``. Cost: one eigendecomposition, O(n^3)."""
    unit = math.ldexp(1.0, math.frexp(float(B.abs().amax()))[1])  # LAPACK's thresholds are absolute: a power of two takes the scale out without rounding
    values, vectors = torch.linalg.eigh(B / unit)
    return Eigenbasis(values * unit, vectors.T @ g, lambda coordinates: vectors @ coordinates)
