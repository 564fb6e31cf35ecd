"""The inverse of the absolute value of a matrix, which leads away from saddles."""

from __future__ import annotations

import torch
from torch import Tensor

from secant.subproblem.eigenbasis import Eigenbasis

_LEAST_SHARE = 0.1  # of |g|, along the most negative curvature


def absolute_inverse(basis: Eigenbasis) -> Tensor:
    """``|B|^-1 g`` within the basis, shape ``(n,)``: Newton's step where ``B`` is positive, and away from the saddle along negative curvature.

    Where less than a tenth of the gradient lies along a negative lowest eigenvalue, a tenth is put there, so that a gradient orthogonal to it does not lead
    to the saddle; the product of the result with ``g`` stays positive. Eigenvalues below ``eps^(2/3)`` of the largest count as that: what is
    smaller is not resolved, and would make the whole step long.

    Source:
        Dauphin et al. (2014), arXiv 1406.2572, algorithm 1; Pascanu et al. (2014), arXiv 1405.4604. The tenth is our own.
    """
    coefficients, index = basis.coefficients, int(basis.values.argmin())
    if basis.lowest < -basis.tiny:
        coefficients, least = coefficients.clone(), _LEAST_SHARE * float(coefficients.norm())
        if abs(float(coefficients[index])) < least:
            coefficients[index] = -least if float(coefficients[index]) < 0.0 else least
    return basis.vector(coefficients / absolute_values(basis.values))


def absolute_values(values: Tensor) -> Tensor:
    """``|values|``, no smaller than ``eps^(2/3)`` of the largest; ones where all are zero."""
    sizes = values.abs()
    largest = float(sizes.amax())
    return sizes.clamp_min(torch.finfo(values.dtype).eps ** (2 / 3) * largest) if largest > 0.0 else torch.ones_like(sizes)
