"""The Hessian itself, by products, at every point the method stands at."""

from __future__ import annotations

import math
import sys
from typing import Any, Literal, final

import torch
from torch import Tensor

from secant.curvature.curvature import QuadraticModel, State
from secant.curvature.initial import InitialScale, initial_diagonal
from secant.objective import HessianProduct, Objective
from secant.space import LocalSpace, Space
from secant.step import Correction, Point, Step
from secant.subproblem.eigenbasis import Eigenbasis, dense_eigenbasis
from secant.subproblem.krylov import Ritz, krylov_eigenbasis
from secant.subproblem.saddle_free import absolute_inverse, absolute_values
from secant.subproblem.truncated import truncated_inverse

Derivative = Literal["auto", "exact", "differences"]

_SAVED_BELOW = 100
"""Below this many parameters a saved state holds the Hessian, at ``n`` products, so that its inverse can be read without a closure."""

_LEAST_GRADIENT = sys.float_info.min ** (1 / 3)
"""Below this the third powers of a step's length underflow."""


@final
class ExactHessian(QuadraticModel):
    """``B`` is the Hessian at the present point; nothing is learned from steps.

    ``solve`` answers what a line search needs, a direction downhill: with ``krylov_limit = 0`` by truncated conjugate gradients, else by ``|B|^-1`` within a
    Krylov space of at most so many vectors, which is also the eigenbasis of trust regions and cubic regularization. Both stop at the relative
    residual ``min(1/2, sqrt(|g| / |g|_max))`` with the largest gradient norm so far, so that convergence is superlinear. The Krylov space serves every trial
    from one point: after a rejected one no product is needed.

    Args:
        initial: ``"auto"`` uses the Hessian from the first point on; a positive number ``c`` makes the first model ``H = c I``, times the groups' ratios.
        hessian: Products ``"exact"``, by ``"differences"`` of gradients, or ``"auto"``: differences where the closure calls ``backward``.
        krylov_limit: Most vectors of the Krylov space; 0 for none.

    Source:
        Nocedal & Wright (2006), section 7.1; forcing sequence: Eisenstat & Walker (1996), Nocedal & Wright eq. 7.3. Departure: relative to the largest
        gradient, not absolute, so that the scale of the loss plays no part.
    """

    def __init__(self, *, initial: InitialScale = "auto", hessian: Derivative = "auto", krylov_limit: int = 0) -> None:
        if krylov_limit < 0:
            raise ValueError(f"Expected krylov_limit >= 0, got {krylov_limit}.")
        self.hessian = hessian
        self._initial = initial
        self._krylov_limit = krylov_limit
        self._steepest = 0.0
        self._is_fresh = True
        self._saved: Tensor | None = None
        self._space: Space = LocalSpace()
        self._point: Point | None = None
        self._product: HessianProduct | None = None
        self._Bg = torch.empty(0)
        self._diagonal: Tensor | None = None
        self._solved: tuple[Tensor, Tensor] | None = None
        self._basis: tuple[Tensor, Eigenbasis] | None = None
        self._has_negative = False

    @property
    def negative_eigenvalues(self) -> int | None:
        """At least so many eigenvalues of ``B`` are negative, as far as products have shown; None where none has shown up."""
        if self._diagonal is not None:
            return 0
        if self._basis is not None:
            return int((self._basis[1].values < -self._basis[1].tiny).sum()) or None
        return 1 if self._has_negative else None

    def update(self, objective: Objective, point: Point, last: Step | None) -> Correction:
        """Look at the Hessian at ``point``. Cost: the product ``B g``, and one evaluation where the objective kept no graph of the gradient there."""
        is_fresh, self._is_fresh, self._space = self._is_fresh, False, objective.space
        if is_fresh:
            objective.initial_scales()  # refuses groups that could never move
        self._steepest = max(self._steepest, self._space.norm(point.grad))
        if is_fresh and self._initial != "auto":
            self._forget_point()
            self._diagonal = initial_diagonal(self._initial, objective, point)
            return Correction.INITIAL
        if point is self._point:
            return Correction.NOTHING_NEW
        self._forget_point()
        product = objective.hessian_at(point)
        self._Bg = product(point.grad)
        largest = float(self._Bg.abs().amax())
        if not math.isfinite(largest):
            self._diagonal = initial_diagonal("auto", objective, point)
            return Correction.HESSIAN_UNUSABLE
        if 0.0 < point.largest_grad < _LEAST_GRADIENT or 0.0 < largest < _LEAST_GRADIENT:
            self._diagonal = torch.full_like(point.grad, point.largest_grad / largest if largest > 0.0 else 1.0)
            return Correction.HESSIAN_UNUSABLE
        self._point, self._product, self._has_negative = point, product, self._space.dot(point.grad, self._Bg) < 0.0
        return Correction.DIFFERENCES if objective.takes_differences else Correction.EXACT

    def multiply(self, v: Tensor) -> Tensor:
        """``B v``, shape ``(n,)``. Cost: one product, about a gradient; none for the gradient and its negative."""
        if self._diagonal is not None:
            return v / self._diagonal
        if self._point is None or self._product is None:
            return self._dense() @ v
        for sign, known in ((1.0, self._point.grad), (-1.0, -self._point.grad)):
            if torch.equal(v, known):
                return sign * self._Bg
        Bv = self._product(v)
        self._has_negative |= self._space.dot(v, Bv) < 0.0
        return Bv

    def solve(self, v: Tensor) -> Tensor:
        """A direction for ``v``, shape ``(n,)``: ``B^-1 v`` to the residual of the class, and downhill where ``B`` is indefinite; free for the last ``v``.

        Cost: a product per iteration of conjugate gradients, or per vector of the Krylov space where that is not known yet.
        """
        if self._diagonal is not None:
            return self._diagonal * v
        if self._solved is None or not torch.equal(self._solved[0], v):
            basis = self.eigenbasis(v)
            Hv = truncated_inverse(v, self.multiply, self._space, self._forcing(v)) if basis is None else absolute_inverse(basis)
            self._solved = v, v / self._space.norm(v) if Hv is None else Hv
        return self._solved[1]

    def dense(self) -> Tensor:
        """``B`` as a new symmetric matrix of shape ``(n, n)``. Cost: ``n`` products."""
        return self._dense().clone()

    def dense_inverse(self) -> Tensor:
        """``B^-1`` as a new symmetric matrix, shape ``(n, n)``; eigenvalues that are zero to rounding count as that rounding. Cost: ``n`` products, O(n^3)."""
        if self._diagonal is not None:
            return torch.diag(self._diagonal)
        B = self._dense()
        basis = dense_eigenbasis(B[0], B)
        floor = max(B.shape[0] * basis.tiny, torch.finfo(B.dtype).tiny)
        vectors = torch.stack([basis.vector(e) for e in torch.eye(B.shape[0], dtype=B.dtype, device=B.device)])
        inverse = vectors.T @ (vectors / torch.where(basis.values < 0.0, basis.values.clamp_max(-floor), basis.values.clamp_min(floor))[:, None])
        return 0.5 * (inverse + inverse.T)

    def eigenbasis(self, g: Tensor) -> Eigenbasis | None:
        """``B`` in the Krylov space of ``g``, free for the last ``g``; None with ``krylov_limit = 0``."""
        if self._krylov_limit == 0 or self._diagonal is not None:
            return None
        if self._basis is None or not torch.equal(self._basis[0], g):
            residual = self._forcing(g) * self._space.norm(g)
            Bg = self._Bg if self._point is not None and torch.equal(g, self._point.grad) else None
            self._basis = None
            basis = krylov_eigenbasis(g, self.multiply, self._space, is_enough=lambda ritz: _is_resolved(ritz, residual), limit=self._krylov_limit, Bg=Bg)
            self._basis = g, basis
        return self._basis[1]

    def reset(self) -> None:
        """Begin again as at the first point. What is known of the Hessian at the present point stays: it is exact."""
        self._is_fresh, self._steepest = True, 0.0

    def bytes_needed(self, size: int, bytes_per_number: int) -> int:
        """The Krylov space, while it grows, or four vectors of conjugate gradients; the graph of the gradient comes on top."""
        return max(4, 2 * min(self._krylov_limit, size)) * size * bytes_per_number

    def state(self) -> State:
        """See :class:`~secant.curvature.curvature.Curvature`; below 100 parameters with the Hessian, at ``n`` products."""
        if self._is_fresh:
            return {}
        saved = self._saved if self._product is None else self._dense() if self._Bg.numel() < _SAVED_BELOW else None
        return {"steepest": self._steepest, "diagonal": self._diagonal, "hessian": saved}

    def load(self, state: State, like: Tensor) -> None:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        self._forget_point()
        self._is_fresh = not state
        self._steepest = float(state.get("steepest", 0.0) or 0.0)
        diagonal, hessian = state.get("diagonal"), state.get("hessian")
        self._diagonal = diagonal.to(like.device, copy=True) if isinstance(diagonal, Tensor) else None
        self._saved = hessian.to(like.device, copy=True) if isinstance(hessian, Tensor) else None

    def __getstate__(self) -> dict[str, Any]:
        """All but the graph at the present point, which is built again at the next step."""
        return self.__dict__ | {"_point": None, "_product": None, "_basis": None, "_solved": None}

    def _forget_point(self) -> None:
        self._point = self._product = self._diagonal = self._saved = self._solved = self._basis = None
        self._has_negative = False

    def _dense(self) -> Tensor:
        if self._diagonal is not None:
            return torch.diag(self._diagonal.reciprocal())
        if self._saved is None:
            if self._product is None:
                raise RuntimeError("Expected a Hessian, got none yet: take a step first.")
            columns = torch.stack([self._product(e) for e in torch.eye(self._Bg.numel(), dtype=self._Bg.dtype, device=self._Bg.device)])
            self._saved = 0.5 * (columns + columns.T)
        return self._saved

    def _forcing(self, v: Tensor) -> float:
        return min(0.5, math.sqrt(self._space.norm(v) / self._steepest)) if self._steepest > 0.0 else 0.5


def _is_resolved(ritz: Ritz, residual: float) -> bool:
    """Whether the space holds the solution of ``|B| p = -g`` to a residual; any shift makes it smaller."""
    return ritz.residual(ritz.coefficients / absolute_values(ritz.values)) <= residual
