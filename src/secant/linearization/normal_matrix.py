"""``J' J`` added up over blocks of rows."""

from __future__ import annotations

import scipy.linalg.blas
import torch
from torch import Tensor


def add_gram(matrix: Tensor, rows: Tensor) -> None:
    """Add ``rows' rows`` to the lower triangle of a matrix; what stands above the diagonal afterwards is not defined.

    On the processor in float64 by BLAS ``dsyrk``, which needs half the operations of a product, elsewhere by a product.

    Args:
        matrix: Shape ``(n, n)``, contiguous, changed in place.
        rows: Shape ``(k, n)``, of the same dtype and device; rows or columns contiguous.
    """
    if matrix.device.type != "cpu" or matrix.dtype != torch.float64 or not len(rows):
        matrix.addmm_(rows.mT, rows)
        return
    # BLAS counts columns first: the lower triangle of a matrix is the upper one of what BLAS sees, and rows in order are columns to it.
    is_transposed = rows.stride(0) == 1 and rows.stride(1) > 1
    a = rows.numpy() if is_transposed else rows.contiguous().numpy().T
    scipy.linalg.blas.dsyrk(1.0, a, beta=1.0, c=matrix.numpy().T, trans=int(is_transposed), lower=0, overwrite_c=1)
