"""The damped step from the normal equations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from secant.linearization.linear_model import LinearModel
from secant.linearization.normal_matrix import add_gram
from secant.subproblem.solution import Solution, damped_solution

_RETRIES = 40


@final
class NormalEquations(LinearModel):
    """``J' J`` by blocks of rows, and its Cholesky factorization with each damping.

    The condition number of ``J`` enters squared: directions whose curvature is below ``n eps`` of that of their parameters are lost in rounding. Where the
    factorization breaks down, the damping is raised to that rounding and by factors of ten from there.

    Args:
        blocks: Residuals and Jacobian by rows.
        size: ``n``.

    Attributes:
        is_at_rounding: Whether a factorization needed more damping than was asked for.

    Cost:
        ``N n^2`` flops and ``n^2`` numbers; each damping ``n^3 / 3`` flops.

    Source:
        Nocedal & Wright (2006), section 10.3.
    """

    def __init__(self, blocks: Iterable[tuple[Tensor, Tensor]], size: int) -> None:
        self.is_at_rounding = False
        self._is_complete = False
        self._A: Tensor | None = None
        self._factored: tuple[float, Tensor, Tensor, Tensor] | None = None
        for r, J in blocks:
            r, J = widened(r), widened(J)
            if self._A is None:
                self._A = J.new_zeros(size, size)
                self._g = r.new_zeros(size)
            add_gram(self._A, J)
            self._g += J.T @ r
        assert self._A is not None

    @property
    def column_squares(self) -> Tensor:
        """The diagonal of ``J' J``."""
        return self._lower.diagonal()

    @property
    def _lower(self) -> Tensor:
        """``J' J`` in its lower triangle, which is all that the factorization reads."""
        assert self._A is not None
        return self._A

    @property
    def _matrix(self) -> Tensor:
        """The whole of ``J' J``."""
        if not self._is_complete:
            complete(self._lower)
            self._is_complete = True
        return self._lower

    def damped(self, damping: float, scale: Tensor) -> Solution:
        """One factorization; see :class:`~secant.linearization.linear_model.LinearModel`."""
        factor, diagonal = self._damped_factor(damping, scale)
        p = torch.cholesky_solve(self._g.neg()[:, None], factor)[:, 0]
        return damped_solution(self._g, p, diagonal)

    def damped_solve(self, v: Tensor, damping: float, scale: Tensor) -> Tensor:
        """See :class:`~secant.linearization.linear_model.LinearModel`."""
        factor, _ = self._damped_factor(damping, scale)
        return torch.cholesky_solve(v.to(self._g.dtype)[:, None], factor)[:, 0]

    def solve(self, v: Tensor) -> Tensor:
        """``(J' J)^-1 v`` with as much damping as rounding demands."""
        factor, _ = self._factor(torch.zeros_like(self._g))
        return torch.cholesky_solve(v.to(self._g.dtype)[:, None], factor)[:, 0].to(v.dtype)

    def multiply(self, v: Tensor) -> Tensor:
        """``J' J v`` by the stored matrix."""
        return (self._matrix @ v.to(self._g.dtype)).to(v.dtype)

    def dense(self) -> Tensor:
        """A copy of the matrix."""
        return self._matrix.clone()

    def _damped_factor(self, damping: float, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The factor for one damping, free for the last one."""
        if self._factored is None or self._factored[0] != damping or self._factored[1] is not scale:
            self._factored = damping, scale, *self._factor(damping * scale.to(self._g.dtype))
        return self._factored[2:]

    def _factor(self, diagonal: Tensor) -> tuple[Tensor, Tensor]:
        """The Cholesky factor of ``A + diag``, and the diagonal it needed."""
        A = self._lower
        added = diagonal
        rounding = len(A) * torch.finfo(A.dtype).eps * A.diagonal()  # each column's own: the factorization does not mix their scales
        for attempt in range(_RETRIES):
            damped = A.clone()
            damped.diagonal().add_(added)
            factor, failed = torch.linalg.cholesky_ex(damped)
            if not bool(failed):
                self.is_at_rounding |= attempt > 0
                return factor, added
            added = torch.maximum(diagonal, (rounding * 10.0**attempt).clamp_min(torch.finfo(A.dtype).tiny))
        raise AssertionError("A diagonal that dwarfs the matrix makes it positive definite.")


def widened(tensor: Tensor) -> Tensor:
    """In float64 where the device has it: the normal equations need twice the digits of the residuals."""
    return tensor if tensor.device.type == "mps" else tensor.double()


def complete(A: Tensor) -> None:
    """Write the lower triangle of ``A`` into the upper one."""
    A.copy_(torch.tril(A) + torch.tril(A, -1).T)
