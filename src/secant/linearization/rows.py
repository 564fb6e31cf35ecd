"""The residuals and their Jacobian at one point: kept, or evaluated again whenever they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import final

import torch
from torch import Tensor

from secant.objective import Objective
from secant.step import Point


class Rows(ABC):
    """The linear map ``p -> r + J p`` around one point, ``J`` of shape ``(N, n)``."""

    @abstractmethod
    def blocks(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Residuals of shape ``(rows,)`` and Jacobian of shape ``(rows, n)``, block after block."""

    @abstractmethod
    def residuals(self) -> Tensor:
        """``r``, shape ``(N,)``."""

    @abstractmethod
    def times(self, v: Tensor) -> Tensor:
        """``J v``, shape ``(N,)``."""

    @abstractmethod
    def transposed_times(self, u: Tensor) -> Tensor:
        """``J' u``, shape ``(n,)``."""

    @abstractmethod
    def gram_times(self, v: Tensor) -> Tensor:
        """``J' J v``, shape ``(n,)``."""


@final
class StoredRows(Rows):
    """All of ``J`` in memory, ``N n`` numbers.

    Args:
        blocks: Residuals and Jacobian by rows.
    """

    def __init__(self, blocks: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._blocks = blocks

    def blocks(self) -> Sequence[tuple[Tensor, Tensor]]:
        """The blocks themselves."""
        return self._blocks

    def residuals(self) -> Tensor:
        """Put together from the blocks."""
        return torch.cat([r for r, _ in self._blocks])

    def jacobian(self) -> Tensor:
        """``J`` as a new matrix, stored row after row."""
        return torch.cat([J for _, J in self._blocks]).contiguous()

    def times(self, v: Tensor) -> Tensor:
        """One product per block."""
        return torch.cat([J @ v.to(J.dtype) for _, J in self._blocks])

    def transposed_times(self, u: Tensor) -> Tensor:
        """One product per block."""
        total, start = None, 0
        for _, J in self._blocks:
            piece = J.T @ u[start : start + len(J)].to(J.dtype)
            total, start = piece if total is None else total + piece, start + len(J)
        assert total is not None
        return total

    def gram_times(self, v: Tensor) -> Tensor:
        """Two products per block."""
        return self.transposed_times(self.times(v))

    def corrected(self, r: Tensor, s: Tensor) -> StoredRows:
        """Broyden's correction: ``J + (r - r_0 - J s) s' / s.s`` maps the step ``s`` to the change of the residuals."""
        missing = (r - self.residuals() - self.times(s)) / torch.dot(s, s)
        blocks, start = [], 0
        for _, J in self._blocks:
            rows = slice(start, start + len(J))
            blocks.append((r[rows], torch.addr(J, missing[rows].to(J.dtype), s.to(J.dtype))))
            start = rows.stop
        return StoredRows(blocks)


@final
class StreamedRows(Rows):
    """Nothing is kept: every call evaluates the residuals again, block by block.

    Args:
        objective: Evaluates.
        point: Where.
    """

    def __init__(self, objective: Objective, point: Point) -> None:
        self._objective = objective
        self._point = point

    def blocks(self) -> Iterable[tuple[Tensor, Tensor]]:
        """One Jacobian, a block at a time."""
        return self._objective.row_blocks(self._point)

    def residuals(self) -> Tensor:
        """One evaluation."""
        self._objective.write(self._point)
        return self._objective.trial(self._point.x)

    def times(self, v: Tensor) -> Tensor:
        """See :meth:`secant.objective.Objective.jacobian_times`."""
        return self._objective.jacobian_times(self._point, v)

    def transposed_times(self, u: Tensor) -> Tensor:
        """See :meth:`secant.objective.Objective.jacobian_transposed_times`."""
        return self._objective.jacobian_transposed_times(self._point, u)

    def gram_times(self, v: Tensor) -> Tensor:
        """See :meth:`secant.objective.Objective.gauss_newton_times`."""
        return self._objective.gauss_newton_times(self._point, v)
