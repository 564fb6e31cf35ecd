"""The damped step without a Jacobian, by products alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from secant.linearization.linear_model import LinearModel
from secant.space import Space
from secant.subproblem.solution import Solution, solution


@final
class GaussNewtonProducts(LinearModel):
    """Conjugate gradients on ``(J' J + damping D) p = -g``, preconditioned by ``D``; the memory is a few vectors.

    Args:
        g: ``J' r``, shape ``(n,)``.
        product: ``v -> J' J v``.
        space: Inner products.
        tolerance: Relative residual at which to stop.
        limit: Most products for one damping.

    Cost:
        One product per iteration, for each damping anew.

    Source:
        Nocedal & Wright (2006), algorithm 7.1 without its negative curvature, which ``J' J`` has not.
    """

    def __init__(self, g: Tensor, product: Callable[[Tensor], Tensor], space: Space, *, tolerance: float, limit: int) -> None:
        self._g = g
        self._product = product
        self._space = space
        self._tolerance = tolerance
        self._limit = limit
        length = space.norm(g)
        self._rayleigh = space.dot(g, product(g)) / length**2 if length > 0.0 else 1.0

    @property
    def column_squares(self) -> Tensor:
        """The Rayleigh quotient of ``J' J`` at the gradient, for every parameter alike: the columns themselves are never seen."""
        return torch.full_like(self._g, self._rayleigh)

    def damped(self, damping: float, scale: Tensor) -> Solution:
        """See :class:`~secant.linearization.linear_model.LinearModel`."""
        p, Ap = self._conjugate_gradients(self._g.neg(), damping * scale, scale)
        return solution(self._space, self._g, p, Ap, on_boundary=False, negative_curvature=False)

    def damped_solve(self, v: Tensor, damping: float, scale: Tensor) -> Tensor:
        """To the tolerance; see :class:`~secant.linearization.linear_model.LinearModel`."""
        return self._conjugate_gradients(v, damping * scale, scale)[0]

    def solve(self, v: Tensor) -> Tensor:
        """``(J' J)^-1 v`` to the tolerance."""
        return self._conjugate_gradients(v, torch.zeros_like(v), torch.ones_like(v))[0]

    def multiply(self, v: Tensor) -> Tensor:
        """One product."""
        return self._product(v)

    def dense(self) -> Tensor:
        """``J' J`` by ``n`` products."""
        columns = torch.stack([self._product(e) for e in torch.eye(self._g.numel(), dtype=self._g.dtype, device=self._g.device)])
        return 0.5 * (columns + columns.T)

    def _conjugate_gradients(self, b: Tensor, diagonal: Tensor, preconditioner: Tensor) -> tuple[Tensor, Tensor]:
        """``p`` with ``(J' J + diagonal) p = b`` to the tolerance, and ``J' J p``."""
        p, Ap, rest = torch.zeros_like(b), torch.zeros_like(b), b
        z = rest / preconditioner
        d, square = z, self._space.dot(rest, z)
        enough = self._tolerance * math.sqrt(square)
        for _ in range(self._limit):
            Ad = self._product(d)
            curvature = self._space.dot(d, Ad + diagonal * d)
            if not curvature > 0.0:
                break
            length = square / curvature
            p, Ap = p + length * d, Ap + length * Ad
            rest = rest - length * (Ad + diagonal * d)
            z = rest / preconditioner
            before, square = square, self._space.dot(rest, z)
            if not math.sqrt(square) > enough:
                break
            d = z + (square / before) * d
        return p, Ap
