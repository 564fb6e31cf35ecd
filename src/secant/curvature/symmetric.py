"""One dense symmetric matrix with rank-one corrections that wait until one matrix product folds many of them in."""

from __future__ import annotations

import math
from typing import Protocol, final

import numpy as np
import scipy.linalg.blas
import torch
from torch import Tensor

from secant.curvature.curvature import State

_FOLD_ROWS = 256  # rows of the triangle folded at a time: a block of them stays in cache between its read and its write

_CAPACITY = 32  # rank-one terms that wait
_TRIANGLE_FROM = 1024  # parameters


class MatrixKernel(Protocol):
    """The two operations that pass over all of a symmetric matrix ``A`` of shape ``(n, n)``."""

    def times(self, matrix: Tensor, v: Tensor) -> Tensor:
        """``A v`` as a new vector."""

    def fold(self, matrix: Tensor, scale: float, weights: Tensor, rows: Tensor) -> None:
        """``A <- scale A + sum_i weights[i] rows[i] rows[i]'`` in place; ``weights`` has shape ``(k,)``, ``rows`` shape ``(k, n)``."""


@final
class FullKernel:
    """Plain torch on any device: the whole matrix is stored, and read once per product."""

    def times(self, matrix: Tensor, v: Tensor) -> Tensor:
        """``A v``: one matrix-vector product, ``2 n^2`` flops."""
        return torch.mv(matrix, v)

    def fold(self, matrix: Tensor, scale: float, weights: Tensor, rows: Tensor) -> None:
        """One GEMM, ``2 k n^2`` flops. Each element and its mirror are the same sum in the same order, so the matrix stays symmetric to the last bit or two."""
        matrix.addmm_((rows * weights.unsqueeze(1)).T, rows, beta=scale)


@final
class TriangleKernel:
    """BLAS on the CPU: only the lower triangle is read and written, half the memory traffic of a full product."""

    def times(self, matrix: Tensor, v: Tensor) -> Tensor:
        """``A v`` by ``symv``; torch's rows are BLAS's columns, so our lower triangle is its upper."""
        symv = scipy.linalg.blas.dsymv if matrix.dtype == torch.float64 else scipy.linalg.blas.ssymv
        product: np.ndarray[tuple[int], np.dtype[np.floating]] = symv(1.0, matrix.numpy().T, v.numpy(), lower=0)
        return torch.from_numpy(product)

    def fold(self, matrix: Tensor, scale: float, weights: Tensor, rows: Tensor) -> None:
        """A GEMM per block of rows up to the diagonal, ``k n^2`` flops in all."""
        weighted = (rows * weights.unsqueeze(1)).T
        for start in range(0, matrix.shape[0], _FOLD_ROWS):
            stop = min(start + _FOLD_ROWS, matrix.shape[0])
            matrix[start:stop, :stop].addmm_(weighted[start:stop], rows[:, :stop], beta=scale)


def kernel_for(like: Tensor) -> MatrixKernel:
    """The faster kernel for a matrix with a diagonal ``like``.

    Small matrices stay with torch: they fit into the cache, and SciPy's BLAS has threads of its own, which ``torch.set_num_threads`` does not reach and which
    on a busy machine cost more than half a read saves.
    """
    is_supported = like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)
    return TriangleKernel() if is_supported and like.numel() >= _TRIANGLE_FROM else FullKernel()


@final
class DeferredSymmetric:
    """A symmetric matrix ``A = c A0 + sum_i w_i v_i v_i'`` whose last rank-one terms wait to be folded into ``A0``.

    ``A0`` is read once per product and written once in ``capacity`` terms. Until the first fold it is the diagonal it started as and takes no memory.

    Args:
        diagonal: The matrix to start from, shape ``(n,)``.
        capacity: How many rank-one terms wait at most; 32 (sixteen corrections of rank two) was the fastest from n = 1,000 to 10,000.
        kernel: The passes over ``A0``; None chooses by device and type.
    """

    def __init__(self, diagonal: Tensor, *, capacity: int = _CAPACITY, kernel: MatrixKernel | None = None) -> None:
        self._diagonal = diagonal.clone()
        self._matrix: Tensor | None = None
        self._scale = 1.0
        self._rows = diagonal.new_zeros(capacity, diagonal.numel())
        self._weights = torch.zeros(capacity, dtype=torch.float64)
        self._used = 0
        self._kernel = kernel or kernel_for(diagonal)

    @staticmethod
    def bytes_needed(size: int, bytes_per_number: int) -> int:
        """Memory of one such matrix with the default capacity: ``n^2`` numbers, the waiting terms, and a copy of these while they are folded in."""
        return bytes_per_number * (size * size + 2 * _CAPACITY * size)

    def times(self, v: Tensor) -> Tensor:
        """``A v``, shape ``(n,)``, a new tensor. Cost: one read of ``A0`` (of its triangle on the CPU) and two of the waiting terms."""
        product = self._diagonal * v if self._matrix is None else self._kernel.times(self._matrix, v)
        if self._scale != 1.0:
            product *= self._scale
        if self._used:
            rows = self._rows[: self._used]
            product.addmv_(rows.T, (rows @ v) * self._device_weights())
        return product

    def scale(self, factor: float) -> None:
        """``A <- factor A``, in O(1)."""
        self._scale *= factor
        self._weights[: self._used] *= factor

    def add(self, weight: float, vector: Tensor) -> None:
        """``A <- A + weight vector vector'``. Cost O(n), and once in ``capacity`` calls one fold.

        A power of two is moved from the weight into the vector, so that a weight beyond the range of float32 does no harm and no bit is lost.
        """
        if self._used == self._rows.shape[0]:
            self._fold()
        shift = math.frexp(weight)[1] // 2
        torch.mul(vector, math.ldexp(1.0, shift), out=self._rows[self._used])
        self._weights[self._used] = math.ldexp(weight, -2 * shift)
        self._used += 1

    def dense(self) -> Tensor:
        """``A`` as a new tensor of shape ``(n, n)``, symmetric to the last bit. Memory: two more matrices while it is built."""
        full = torch.diag(self._diagonal) if self._matrix is None else self._matrix.clone()
        rows = self._rows[: self._used]
        full.mul_(self._scale).addmm_((rows * self._device_weights().unsqueeze(1)).T, rows)
        return full.tril_().add_(full.tril(-1).T)

    def is_positive_definite(self) -> bool:
        """Whether ``A`` has a Cholesky factor. Cost: ``n^3 / 3`` flops, and the memory of :meth:`dense`."""
        info: Tensor = torch.linalg.cholesky_ex(self.dense()).info  # of a matrix with NaN or Inf it is not 0 either
        return int(info) == 0

    def state(self) -> State:
        """Tensors and numbers that ``from_state`` needs. The tensors are copies: later corrections write into the matrix in place."""
        return {
            "diagonal": self._diagonal.clone(),
            "matrix": None if self._matrix is None else self._matrix.clone(),
            "scale": self._scale,
            "rows": self._rows.clone(),
            "weights": self._weights.clone(),
            "used": self._used,
        }

    @classmethod
    def from_state(cls, state: State, like: Tensor, kernel: MatrixKernel | None = None) -> DeferredSymmetric:
        """A matrix that goes on bit for bit where ``state`` was taken, on the device of ``like``."""
        diagonal, matrix, rows, weights = state["diagonal"], state["matrix"], state["rows"], state["weights"]
        assert isinstance(diagonal, Tensor)
        assert isinstance(rows, Tensor)
        assert isinstance(weights, Tensor)
        restored = cls(diagonal.to(like.device), capacity=rows.shape[0], kernel=kernel)
        restored._matrix = matrix.to(like.device, copy=True) if isinstance(matrix, Tensor) else None
        restored._scale, restored._used = float(state["scale"]), int(state["used"])  # type: ignore[arg-type]
        restored._rows, restored._weights = rows.to(like.device, copy=True), weights.clone()
        return restored

    def _fold(self) -> None:
        if self._matrix is None:
            self._matrix = torch.diag(self._diagonal)
        self._kernel.fold(self._matrix, self._scale, self._device_weights(), self._rows[: self._used])
        self._scale, self._used = 1.0, 0

    def _device_weights(self) -> Tensor:
        return self._weights[: self._used].to(self._rows)
