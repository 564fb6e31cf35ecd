"""An orthonormal basis of the gradients seen so far: rows that grow by one gradient at a time."""

from __future__ import annotations

import math
import sys
from typing import final

import torch
from torch import Tensor

from secant.space import Space

_FIRST_ROWS = 32
_COLUMNS = 4096  # columns rotated at a time: all that a rotation needs beside the rows themselves
_ROUNDING = 16.0  # units in the last place of |v|: a shorter rest is what two passes over the rows leave of a vector within their span
_LEAST = math.sqrt(sys.float_info.min / sys.float_info.epsilon)  # a shorter rest is not known to all its digits: its square underflows
_NEW = 0.5  # a rest that loses more than half its length to a second projection was rounding, too


@final
class GradientBasis:
    """Orthonormal rows ``Q``, shape ``(used, n)``.

    Coordinates are float64 vectors on the host of shape ``(capacity,)``, zero beyond the rows in use, so that they stay valid while the basis grows.

    Args:
        like: A vector of shape ``(n,)``, for the size, dtype and device of the rows.
        capacity: Rows at most. Room is doubled when it is needed.
    """

    def __init__(self, like: Tensor, capacity: int) -> None:
        self.capacity = capacity
        self._rows = like.new_empty(_room(1, capacity), like.numel())
        self._used = 0

    @staticmethod
    def bytes_needed(size: int, capacity: int, bytes_per_number: int) -> int:
        """The rows, and half of them once more while their room is doubled for the last time."""
        return bytes_per_number * size * (capacity + (capacity + 1) // 2)

    @property
    def rows(self) -> Tensor:
        """``Q``, a view that the next change invalidates."""
        return self._rows[: self._used]

    @property
    def used(self) -> int:
        """How many rows there are."""
        return self._used

    def inside(self, v: Tensor, space: Space) -> Tensor:
        """The coordinates ``Q v`` of the projection of ``v``. Cost: one pass over the rows and one reduction."""
        return self.padded(space.cross(self.rows, v))

    def coordinates(self, v: Tensor, space: Space) -> Tensor:
        """The coordinates of ``v``; what of it lies outside the span becomes a new row first, while there is room.

        Cost: four passes over the rows (Gram and Schmidt, twice), each second one a reduction, and two more for the lengths.
        """
        found = self.inside(v, space)
        if self._used in (self.capacity, v.numel()):
            return found
        rest = v - self.combination(found)
        first = space.norm(rest)
        rest -= self.combination(space.cross(self.rows, rest))
        length = space.norm(rest)
        size = math.hypot(float(torch.linalg.vector_norm(found)), first)
        least = max(_LEAST, _NEW * first, _ROUNDING * torch.finfo(v.dtype).eps * size)
        if least < length < math.inf:
            found[self._used] = length
            self.extend((rest / length).unsqueeze(0))
        return found

    def combination(self, coordinates: Tensor) -> Tensor:
        """``Q' coordinates``, shape ``(n,)``, a new vector. Cost: one pass over the rows."""
        return self.rows.T @ coordinates[: self._used].to(self._rows)

    def padded(self, coordinates: Tensor) -> Tensor:
        """Coordinates of shape ``(k,)`` with zeros up to the capacity, a new vector."""
        whole = torch.zeros(self.capacity, dtype=torch.float64)
        whole[: coordinates.numel()] = coordinates
        return whole

    def rotate(self, matrix: Tensor) -> None:
        """``Q <- matrix Q`` for a matrix with orthonormal rows, shape ``(kept, used)``. Cost: ``2 kept used n`` flops."""
        kept, matrix = matrix.shape[0], matrix.to(self._rows)
        for start in range(0, self._rows.shape[1], _COLUMNS):
            columns = slice(start, start + _COLUMNS)
            self._rows[:kept, columns] = matrix @ self._rows[: self._used, columns]
        self._used = kept

    def extend(self, rows: Tensor) -> None:
        """Add rows, shape ``(k, n)``, orthonormal and orthogonal to those there are."""
        needed = self._used + rows.shape[0]
        if needed > self._rows.shape[0]:
            wider = self._rows.new_empty(_room(needed, self.capacity), rows.shape[1])
            wider[: self._used] = self.rows
            self._rows = wider
        self._rows[self._used : needed] = rows
        self._used = needed


def _room(needed: int, capacity: int) -> int:
    """The least of the capacity, half of it, a quarter ..., down to a few rows, that holds what is needed: the last growth holds 1.5 times the capacity."""
    room = capacity
    while room > _FIRST_ROWS and (room + 1) // 2 >= needed:
        room = (room + 1) // 2
    return room
