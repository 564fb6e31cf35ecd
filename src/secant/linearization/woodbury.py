"""The damped step where residuals are fewer than parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from secant.linearization.cholesky import widened
from secant.linearization.linear_model import LinearModel
from secant.subproblem.solution import Solution, confined_solution

FACTORS_BELOW = 128
"""Up to this many residuals singular values cost as little as the eigenvalues of a kernel."""

_NEAR = 1e4
"""With a damping so many times the rounding, the directions that drown in it would add a hundredth to the step."""


@final
class ResidualKernel(LinearModel):
    """``p = -D^-1 J' (J D^-1 J' + damping I)^-1 r``: a system of ``N`` equations instead of ``n``.

    It is the natural gradient in the space of the residuals, the step of MinSR and SPRING. From 128 residuals on it is computed from the eigenvalues of
    ``J J'``, until the damping comes near their rounding; otherwise from the singular values of ``J``, which have all their digits.

    Args:
        blocks: Residuals and Jacobian by rows; all of ``J`` is kept.

    Cost:
        ``3 N n`` numbers; about ``4 N^2 n`` flops and a decomposition of some ``10 N^3`` once, then ``6 N n`` for each damping.

    Source:
        Woodbury's identity; Goldshlager, Abrahamsen & Lin (2024), J. Comput. Phys. 516.
    """

    def __init__(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> None:
        pairs = [(widened(r), widened(J)) for r, J in blocks]
        self._r, self._J = torch.cat([r for r, _ in pairs]), torch.cat([J for _, J in pairs])
        self._roots: Tensor | None = None
        self._factors: tuple[Tensor, Tensor, Tensor] | None = None
        self._lost_below = math.inf

    @property
    def column_squares(self) -> Tensor:
        """The squared column norms of ``J``."""
        return self._J.square().sum(0)

    def damped(self, damping: float, scale: Tensor) -> Solution:
        """See :class:`~secant.linearization.linear_model.LinearModel`."""
        roots = scale.to(self._J.dtype).sqrt()
        values, U, V = self._singular(roots, damping)
        p = (V.T @ (values * (U.T @ self._r) / (values.square() + damping))).neg() / roots
        return confined_solution(self._J.T @ self._r, p, self._J @ p)

    def damped_solve(self, v: Tensor, damping: float, scale: Tensor) -> Tensor:
        """See :class:`~secant.linearization.linear_model.LinearModel`; directions that ``J`` does not see are left out."""
        roots = scale.to(self._J.dtype).sqrt()
        values, _, V = self._singular(roots, damping)
        return (V.T @ ((V @ (v.to(V.dtype) / roots)) / (values.square() + damping))) / roots

    def solve(self, v: Tensor) -> Tensor:
        """``(J' J)^+ v``, within the span of the rows of ``J``."""
        values, _, V = self._singular(torch.ones_like(self._J[0]), 0.0)
        return (V.T @ ((V @ v.to(V.dtype)) / values.square())).to(v.dtype)

    def multiply(self, v: Tensor) -> Tensor:
        """``J' (J v)``."""
        return (self._J.T @ (self._J @ v.to(self._J.dtype))).to(v.dtype)

    def dense(self) -> Tensor:
        """``J' J``, of rank ``N`` at most."""
        return self._J.T @ self._J

    def _singular(self, roots: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        """Singular values above rounding of ``J D^-1/2``, left vectors as columns and right vectors as rows."""
        if self._roots is None or not torch.equal(self._roots, roots):
            self._roots, self._factors, self._lost_below = roots, None, math.inf
            if len(self._J) >= FACTORS_BELOW:
                self._factors, self._lost_below = _by_kernel(self._J / roots)
        if self._factors is None or damping < self._lost_below:
            self._factors, self._lost_below = _by_factors(self._J / roots), 0.0
        return self._factors


def _by_factors(J: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    Q, R = torch.linalg.qr(J.T)
    U, values, W = torch.linalg.svd(R.T, full_matrices=False)
    above = values > len(values) * torch.finfo(values.dtype).eps * values[0]
    return values[above], U[:, above], W[above] @ Q.T


def _by_kernel(J: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], float]:
    """The factors, and the damping below which what was lost in ``J J'`` matters."""
    squares, U = torch.linalg.eigh(J @ J.T)
    rounding = len(squares) * torch.finfo(squares.dtype).eps * squares[-1]
    above = squares > rounding
    values, U = squares[above].sqrt(), U[:, above]
    return (values, U, (U.T @ J) / values[:, None]), _NEAR * float(rounding) if len(values) < len(squares) else 0.0
