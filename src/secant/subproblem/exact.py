"""The trust-region subproblem by a full eigendecomposition, hard case included."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secant.subproblem.solution import Solution

_NEWTON_ROUNDS = 100


def exact(g: Tensor, B: Tensor, radius: float) -> Solution:
    """The global minimizer of ``g.p + p.Bp / 2`` within ``|p| <= radius``.

    ``p = -(B + shift I)^-1 g`` with the shift that makes ``B + shift I`` positive semidefinite and ``shift (|p| - radius) = 0``. In the hard case, where
    ``g`` is orthogonal to the lowest eigenvectors and the shifted step is too short, a multiple of a lowest eigenvector fills it up to the boundary.

    Args:
        g: Gradient, shape ``(n,)``.
        B: Symmetric, shape ``(n, n)``.
        radius: Trust radius, positive.

    Returns:
        The step with ``B p``. Cost: one eigendecomposition, O(n^3).

    Source:
        More & Sorensen (1983), SIAM J. Sci. Stat. Comput. 4(3); Nocedal & Wright (2006), theorem 4.1, eq. 4.37 to 4.45.
    """
    unit = math.ldexp(1.0, math.frexp(float(B.abs().amax()))[1])  # LAPACK's thresholds are absolute: a power of two takes the scale out without rounding
    values, vectors = torch.linalg.eigh(B / unit)
    values *= unit
    coefficients = vectors.T @ g
    lowest = float(values[0])
    size = float(values.abs().amax())
    tiny = torch.finfo(g.dtype).eps * max(size, float(g.norm()) / radius)
    if lowest > tiny:
        newton = -coefficients / values
        if float(newton.norm()) <= radius:
            return _solution(vectors, values, newton, False, lowest)
    bottom = values <= lowest + 10.0 * tiny
    step, is_hard = _shifted(values, coefficients, max(0.0, -lowest), radius, bottom, tiny)
    if is_hard:
        fill = (radius**2 - float(step.norm()) ** 2) ** 0.5
        index = int(torch.nonzero(bottom)[0])
        step[index] += fill if float(coefficients[index]) <= 0.0 else -fill
    return _solution(vectors, values, step, True, lowest)


def _shifted(values: Tensor, coefficients: Tensor, floor: float, radius: float, bottom: Tensor, tiny: float) -> tuple[Tensor, bool]:
    """The coefficients of the step on the boundary, or those without the bottom eigenspace when even the least shift leaves the step inside."""
    rest = torch.where(bottom, torch.zeros_like(coefficients), -coefficients / (values + floor).where(~bottom, torch.ones_like(values)))
    weight_at_bottom = float(coefficients[bottom].norm())
    if floor + float(values[0]) <= tiny and weight_at_bottom <= tiny * radius and float(rest.norm()) <= radius:
        return rest, True
    # 1/|p(shift)| is nearly linear in the shift: Newton on it converges in a few rounds, from the left and inside a bracket (eq. 4.43).
    low, high = floor, floor + float(coefficients.norm()) / radius + tiny
    shift = max(low + weight_at_bottom / radius, low + tiny)
    for _ in range(_NEWTON_ROUNDS):
        step = -coefficients / (values + shift)
        norm = float(step.norm())
        if norm > radius:
            low = shift
        else:
            high = shift
        slope = float((step**2 / (values + shift)).sum())
        if abs(norm - radius) <= 1e-12 * radius or slope == 0.0:
            break
        proposal = shift + (norm - radius) / radius * norm**2 / slope
        shift = proposal if low < proposal < high else 0.5 * (low + high)
        if high - low <= torch.finfo(values.dtype).eps * high:
            break
    step = -coefficients / (values + shift)
    return step * (radius / float(step.norm())), False


def _solution(vectors: Tensor, values: Tensor, coefficients: Tensor, on_boundary: bool, lowest: float) -> Solution:
    return Solution(vectors @ coefficients, vectors @ (values * coefficients), on_boundary, lowest < 0.0)
