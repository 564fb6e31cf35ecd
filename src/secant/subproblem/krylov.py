"""A symmetric operator in a Krylov space: what a model needs of it, from as few products as will do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secant.space import Space
from secant.subproblem.eigenbasis import Eigenbasis

_ROUNDING = 10.0  # units of rounding of the operator, below which what is left of a product is noise
_FIRST_ROWS = 8
_EVERY = 16  # up to this size the stopping test is asked after every product, later after every fourth: its eigendecompositions would add up


@dataclass(frozen=True, slots=True, eq=False)
class Ritz:
    """The operator and the gradient within the Krylov space found so far, on the host in float64.

    Attributes:
        values: Ritz values, ascending, shape ``(k,)``.
        coefficients: The gradient in the Ritz vectors, shape ``(k,)``.
        last: Last components of the Ritz vectors in the Lanczos basis, shape ``(k,)``.
        coupling: How products leave the space: the norm of what is left of the last one.
    """

    values: Tensor
    coefficients: Tensor
    last: Tensor
    coupling: float

    def residual(self, coordinates: Tensor) -> float:
        """The norm of the part of ``B p`` outside the space: for the minimizer within it, the gradient of the whole model there."""
        return self.coupling * abs(float(self.last @ coordinates))


def krylov_eigenbasis(
    g: Tensor,
    multiply: Callable[[Tensor], Tensor],
    space: Space,
    *,
    is_enough: Callable[[Ritz], bool],
    limit: int,
    Bg: Tensor | None = None,
) -> Eigenbasis:
    """The Ritz pairs of ``B`` in the Krylov space of ``g``, grown until ``is_enough``.

    Where the space turns out to be invariant and ``B`` positive on it, it says nothing about the rest: near a saddle the gradient may be orthogonal to every
    direction of negative curvature. It is then enlarged by the Krylov space of one random vector, the same in every call, which with probability one has a
    part in every eigenspace: by ``4 + 2 log2(n)`` vectors at most, fewer once its lowest Ritz pair is negative and found to a tenth.

    Args:
        g: Gradient, shape ``(n,)``, finite and not zero.
        multiply: ``v -> B v``; one call per basis vector.
        space: Inner products.
        is_enough: Whether the space will do, asked while it is not invariant.
        limit: Most basis vectors, at least 1.
        Bg: ``B g`` where it is known; saves the first product.

    Returns:
        The Ritz values, the gradient in the Ritz vectors (float64, on the host) and the map back. Cost: ``k`` products, ``8 n k^2`` flops for full
        orthogonalization, two reductions per product; memory ``k n`` numbers, and twice that while it grows. A product that is not finite ends the search.

    Source:
        Conn, Gould & Toint (2000), Trust-Region Methods, section 5.2 and 7.5.4; Gould, Lucidi, Roma & Toint (1999), SIAM J. Optim. 9(2). The random vector:
        Kuczynski & Wozniakowski (1992), SIAM J. Matrix Anal. Appl. 13(4).
    """
    lanczos = _Lanczos(g, space, min(limit, g.numel()))
    explored_until = None
    while True:
        lanczos.take(multiply(lanczos.vector) if Bg is None or lanczos.size > 0 else Bg / lanczos.norm)
        if lanczos.is_over:
            break
        at_end, ritz = explored_until is not None and lanczos.size >= explored_until, None
        if lanczos.coupling > 0.0:
            if lanczos.size <= _EVERY or lanczos.size % 4 == 0:
                ritz = lanczos.ritz()
                if is_enough(ritz) if explored_until is None else at_end or _has_found_negative(ritz):
                    break
            continue
        if explored_until is not None or float(lanczos.ritz().values[0]) < -lanczos.noise:
            break
        explored_until = lanczos.size + 4 + 2 * math.ceil(math.log2(g.numel()))
        lanczos.explore()
    return lanczos.eigenbasis()


def _has_found_negative(ritz: Ritz) -> bool:
    lowest = float(ritz.values[0])
    return lowest < 0.0 and ritz.coupling * abs(float(ritz.last[0])) <= 0.1 * -lowest


class _Lanczos:
    """The recurrence with full orthogonalization: ``size`` vectors multiplied, and the next one."""

    def __init__(self, g: Tensor, space: Space, limit: int) -> None:
        self._space, self._limit = space, limit
        self.norm = space.norm(g)
        self._rows = g.new_empty(min(limit, _FIRST_ROWS), g.numel())
        self._rows[0] = g / self.norm
        self._diagonal: list[float] = []
        self._couplings: list[float] = []
        self.noise = 0.0
        self.size = 0
        self.is_over = False

    @property
    def vector(self) -> Tensor:
        """The next vector to multiply."""
        return self._rows[self.size]

    @property
    def coupling(self) -> float:
        """The norm of what was left of the last product; 0 where that was rounding."""
        return self._couplings[-1]

    def take(self, product: Tensor) -> None:
        """Add the product of the next vector, and find the one after it."""
        rows = self._rows[: self.size + 1]
        rest, removed = self._outside(product, rows)
        again, more = self._outside(rest, rows)
        alpha, beta = float(removed[-1] + more[-1]), self._space.norm(again)
        if not math.isfinite(alpha + beta):
            self.is_over = True
            return
        self.noise = max(self.noise, _ROUNDING * torch.finfo(product.dtype).eps * max(abs(alpha), beta))
        self.size += 1
        self._diagonal.append(alpha)
        self._couplings.append(beta if beta > self.noise else 0.0)
        self.is_over = self.size == self._limit
        if not self.is_over and self.coupling > 0.0:
            self._append(again / beta)

    def explore(self) -> None:
        """Go on with a random vector outside the space."""
        rows = self._rows[: self.size]
        normal = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        vector = normal.to(rows)
        for _ in range(3):  # near the end of the space the first pass leaves little of the vector, and each restores the digits the one before lost
            vector, _ = self._outside(vector / self._space.norm(vector), rows)
        self._append(vector / self._space.norm(vector))

    def ritz(self) -> Ritz:
        """The Ritz pairs."""
        values, rotation = self._rotation()
        return Ritz(values, self.norm * rotation[0], rotation[-1], self.coupling)

    def eigenbasis(self) -> Eigenbasis:
        """The Ritz pairs with their vectors."""
        values, rotation = self._rotation()
        rows = self._rows[: self.size]
        return Eigenbasis(values, self.norm * rotation[0], lambda coordinates: rows.T @ (rotation @ coordinates).to(rows))

    def _rotation(self) -> tuple[Tensor, Tensor]:
        diagonal, couplings = torch.tensor(self._diagonal, dtype=torch.float64), torch.tensor(self._couplings[:-1], dtype=torch.float64)
        T = torch.diag(diagonal) + torch.diag(couplings, 1) + torch.diag(couplings, -1)
        unit = math.ldexp(1.0, math.frexp(float(T.abs().amax()))[1])  # LAPACK's thresholds are absolute
        values, rotation = torch.linalg.eigh(T / unit)
        return values * unit, rotation

    def _outside(self, w: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        components = self._space.cross(rows, w)
        return w - rows.T @ components.to(rows), components

    def _append(self, vector: Tensor) -> None:
        if self.size == len(self._rows):
            grown = self._rows.new_empty(min(2 * len(self._rows), self._limit), self._rows.shape[1])
            grown[: self.size] = self._rows
            self._rows = grown
        self._rows[self.size] = vector
