"""A direction downhill by conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from secant.space import Space

_LEAST_NEGATIVE = 0.01  # of the stiffness met so far: a curvature that is barely negative does not say how far to go


def truncated_inverse(v: Tensor, multiply: Callable[[Tensor], Tensor], space: Space, forcing: float) -> Tensor | None:
    """Conjugate gradients on ``B d = v`` until the residual is ``forcing |v|`` or a direction of negative curvature is met, which is then followed.

    Along such a direction ``q`` with residual ``r``, ``d`` is moved by ``|r|^2 / |q.Bq|``, the step that the opposite curvature would take: the sign makes
    ``-d`` point downhill where ``v`` is a gradient, and the length scales as that of every other step.

    Args:
        v: Shape ``(n,)``, not zero.
        multiply: ``v -> B v``.
        space: Inner products.
        forcing: Relative residual to stop at.

    Returns:
        ``d``, shape ``(n,)``, with ``d.v > 0``; None where ``B v`` is zero to rounding. Cost: at most ``n`` products.

    Source:
        Nocedal & Wright (2006), algorithm 7.1. Departure: a later direction of negative curvature is followed, too, instead of being left out.
    """
    d, r, q = torch.zeros_like(v), v.clone(), v.clone()
    rr = space.dot(r, r)
    stop, largest = forcing**2 * rr, 0.0
    for iteration in range(v.numel()):
        Bq = multiply(q)
        G = space.gram(q, Bq)
        qq, qBq = G[0][0], G[0][1]
        largest = max(largest, math.sqrt(G[1][1] / qq))
        if not abs(qBq) > torch.finfo(v.dtype).eps ** (2 / 3) * largest * qq:
            return d if iteration > 0 else None
        if qBq < 0.0:
            return d.add_(q, alpha=rr / max(-qBq, _LEAST_NEGATIVE * largest * qq))
        d.add_(q, alpha=rr / qBq)
        r.add_(Bq, alpha=-rr / qBq)
        before, rr = rr, space.dot(r, r)
        if rr <= stop:
            break
        q = torch.add(r, q, alpha=rr / before)
    return d
