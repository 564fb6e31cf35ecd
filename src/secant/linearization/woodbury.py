"""The damped step where residuals are fewer than parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from secant.linearization.cholesky import widened
from secant.linearization.linear_model import LinearModel
from secant.subproblem.solution import Solution, confined_solution


@final
class ResidualKernel(LinearModel):
    """``p = -D^-1 J' (J D^-1 J' + damping I)^-1 r``: a system of ``N`` equations instead of ``n``.

    It is the natural gradient in the space of the residuals, the step of MinSR and SPRING.

    Args:
        blocks: Residuals and Jacobian by rows; all of ``J`` is kept.

    Cost:
        ``N n`` numbers; ``N^2 n`` flops and an eigendecomposition of ``N^3`` once, then ``2 N n`` for each damping.

    Source:
        Woodbury's identity; Goldshlager, Abrahamsen & Lin (2024), J. Comput. Phys. 516, eq. 10.
    """

    def __init__(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> None:
        pairs = [(widened(r), widened(J)) for r, J in blocks]
        self._r, self._J = torch.cat([r for r, _ in pairs]), torch.cat([J for _, J in pairs])
        self._decomposed: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def column_squares(self) -> Tensor:
        """The squared column norms of ``J``."""
        return self._J.square().sum(0)

    def damped(self, damping: float, scale: Tensor) -> Solution:
        """See :class:`~secant.linearization.linear_model.LinearModel`."""
        D = scale.to(self._J.dtype)
        values, vectors = self._eigen(D)
        p = (self._J.T @ (vectors @ ((vectors.T @ self._r) / (values + damping)))).neg() / D
        return confined_solution(self._J.T @ self._r, p, self._J @ p)

    def damped_solve(self, v: Tensor, damping: float, scale: Tensor) -> Tensor:
        """Woodbury's identity, for any ``v``; see :class:`~secant.linearization.linear_model.LinearModel`."""
        D = scale.to(self._J.dtype)
        values, vectors = self._eigen(D)
        w = v.to(self._J.dtype) / D
        return (w - (self._J.T @ (vectors @ ((vectors.T @ (self._J @ w)) / (values + damping)))) / D) / damping

    def solve(self, v: Tensor) -> Tensor:
        """``(J' J)^+ v``, within the span of the rows of ``J``."""
        values, vectors = self._eigen(torch.ones_like(self._J[0]))
        return (self._J.T @ (vectors @ ((vectors.T @ (self._J @ v.to(self._J.dtype))) / values.square()))).to(v.dtype)

    def multiply(self, v: Tensor) -> Tensor:
        """``J' (J v)``."""
        return (self._J.T @ (self._J @ v.to(self._J.dtype))).to(v.dtype)

    def dense(self) -> Tensor:
        """``J' J``, of rank ``N`` at most."""
        return self._J.T @ self._J

    def _eigen(self, D: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues above rounding of ``J D^-1 J'``, with their vectors as columns."""
        known = self._decomposed
        if known is None or not torch.equal(known[0], D):
            values, vectors = torch.linalg.eigh((self._J / D) @ self._J.T)
            above = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
            known = self._decomposed = D, values[above], vectors[:, above]
        return known[1:]
