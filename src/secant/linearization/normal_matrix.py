"""``J' J`` added up over blocks of rows."""

from __future__ import annotations

from torch import Tensor

_STRIPE = 128  # rows of the triangle in one product, at least


def add_gram(matrix: Tensor, rows: Tensor) -> None:
    """Add ``rows' rows`` to the lower triangle of a matrix; what stands above the diagonal afterwards is not defined.

    Stripes of it up to the diagonal come close to the half of the operations that BLAS's ``syrk`` needs. SciPy's ``syrk`` has threads of its own that know
    nothing of ``torch.set_num_threads``: on busy cores a small call took a hundred times as long.

    Args:
        matrix: Shape ``(n, n)``, changed in place.
        rows: Shape ``(k, n)``, of the same dtype and device.
    """
    size = len(matrix)
    stripes = max(1, size // _STRIPE)
    for stripe in range(stripes):
        start, stop = stripe * size // stripes, (stripe + 1) * size // stripes
        matrix[start:stop, :stop].addmm_(rows[:, start:stop].mT, rows[:, :stop])
