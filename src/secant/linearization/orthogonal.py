"""The damped step from orthogonal factors, which do not square the condition number."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import final

import torch
from torch import Tensor

from secant.linearization.cholesky import widened
from secant.linearization.linear_model import LinearModel
from secant.subproblem.solution import Solution, confined_solution

_DECOMPOSED_FROM, DECOMPOSED_BELOW = 60, 400
"""Between these numbers of parameters the singular values are computed once for all dampings. Beyond, they cost more than a QR factorization for each damping;
below, such a factorization costs next to nothing, and it is exact for each column in its own scale, which singular values are not: small columns drown in
the rounding of large ones."""


@final
class OrthogonalFactors(LinearModel):
    """``J = Q R`` by blocks of rows, kept as ``R`` and ``Q' r``.

    Small singular values keep their digits down to ``eps`` of the largest, the square root of what the normal equations resolve.

    Args:
        blocks: Residuals and Jacobian by rows.
        size: ``n``.

    Cost:
        About ``2 N n^2`` flops and ``n^2`` numbers; the singular values some ``20 n^3`` once, then ``4 n^2`` for each damping; without them ``3 n^3`` each.

    Source:
        Nocedal & Wright (2006), section 10.3; the singular values with ``D^-1`` on the right make every damping a diagonal problem.
    """

    def __init__(self, blocks: Iterable[tuple[Tensor, Tensor]], size: int) -> None:
        triangle: Tensor | None = None
        for r, J in blocks:
            block = torch.cat([widened(J), widened(r)[:, None]], dim=1)
            triangle = torch.linalg.qr(block if triangle is None else torch.cat([triangle, block]), mode="r")[1]
        assert triangle is not None
        self._has_all_rows = len(triangle) >= size
        if len(triangle) < size + 1:
            triangle = torch.cat([triangle, triangle.new_zeros(size + 1 - len(triangle), size + 1)])
        self._R, self._c = triangle[:size, :size].contiguous(), triangle[:size, size].contiguous()
        self._decomposed: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._triangle: tuple[float, Tensor, Tensor] | None = None

    @property
    def column_squares(self) -> Tensor:
        """The squared column norms of ``R``."""
        return self._R.square().sum(0)

    def damped(self, damping: float, scale: Tensor) -> Solution:
        """See :class:`~secant.linearization.linear_model.LinearModel`."""
        roots = scale.to(self._R.dtype).sqrt()
        if self._is_decomposed(damping):
            values, V, coordinates = self._singular(roots)
            p = (V.T @ (values * coordinates / (values.square() + damping))).neg() / roots
        else:
            triangle = self._damped_triangle(damping, roots)
            p = torch.linalg.solve_triangular(triangle[:, :-1], triangle[:, -1:].neg(), upper=True)[:, 0]
        return confined_solution(self._R.T @ self._c, p, self._R @ p)

    def damped_solve(self, v: Tensor, damping: float, scale: Tensor) -> Tensor:
        """See :class:`~secant.linearization.linear_model.LinearModel`; directions that are zero to rounding are left out."""
        roots = scale.to(self._R.dtype).sqrt()
        if self._is_decomposed(damping):
            values, V, _ = self._singular(roots)
            return (V.T @ ((V @ (v.to(V.dtype) / roots)) / (values.square() + damping))) / roots
        triangle, v = self._damped_triangle(damping, roots)[:, :-1], v.to(self._R.dtype)[:, None]
        p = torch.cholesky_solve(v, triangle, upper=True)
        missing = v - triangle.T @ (triangle @ p)  # the condition number enters squared: one refinement, as for corrected seminormal equations
        return (p + torch.cholesky_solve(missing, triangle, upper=True))[:, 0]

    def image(self, p: Tensor) -> Tensor:
        """``R p``, as long as ``J p``."""
        return self._R @ p

    def solve(self, v: Tensor) -> Tensor:
        """``(J' J)^+ v``: directions of singular values below ``n eps`` of the largest are left out."""
        values, V, _ = self._singular(torch.ones_like(self._c))
        return (V.T @ ((V @ v.to(V.dtype)) / values.square())).to(v.dtype)

    def multiply(self, v: Tensor) -> Tensor:
        """``R' (R v)``."""
        return (self._R.T @ (self._R @ v.to(self._R.dtype))).to(v.dtype)

    def dense(self) -> Tensor:
        """``R' R``."""
        gram: Tensor = self._R.T @ self._R
        return gram

    def dense_inverse(self) -> Tensor:
        """``(J' J)^+`` as a new symmetric matrix of shape ``(n, n)``."""
        values, V, _ = self._singular(torch.ones_like(self._c))
        rows = V / values[:, None]
        inverse: Tensor = rows.T @ rows
        return inverse

    def _is_decomposed(self, damping: float) -> bool:
        """Whether singular values are used: where directions are missing they are needed, whatever the damping."""
        return damping == 0.0 or not self._has_all_rows or _DECOMPOSED_FROM <= len(self._R) < DECOMPOSED_BELOW

    def _damped_triangle(self, damping: float, roots: Tensor) -> Tensor:
        """The triangle of ``R`` above ``sqrt(damping D)``, with the rotated ``c`` as its last column, shape ``(n, n + 1)``; free for the last damping."""
        known = self._triangle
        if known is None or known[0] != damping or not torch.equal(known[1], roots):
            below = torch.cat([torch.diag(math.sqrt(damping) * roots), torch.zeros_like(roots)[:, None]], dim=1)
            triangle: Tensor = torch.linalg.qr(torch.cat([torch.cat([self._R, self._c[:, None]], dim=1), below]), mode="r")[1]
            known = self._triangle = damping, roots, triangle[: len(roots)]
        return known[2]

    def _singular(self, roots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Singular values above rounding, their right vectors as rows, and ``U' c``, of ``R D^-1/2``."""
        known = self._decomposed
        if known is None or not torch.equal(known[0], roots):
            U, values, V = torch.linalg.svd(self._R / roots)
            above = values > len(values) * torch.finfo(values.dtype).eps * values[0]
            known = self._decomposed = roots, values[above], V[above], U.T[above] @ self._c
        return known[1:]
