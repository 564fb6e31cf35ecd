"""The trust-region subproblem by conjugate gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from secant.space import Space
from secant.subproblem.exact import LARGEST_RADIUS, LEAST_RADIUS
from secant.subproblem.solution import Solution, solution


def steihaug(g: Tensor, multiply: Callable[[Tensor], Tensor], radius: float, space: Space, *, tolerance: float = 1e-3) -> Solution:
    """Conjugate gradients on ``B p = -g`` until the residual is small, the boundary is crossed or negative curvature is met.

    The first iterate is the Cauchy step, so the model decreases at least as much as there.

    Args:
        g: Gradient, shape ``(n,)``, not zero.
        multiply: ``v -> B v``; one call per iteration.
        radius: Trust radius, positive.
        space: Inner products.
        tolerance: Relative residual ``|B p + g| / |g|`` to stop at.

    Returns:
        The step. Cost: at most ``n`` products.

    Source:
        Steihaug (1983), SIAM J. Numer. Anal. 20(3); Nocedal & Wright (2006), algorithm 7.2.
    """
    p, Bp = torch.zeros_like(g), torch.zeros_like(g)
    unit = math.ldexp(1.0, math.frexp(float(g.abs().amax()))[1])  # the squares of a gradient of 1e-162 underflow; a power of two leaves every digit
    radius = min(max(radius / unit, LEAST_RADIUS), LARGEST_RADIUS)
    r = g / unit
    d = r.neg()
    rr = space.dot(r, r)
    stop = tolerance**2 * rr
    for _ in range(g.numel()):
        Bd = multiply(d)
        G = space.gram(p, d, Bd)
        pp, pd, dd, dBd = G[0][0], G[0][1], G[1][1], G[1][2]
        alpha = rr / dBd if dBd > 0.0 else math.inf
        if dBd <= 0.0 or pp + 2.0 * alpha * pd + alpha * alpha * dd >= radius**2:
            tau = boundary_length(pp, pd, dd, radius)
            p, Bp = p.add_(d, alpha=tau).mul_(unit), Bp.add_(Bd, alpha=tau).mul_(unit)
            return solution(space, g, p, Bp, on_boundary=True, negative_curvature=dBd <= 0.0)
        p.add_(d, alpha=alpha)
        Bp.add_(Bd, alpha=alpha)
        r.add_(Bd, alpha=alpha)
        before, rr = rr, space.dot(r, r)
        if rr <= stop:
            break
        d = torch.add(r.neg(), d, alpha=rr / before)
    return solution(space, g, p.mul_(unit), Bp.mul_(unit), on_boundary=False, negative_curvature=False)


def boundary_length(pp: float, pd: float, dd: float, radius: float) -> float:
    """The positive ``tau`` with ``|p + tau d| = radius``, from ``p.p``, ``p.d`` and ``d.d``, without cancellation."""
    gap = max(radius**2 - pp, 0.0)
    root = math.sqrt(pd**2 + dd * gap)
    return gap / (pd + root) if pd > 0.0 else (root - pd) / dd
