"""Where a flat vector lives: every inner product of the library goes through here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

_BLOCK = 1 << 14  # elements: enough to hide the launches, few enough to stay in cache


class Space(ABC):
    """Inner products of flat vectors that may be spread over several ranks.

    A method that uses only this class runs unchanged when each rank holds a shard. Results are plain numbers, equal on every rank, so that every rank takes
    the same decision. One call is one reduction, and on an accelerator one synchronization: ask for many products at once with ``gram``.
    """

    @abstractmethod
    def gram(self, *rows: Tensor) -> list[list[float]]:
        """All inner products ``rows[i] . rows[j]`` of vectors of shape ``(n,)``. Cost: one pass over the rows and one reduction."""

    @abstractmethod
    def cross(self, rows: Tensor, v: Tensor) -> Tensor:
        """The inner products of stored rows, shape ``(k, n)``, with a vector, shape ``(n,)``.

        Returns:
            Shape ``(k,)``, float64, on the host. Cost: one pass over the rows and one reduction.
        """

    @abstractmethod
    def joint(self, rows: Tensor, v: Tensor, *others: Tensor) -> tuple[Tensor, list[list[float]]]:
        """``cross(rows, v)`` and ``gram(*others)`` in one reduction."""

    def dot(self, a: Tensor, b: Tensor) -> float:
        """The inner product ``a . b`` of two vectors of shape ``(n,)``."""
        return self.gram(a, b)[0][1]

    def norm(self, a: Tensor) -> float:
        """The Euclidean norm of a vector of shape ``(n,)``."""
        return math.sqrt(self.gram(a)[0][0])  # correctly rounded, which `** 0.5` is not: four times the square is twice the norm, to the bit


@final
class LocalSpace(Space):
    """The whole vector on one device.

    float32 vectors are accumulated in float64 where the device has it: the square of a gradient of 1e-23 underflows in float32, and then a loss multiplied by
    a small constant would take another path.
    """

    def gram(self, *rows: Tensor) -> list[list[float]]:
        """All inner products ``rows[i] . rows[j]``; see :class:`Space`."""
        products: list[list[float]] = _gram(rows).tolist()
        return products

    def cross(self, rows: Tensor, v: Tensor) -> Tensor:
        """The inner products ``rows @ v``; see :class:`Space`."""
        return _cross(rows, v).cpu().double()

    def joint(self, rows: Tensor, v: Tensor, *others: Tensor) -> tuple[Tensor, list[list[float]]]:
        """``cross(rows, v)`` and ``gram(*others)`` in one transfer; see :class:`Space`."""
        products, gram = _cross(rows, v), _gram(others)
        both = torch.cat([products, gram.reshape(-1)]).cpu().double()
        square: list[list[float]] = both[len(products) :].view_as(gram).tolist()
        return both[: len(products)], square

    def dot(self, a: Tensor, b: Tensor) -> float:
        """The inner product ``a . b``, without stacking the two vectors."""
        if _widens(a):
            a, b = a.double(), b.double()
        return float(torch.dot(a, b))


def _gram(rows: Sequence[Tensor]) -> Tensor:
    """On the device, shape ``(k, k)``. Long vectors are stacked a block at a time, which stays in cache."""
    widen = _widens(rows[0])
    total: Tensor | None = None
    for start in range(0, rows[0].numel(), _BLOCK):
        stacked = torch.stack([row[start : start + _BLOCK] for row in rows])
        stacked = stacked.double() if widen else stacked
        total = stacked @ stacked.T if total is None else total.addmm_(stacked, stacked.T)
    assert total is not None
    return total


def _cross(rows: Tensor, v: Tensor) -> Tensor:
    """On the device, shape ``(k,)``. float32 rows are widened a block of columns at a time, never as a whole."""
    if not _widens(rows):
        return torch.mv(rows, v)
    products = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
    for start in range(0, v.numel(), _BLOCK):
        block = slice(start, start + _BLOCK)
        products.addmv_(rows[:, block].double(), v[block].double())
    return products


def _widens(vectors: Tensor) -> bool:
    return vectors.dtype == torch.float32 and vectors.device.type != "mps"
