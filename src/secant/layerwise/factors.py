"""Inverse factors of a stack of matrices, corrected by sketches of their averaged gradients.

Each factor ``P`` is symmetric positive definite, of shape ``(p, p)``, one for each of ``layers`` equal matrices. A sketch ``V`` of shape ``(p, r)``
shrinks it along its columns, measured in its own metric::

    P+ = P - kappa P V (V' P V)^-1 V' P

by the Sherman-Morrison-Woodbury identity the inverse of ``P^-1 + kappa / (1 - kappa) V (V' P V)^-1 V'``: positive definite for ``0 < kappa < 1`` and
independent of the size of ``V``. What the trace loses is given back as a multiple of the identity (``Power.WHITEN``), or by rescaling (``Power.INVERT``). At
the fixed point ``P V`` has the same size in every direction, on average: ``P E[V V'] P`` is a multiple of the identity, hence ``P ~ E[V V']^(-1/2)``.
With rescaling instead it is ``P^(1/2) E[V V'] P^(1/2)`` that becomes one, hence ``P ~ E[V V']^-1``.

Source:
    Whitening factors fitted by their fixed point: Li (2018), Preconditioned stochastic gradient descent, IEEE TNNLS 29(5). The covariance of a side is that of
    Gupta, Koren & Singer (2018), Shampoo, ICML. Here the fixed point is reached by rank-``r`` corrections of ``P`` itself.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

_DEPENDENT = 1e-6
"""Relative to the largest diagonal element of ``V' P V``, added to its diagonal: two sketches closer than that count as one."""

_IDENTITY_SHARE = 1e-4
"""Mixed in at each correction: eigenvalues stay above about 1e-4 of their mean, far from where single precision loses the sign of the smallest one."""


class Power(Enum):
    """Which power of the covariance of the sketches the factors approach. The value is twice the exponent."""

    WHITEN = 1
    INVERT = 2


def identities(layers: int, side: int, like: Tensor) -> Tensor:
    """A stack of identities of shape ``(layers, side, side)``, dtype and device of ``like``."""
    return torch.eye(side, dtype=like.dtype, device=like.device).repeat(layers, 1, 1)


def largest_entries(matrices: Tensor) -> Tensor:
    """The largest absolute entry of each matrix of a stack, shape ``(layers, 1, 1)``; many times faster on the host than the maximum norm of torch."""
    return torch.maximum(matrices.amax((-2, -1), keepdim=True), -matrices.amin((-2, -1), keepdim=True))


def window_kappa(side: int, rank: int, corrections: int, window: int, largest: float) -> float:
    """How much of a sketch one correction takes in: so that a factor forgets over ``window`` corrections, and over all of them before that.

    One correction replaces a share ``kappa * rank / side`` of the trace. A share of ``1 / t`` at correction ``t`` is the plain average over all sketches so
    far, which is what a young factor should be; from ``window`` on the share stays ``1 / window``.

    Args:
        side: Of the factor.
        rank: Columns of a sketch.
        corrections: This one included, at least 1.
        window: In corrections.
        largest: What ``kappa`` never exceeds, below 1.

    Returns:
        A number between 0 and ``largest``.
    """
    return min(largest, side / (rank * min(corrections, window)))


def correct(factor: Tensor, sketch: Tensor, kappa: float, power: Power) -> None:
    """Correct a stack of factors in place.

    The correction is formed as ``kappa W' W`` with ``L L' = V' P V`` and ``W = L^-1 V' P``, and ``P`` is made symmetric each time: its antisymmetric part, all
    rounding, would grow exponentially otherwise. A share of 1e-4 of the identity is mixed in at each correction, which keeps the smallest eigenvalue above the
    rounding of the largest. Where a sketch is zero or overflows, or ``V' P V`` has no Cholesky factorization, the factor stays as it is, bit for bit. Dependent
    columns count as one.

    Args:
        factor: ``P``, shape ``(layers, p, p)``, trace ``p``, overwritten.
        sketch: ``V'``, shape ``(layers, r, p)``, finite; its size does not matter.
        kappa: Share of the sketch that is taken out, between 0 and 1.
        power: Which power of the covariance is approached.

    Cost:
        ``4 layers p^2 r`` flops and five passes over ``P``; no host synchronization.
    """
    size = largest_entries(sketch)
    sketch = sketch / size.clamp_min(torch.finfo(sketch.dtype).tiny)
    product = sketch @ factor
    gram = product @ sketch.mT
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(_DEPENDENT * diagonal.amax(-1, keepdim=True))
    lower, failed = torch.linalg.cholesky_ex(gram)
    rows = torch.linalg.solve_triangular(lower, product, upper=False)
    # the same kernels whatever happens, so that the host is not asked
    usable = (failed[:, None, None] == 0) & (size > 0) & size.isfinite()
    torch.where(usable, _taken_out(factor, rows, kappa, power), factor, out=factor)


def _taken_out(factor: Tensor, rows: Tensor, kappa: float, power: Power) -> Tensor:
    """``P - kappa W' W`` with a little of the identity, its trace restored to ``p``, symmetric to the last bit."""
    corrected = torch.baddbmm(factor, rows.mT, rows, beta=1.0 - _IDENTITY_SHARE, alpha=-kappa)
    diagonal = corrected.diagonal(dim1=-2, dim2=-1)
    if power is Power.WHITEN:
        diagonal.add_(1.0 - diagonal.mean(-1, keepdim=True))
    else:
        diagonal.add_(_IDENTITY_SHARE)
        corrected.div_(diagonal.mean(-1)[:, None, None].clone())
    return (corrected + corrected.mT).mul_(0.5)
