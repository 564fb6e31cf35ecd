"""The damped step from fewer rows than residuals."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from secant.linearization.cholesky import widened
from secant.linearization.linear_model import LinearModel
from secant.linearization.orthogonal import OrthogonalFactors
from secant.linearization.rows import Rows
from secant.subproblem.solution import Solution, confined_solution

_NONZEROS = 8  # per column of the sparse sign matrix: Martinsson & Tropp (2020), section 9.2
_KEPT_SHARE = 0.5
"""The guard: the decrease that the whole Jacobian promises must be at least this share of what the sketch promises."""


@final
class SketchedRows(LinearModel):
    """``J' J`` is replaced by ``(S J)' (S J)`` with a sparse random ``S`` of few rows; the gradient stays exact.

    The guard: a step is handed out when the decrease that the whole Jacobian promises, by one product ``J' J p``, is at least half of what the sketch promises.
    Else the sketch is made anew with twice the rows, up to the Jacobian itself.

    Args:
        whole: Residuals and Jacobian by rows.
        g: ``J' r``, shape ``(n,)``.
        rows: Of the first sketch; as many residuals or more make it exact.
        residuals: ``N``.
        seed: Of the random signs; other sizes of the sketch draw others.

    Cost:
        ``8 N n`` additions and ``2 rows n^2`` flops instead of ``2 N n^2``; one product for each damping.

    Source:
        Iterative Hessian sketch: Pilanci & Wainwright (2016), J. Mach. Learn. Res. 17; sparse sign embedding: Martinsson & Tropp (2020), Acta Numerica 29,
        section 9.2. The guard is our own.
    """

    def __init__(self, whole: Rows, g: Tensor, *, rows: int, residuals: int, seed: int) -> None:
        self._whole = whole
        self._g = widened(g)
        self._dtype = g.dtype
        self._residuals = residuals
        self._seed = seed
        self.rows = rows
        self._factors = self._sketched()

    @property
    def column_squares(self) -> Tensor:
        """The squared column norms of the sketch, those of ``J`` in the mean."""
        return self._factors.column_squares

    def damped(self, damping: float, scale: Tensor) -> Solution:
        """See :class:`~secant.linearization.linear_model.LinearModel`."""
        while self.rows < self._residuals:
            p = self._factors.damped_solve(self._g.neg(), damping, scale)
            promised = confined_solution(self._g, p, self._factors.image(p))
            kept = replace(promised, curvature=float(torch.dot(p, widened(self._whole.gram_times(p.to(self._dtype))))))
            if kept.predicted >= _KEPT_SHARE * promised.predicted:
                return kept
            self.rows *= 2
            self._factors = self._sketched()
        return self._factors.damped(damping, scale)

    def damped_solve(self, v: Tensor, damping: float, scale: Tensor) -> Tensor:
        """By the sketch; see :class:`~secant.linearization.linear_model.LinearModel`."""
        return self._factors.damped_solve(v, damping, scale)

    def solve(self, v: Tensor) -> Tensor:
        """``((S J)' (S J))^+ v``."""
        return self._factors.solve(v)

    def multiply(self, v: Tensor) -> Tensor:
        """``J' J v``, by the whole Jacobian."""
        return self._whole.gram_times(v)

    def dense(self) -> Tensor:
        """``(S J)' (S J)``."""
        return self._factors.dense()

    def _sketched(self) -> OrthogonalFactors:
        size = self._g.numel()
        if self.rows >= self._residuals:
            return OrthogonalFactors(self._whole.blocks(), size)
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + self.rows) % (1 << 32))  # it uses no more bits
        SJ = self._g.new_zeros(self.rows, size)
        for _, J in self._whole.blocks():
            J = widened(J)
            for _ in range(_NONZEROS):
                places = torch.randint(self.rows, (len(J),), generator=generator).to(J.device)
                signs = (2.0 * torch.randint(2, (len(J),), generator=generator) - 1.0).to(J.device, J.dtype)
                SJ.index_add_(0, places, J * (signs / _NONZEROS**0.5)[:, None])
        return OrthogonalFactors([(SJ.new_zeros(self.rows), SJ)], size)
