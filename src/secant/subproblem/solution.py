"""What a trust-region subproblem returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """An (approximate) minimizer of ``g.p + p.Bp / 2`` within ``|p| <= radius``.

    Attributes:
        p: The step, shape ``(n,)``.
        Bp: ``B p``, shape ``(n,)``.
        is_on_boundary: Whether ``|p|`` is the radius.
        has_negative_curvature: Whether a direction with ``p.Bp <= 0`` was met.
    """

    p: Tensor
    Bp: Tensor
    is_on_boundary: bool
    has_negative_curvature: bool
