"""The trust-region subproblem in an eigenbasis, hard case included."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secant.subproblem.eigenbasis import Eigenbasis, dense_eigenbasis
from secant.subproblem.solution import Solution

_NEWTON_ROUNDS = 100
LEAST_RADIUS, LARGEST_RADIUS = 2.0**-500, 2.0**500  # in units of the gradient: squares of shorter steps would underflow, of longer ones overflow


def exact(g: Tensor, B: Tensor, radius: float) -> Solution:
    """The global minimizer of ``g.p + p.Bp / 2`` within ``|p| <= radius``; see :func:`within_radius`.

    Args:
        g: Gradient, shape ``(n,)``.
        B: Symmetric, shape ``(n, n)``.
        radius: Trust radius, positive.

    Returns:
        The step. Cost: one eigendecomposition, O(n^3).
    """
    return within_radius(dense_eigenbasis(g, B), radius)


def within_radius(basis: Eigenbasis, radius: float) -> Solution:
    """The global minimizer of ``g.p + p.Bp / 2`` within ``|p| <= radius`` and the span of the basis.

    ``p = -(B + shift I)^-1 g`` with the shift that makes ``B + shift I`` positive semidefinite and ``shift (|p| - radius) = 0``. In the hard case, where
    ``g`` is orthogonal to the lowest eigenvectors and the shifted step is too short, a multiple of a lowest eigenvector fills it up to the boundary.

    Args:
        basis: The matrix and the gradient in coordinates.
        radius: Trust radius, positive.

    Returns:
        The step. Cost: O(k) per round of a few Newton rounds, and one combination of the ``k`` basis vectors.

    Source:
        More & Sorensen (1983), SIAM J. Sci. Stat. Comput. 4(3); Nocedal & Wright (2006), theorem 4.1, eq. 4.37 to 4.45.
    """
    largest = float(basis.coefficients.abs().amax())
    if largest == 0.0 and basis.lowest >= -basis.tiny:
        return basis.solution(torch.zeros_like(basis.coefficients), on_boundary=False)
    unit = math.ldexp(1.0, math.frexp(largest or radius)[1])  # a gradient of 1e-162 has a square of zero; a power of two leaves every digit
    coordinates, on_boundary = _minimizer(basis, basis.coefficients / unit, min(max(radius / unit, LEAST_RADIUS), LARGEST_RADIUS))
    return basis.solution(coordinates * unit, on_boundary=on_boundary)


def _minimizer(basis: Eigenbasis, coefficients: Tensor, radius: float) -> tuple[Tensor, bool]:
    """The minimizer's coordinates for a gradient with these coefficients, and whether it lies on the boundary."""
    values, lowest, tiny = basis.values, basis.lowest, basis.tiny
    if lowest > tiny:
        newton = -coefficients / values
        if float(newton.norm()) <= radius:
            return newton, False
    # Everything below is in gaps above the least admissible shift, so that no digit is lost where the shift nearly cancels the lowest eigenvalue.
    gaps = values - min(lowest, 0.0)
    bottom = gaps <= 10.0 * tiny
    rest = torch.where(bottom, torch.zeros_like(gaps), -coefficients / torch.where(bottom, torch.ones_like(gaps), gaps))
    if bool(bottom.any()) and float(rest.norm()) <= radius and float(coefficients[bottom].norm()) <= tiny * radius:
        if lowest >= -tiny:  # singular: the lowest eigenvectors change nothing
            return rest, False
        index = int(torch.nonzero(bottom)[0])
        fill = (radius**2 - float(rest.norm()) ** 2) ** 0.5
        rest[index] = fill if float(coefficients[index]) <= 0.0 else -fill
        return rest, True
    return _on_boundary(gaps, coefficients, radius), True


def _on_boundary(gaps: Tensor, coefficients: Tensor, radius: float) -> Tensor:
    """``p = -coefficients / (gaps + excess)`` with the ``excess >= 0`` over the least shift at which ``|p|`` is the radius.

    ``1/|p|`` is nearly linear in the shift: Newton on it converges in a few rounds, inside a bracket (eq. 4.43 and 4.44).
    """
    low, high = 0.0, float(coefficients.norm()) / radius
    excess = max(low, float((coefficients.abs() / radius - gaps).amax()))  # one component alone must not exceed the radius
    excess = excess if excess > 0.0 else 0.5 * high
    for _ in range(_NEWTON_ROUNDS):
        step = -coefficients / (gaps + excess)
        norm = float(step.norm())
        low, high = (excess, high) if norm > radius else (low, excess)
        if abs(norm - radius) <= 1e-14 * radius or high - low <= torch.finfo(gaps.dtype).eps * high:
            break
        slope = float((step**2 / (gaps + excess)).sum())
        proposal = excess + (norm - radius) / radius * norm**2 / slope if slope > 0.0 else low
        excess = proposal if low < proposal < high else 0.5 * (low + high)
    step = -coefficients / (gaps + excess)
    return step * (radius / float(step.norm()))
