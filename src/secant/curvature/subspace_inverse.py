"""A positive definite inverse that is dense in the span of the gradients seen so far and a multiple of the identity outside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from secant.curvature.curvature import State
from secant.curvature.gradient_basis import GradientBasis
from secant.curvature.symmetric import DeferredSymmetric
from secant.space import LocalSpace, Space

_SMALL = "small_"  # prefix of what belongs to the small matrix in a saved state
_ON_HOST = torch.empty(0)
_ROWS_PER_UPDATE = 3  # gradients that one update may add: of the start, of the trial, of the point to go on from


@dataclass(frozen=True, slots=True, eq=False)
class SeenGradient:
    """A gradient in the basis.

    Attributes:
        gradient: Shape ``(n,)``.
        coordinates: Its coordinates, see :class:`~secant.curvature.gradient_basis.GradientBasis`.
        product: ``A`` times the coordinates.
    """

    gradient: Tensor
    coordinates: Tensor
    product: Tensor


@final
class SubspaceInverse:
    """``H = R (c (I - Q'Q) + Q' A Q) R`` with orthonormal rows ``Q`` and a fixed diagonal ``R``.

    ``A`` is stored for all rows that ``Q`` may have; for those not yet in use it is ``c I``, so that a new row needs no correction of ``A``.

    Args:
        scale: ``c``, positive.
        metric: The square of ``R``, shape ``(n,)``.
        capacity: Rows of ``Q`` at most; no more than ``n`` are used.
    """

    def __init__(self, scale: float, metric: Tensor, capacity: int) -> None:
        rows = min(capacity, metric.numel())
        self.space: Space = LocalSpace()
        self._scale = scale
        self._metric = metric
        self._root = None if bool((metric == 1.0).all()) else metric.sqrt()
        self._basis = GradientBasis(metric, rows)
        self._matrix = DeferredSymmetric(torch.full((rows,), scale, dtype=torch.float64))
        self._seen: SeenGradient | None = None
        self._product: Tensor | None = None

    @staticmethod
    def bytes_needed(size: int, capacity: int, bytes_per_number: int) -> int:
        """The rows of ``Q`` while they grow, and ``A`` in float64."""
        rows = min(capacity, size)
        return GradientBasis.bytes_needed(size, rows, bytes_per_number) + DeferredSymmetric.bytes_needed(rows, 8)

    @property
    def has_room(self) -> bool:
        """Whether all gradients that one more update may add fit into the basis."""
        return self._basis.capacity == self._metric.numel() or self._basis.used + _ROWS_PER_UPDATE <= self._basis.capacity

    def look_at(self, gradient: Tensor) -> SeenGradient:
        """The gradient in the basis, which grows by what of it is new. Free for the one seen last; cost otherwise: four passes over the rows."""
        if self._seen is not None and _same(self._seen.gradient, gradient):
            return self._seen
        coordinates = self.coordinates(gradient)
        return self.remember(SeenGradient(gradient, coordinates, self._matrix.times(coordinates)))

    def coordinates(self, gradient: Tensor) -> Tensor:
        """Those of ``R gradient`` in the basis, which grows by what of it is new. Cost: four passes over the rows."""
        return self._basis.coordinates(self._scaled(gradient), self.space)

    def remember(self, seen: SeenGradient) -> SeenGradient:
        """Note that this is the gradient seen last, and its product after a correction."""
        self._seen, self._product = seen, None
        return seen

    def times(self, v: Tensor) -> Tensor:
        """``H v``, shape ``(n,)``. Cost: one pass over the rows for the gradient seen last, two for any other vector."""
        if self._seen is None or not _same(self._seen.gradient, v):
            scaled, inside = self._scaled(v), self.projection(v)
            product = self._basis.combination(self._matrix.times(inside) - self._scale * inside)
            return self._scaled(product.add_(scaled * self._scale))
        if self._product is None:
            self._product = self._scaled(self._basis.combination(self._seen.product))
        return self._product

    def projection(self, v: Tensor) -> Tensor:
        """The coordinates of what of ``R v`` lies in the span. Cost: one pass over the rows."""
        return self._basis.inside(self._scaled(v), self.space)

    def times_coordinates(self, coordinates: Tensor) -> Tensor:
        """``A`` times coordinates."""
        return self._matrix.times(coordinates)

    def scale(self, factor: float) -> None:
        """``H <- factor H``, in O(1)."""
        self._scale *= factor
        self._matrix.scale(factor)

    def add(self, weight: float, coordinates: Tensor) -> None:
        """``A <- A + weight coordinates coordinates'``. Cost: that of :meth:`~secant.curvature.symmetric.DeferredSymmetric.add` for a small matrix."""
        self._matrix.add(weight, coordinates)

    def forget_half(self) -> bool:
        """Drop the eigenvectors of ``A`` whose eigenvalues differ least from ``c`` as ratios; their geometric mean becomes ``c``.

        Half the capacity is kept, and the gradient seen last stays in the span. Cost: ``O(capacity^3)`` and ``capacity^2 n`` flops, once in nearly half as
        many updates as there are rows.

        Returns:
            Whether it was done: not where ``A`` is indefinite beyond rounding or has left the range of float64. Eigenvalues lost in the rounding of the
            largest are raised to it.
        """
        assert self._seen is not None
        used, keep = self._basis.used, self._basis.capacity // 2
        ratios = self._matrix.dense()[:used, :used] / self._scale
        if not bool(ratios.isfinite().all()):
            return False
        values, vectors = torch.linalg.eigh(ratios)
        rounding = used * torch.finfo(values.dtype).eps * float(values[-1])
        if not float(values[0]) > -rounding:
            return False
        values = values.clamp(min=rounding)
        order = values.log().abs().argsort(descending=True, stable=True)
        kept, dropped = order[:keep], order[keep:]
        seen = vectors.T @ self._seen.coordinates[:used]
        rest = torch.linalg.vector_norm(seen[dropped])
        rotation, coordinates = vectors[:, kept].T, seen[kept]
        if float(rest) > torch.finfo(seen.dtype).eps * float(torch.linalg.vector_norm(seen)):
            rotation = torch.cat((rotation, (vectors[:, dropped] @ (seen[dropped] / rest)).unsqueeze(0)))
            coordinates = torch.cat((coordinates, rest.unsqueeze(0)))
        self._basis.rotate(rotation)
        diagonal = torch.full((self._basis.capacity,), math.exp(float(values[dropped].log().mean())), dtype=torch.float64)
        diagonal[:keep] = values[kept]
        diagonal *= self._scale
        self._scale = float(diagonal[-1])
        self._matrix = DeferredSymmetric(diagonal)
        coordinates = self._basis.padded(coordinates)
        self.remember(SeenGradient(self._seen.gradient, coordinates, self._matrix.times(coordinates)))
        return True

    def dense(self) -> Tensor:
        """``H`` as a new matrix of shape ``(n, n)``, symmetric to the last bit."""
        used, rows = self._basis.used, self._basis.rows.cpu().double()  # the scale may lie beyond the range of float32
        inside = self._matrix.dense()[:used, :used]
        inside.diagonal().sub_(self._scale)
        full = rows.T @ inside @ rows
        full.diagonal().add_(self._scale)
        if self._root is not None:
            root = self._root.cpu().double()
            full *= root * root.unsqueeze(1)
        return full.tril_().add_(full.tril(-1).T).to(self._metric)

    def is_positive_definite(self) -> bool:
        """Whether ``c`` and ``A`` are. Cost: ``capacity^3 / 3`` flops."""
        return 0.0 < self._scale < math.inf and self._matrix.is_positive_definite()

    def state(self) -> State:
        """All that :meth:`from_state` needs; the tensors are copies, of the rows those in use."""
        seen = self._seen
        return {f"{_SMALL}{name}": value for name, value in self._matrix.state().items()} | {
            "basis": self._basis.rows.clone(),
            "metric": self._metric,
            "c": self._scale,
            "capacity": self._basis.capacity,
            "gradient": None if seen is None else seen.gradient,
            "coordinates": None if seen is None else seen.coordinates,
            "product": None if seen is None else seen.product,
        }

    @classmethod
    def from_state(cls, state: State, like: Tensor) -> SubspaceInverse:
        """An inverse that goes on bit for bit where ``state`` was taken, on the device of ``like``."""
        rows, metric = state["basis"], state["metric"]
        assert isinstance(rows, Tensor)
        assert isinstance(metric, Tensor)
        matrix = DeferredSymmetric.from_state({name.removeprefix(_SMALL): value for name, value in state.items() if name.startswith(_SMALL)}, _ON_HOST)
        restored = cls(float(state["c"]), metric.to(like.device, copy=True), int(state["capacity"]))  # type: ignore[arg-type]
        restored._basis.extend(rows.to(like.device))
        restored._matrix = matrix
        gradient, coordinates, product = state["gradient"], state["coordinates"], state["product"]
        if isinstance(gradient, Tensor) and isinstance(coordinates, Tensor) and isinstance(product, Tensor):
            restored.remember(SeenGradient(gradient.to(like.device, copy=True), coordinates.clone(), product.clone()))
        return restored

    def _scaled(self, v: Tensor) -> Tensor:
        return v if self._root is None else v * self._root


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or torch.equal(a, b)
