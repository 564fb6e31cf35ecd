"""The damped inverse of a moving average of covariances, kept exact by low-rank corrections."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

_RESTORE_BELOW = 0.5  # of the wanted damping: the cost of a restoration is spread over log(2) / (1 - decay) corrections, and damping is known to a factor of 2


@final
class MovingInverse:
    """``P = (A + d I)^-1`` for the moving average ``A <- decay A + (1 - decay) V V'``.

    The identity fades with the average: one correction takes ``B = A + d I`` to ``decay B + (1 - decay) V V'``, whose inverse is Sherman-Morrison-Woodbury's.
    When ``d`` has fallen below half of ``damping`` times the mean eigenvalue of ``A``, it is raised to that by ``(P^-1 + e I)^-1``, exactly, through a Cholesky
    factor of a matrix whose condition is about 2. So at every moment ``P`` is the inverse of ``A + d I`` with a known ``d``, and its norm is at most ``1 / d``.

    In the first steps the average is the plain mean of all ``V V'`` so far. The matrix kept is ``R = d P``, whose eigenvalues are between 0 and 1 whatever the
    scale of ``V``; rounding in it does not grow, since corrections only contract.

    Args:
        size: Dimension ``m``.
        decay: Of the moving average, in ``[0, 1)``.
        damping: ``d`` over the mean eigenvalue of ``A``; positive.
        like: Its dtype and device are those of the matrix.

    Attributes:
        damping: The present ``d``; 0 before the first correction.
        trace: Of ``A``.
        corrections: How many were made.

    Cost: ``m^2`` numbers. A correction by ``r`` vectors takes ``4 m^2 r`` flops, a restoration ``m^3``, once in ``log(2) / (1 - decay)`` corrections.

    Source:
        Woodbury (1950); the exponentially weighted form is that of recursive least squares. That the fading identity is restored is our addition: without it
        ``P`` grows like ``decay^-t`` in directions that no ``V`` reaches.
    """

    __slots__ = ("_decay", "_matrix", "_wanted", "corrections", "damping", "trace")

    def __init__(self, size: int, *, decay: float, damping: float, like: Tensor) -> None:
        self._matrix = torch.eye(size, dtype=like.dtype, device=like.device)
        self._decay, self._wanted = decay, damping
        self.damping, self.trace, self.corrections = 0.0, 0.0, 0

    def correct(self, vectors: Tensor, square: float) -> None:
        """Take ``V V'`` into the average.

        Args:
            vectors: ``V``, shape ``(m, r)``.
            square: ``|V|^2``. Zero, or so small that it has no inverse, changes nothing.
        """
        size = self._matrix.shape[0]
        if not self._wanted * square / size > torch.finfo(self._matrix.dtype).tiny:
            return
        self.corrections += 1
        weight = max(1.0 - self._decay, 1.0 / self.corrections)
        self.damping, self.trace = (1.0 - weight) * self.damping, (1.0 - weight) * self.trace + weight * square
        wanted = self._wanted * self.trace / size
        if weight == 1.0:
            self._start(wanted)
        elif self.damping < _RESTORE_BELOW * wanted:
            self._restore(wanted)  # before the correction: after it, an outlier would have made the matrix ill-conditioned
        self._add(vectors, weight)

    @property
    def scale(self) -> float:
        """What the kept matrix is over ``P``: :attr:`damping`, or 1 before the first correction."""
        return self.damping or 1.0

    def times_scaled(self, rows: Tensor) -> Tensor:
        """``rows @ (d P)`` for rows of shape ``(..., m)``, never longer than they are; divided by :attr:`scale` it is ``rows @ P``."""
        return rows @ self._matrix

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, as tensors (copies) and plain numbers."""
        return {"matrix": self._matrix.clone(), "damping": self.damping, "trace": self.trace, "corrections": self.corrections}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state; the dtype of the matrix stays."""
        self._matrix.copy_(state["matrix"])
        self.damping, self.trace, self.corrections = state["damping"], state["trace"], state["corrections"]

    def _start(self, wanted: float) -> None:
        self._matrix.zero_().diagonal().fill_(1.0)
        self.damping = wanted

    def _add(self, vectors: Tensor, weight: float) -> None:
        """``R+ = R - W'W`` with ``L L' = k I + V'RV``, ``W = L^-1 V'R``, ``k = d / weight`` and the ``d`` after fading; one pass over ``R``."""
        v = vectors * (weight / self.damping) ** 0.5
        u = self._matrix @ v
        gram = v.T @ u
        gram.diagonal().add_(1.0)
        lower = torch.linalg.cholesky_ex(gram)[0]
        w = torch.linalg.solve_triangular(lower, u.T, upper=False)
        self._matrix.addmm_(w.T, w, alpha=-1.0)

    def _restore(self, wanted: float) -> None:
        """``R+ = d+ (P^-1 + (d+ - d) I)^-1 = (1 + g) / g (I - (I + g R)^-1)`` with ``g = d+ / d - 1``."""
        growth = wanted / self.damping - 1.0
        lifted = growth * self._matrix
        lifted.diagonal().add_(1.0)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(lifted)[0])
        self._matrix.copy_(inverse).mul_(-(1.0 + growth) / growth).diagonal().add_((1.0 + growth) / growth)
        self.damping = wanted
