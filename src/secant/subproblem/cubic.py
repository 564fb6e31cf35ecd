"""The cubic subproblem in an eigenbasis, hard case included."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from secant.subproblem.eigenbasis import Eigenbasis
from secant.subproblem.solution import Solution

_NEWTON_ROUNDS = 100


def cubic(basis: Eigenbasis, sigma: float) -> Solution:
    """The global minimizer of ``g.p + p.Bp / 2 + sigma |p|^3 / 3`` within the span of the basis.

    ``p = -(B + shift I)^-1 g`` with ``shift = sigma |p|`` and ``B + shift I`` positive semidefinite. In the hard case, where ``g`` is orthogonal to the lowest
    eigenvectors and the step with the least admissible shift is shorter than ``shift / sigma``, a multiple of a lowest eigenvector fills it up.

    Args:
        basis: The matrix and the gradient in coordinates.
        sigma: Weight of the cubic term, positive.

    Returns:
        The step with ``B p``; ``is_on_boundary`` says that the shift is not zero to rounding. Cost: O(k) per round of a few Newton rounds, and two
        combinations of the ``k`` basis vectors.

    Source:
        Nesterov & Polyak (2006), Math. Program. 108; Cartis, Gould & Toint (2011), Math. Program. 127, theorem 3.1 and section 6.1.
    """
    values, coefficients, lowest, tiny = basis.values, basis.coefficients, basis.lowest, basis.tiny
    # As in the trust-region subproblem: everything is in gaps above the least admissible shift.
    least = max(-lowest, 0.0)
    gaps = values + least
    bottom = gaps <= 10.0 * tiny
    rest = torch.where(bottom, torch.zeros_like(gaps), -coefficients / torch.where(bottom, torch.ones_like(gaps), gaps))
    length = least / sigma
    if least > tiny and float(rest.norm()) <= length and float(coefficients[bottom].norm()) <= tiny * length:
        index = int(torch.nonzero(bottom)[0])
        fill = math.sqrt(length**2 - float(rest.norm()) ** 2)
        rest[index] = fill if float(coefficients[index]) <= 0.0 else -fill
        return basis.solution(rest, on_boundary=True)
    excess = _excess(gaps, coefficients, least, sigma)
    return basis.solution(-coefficients / (gaps + excess), on_boundary=least + excess > tiny)


def _excess(gaps: Tensor, coefficients: Tensor, least: float, sigma: float) -> float:
    """The ``excess >= 0`` over the least shift at which ``sigma |p| = shift`` for ``p = -coefficients / (gaps + excess)``.

    Newton on ``1 / |p| - sigma / shift``, which is increasing and concave, inside a bracket (Cartis, Gould & Toint 2011, eq. 6.7).
    """
    weights = sigma * coefficients.abs()
    high = math.sqrt(float(weights.norm()))  # |p| <= |g| / excess and excess <= sigma |p|
    half, product = 0.5 * (least + gaps), weights - least * gaps
    alone = product / (half + (half.square() + product).clamp_min(0.0).sqrt())  # one component alone must not ask for a larger shift
    low = excess = min(max(float(alone.nan_to_num(0.0).amax()), 0.0), high)
    excess = excess if excess > 0.0 else 0.5 * high
    for _ in range(_NEWTON_ROUNDS):
        step = coefficients / (gaps + excess)
        norm, shift = float(step.norm()), least + excess
        low, high = (excess, high) if sigma * norm > shift else (low, excess)
        if abs(sigma * norm - shift) <= 1e-15 * shift or high - low <= torch.finfo(gaps.dtype).eps * high:
            break
        slope = float((step.square() / (gaps + excess)).sum()) / norm**2 + norm * sigma / shift / shift
        proposal = excess + (sigma * norm / shift - 1.0) / slope if slope > 0.0 else low
        excess = proposal if low < proposal < high else 0.5 * (low + high)
    return float(excess)
