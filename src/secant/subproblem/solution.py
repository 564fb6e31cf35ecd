"""What a subproblem returns: a step, and what the model promises for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secant.space import Space


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """An (approximate) minimizer of ``g.p + p.Bp / 2`` within ``|p| <= radius``.

    Attributes:
        p: The step, shape ``(n,)``.
        length: ``|p|``.
        slope: ``g.p``.
        curvature: ``p.Bp``.
        is_on_boundary: Whether ``|p|`` is the radius.
        has_negative_curvature: Whether ``B`` is known to be indefinite: a direction with ``p.Bp <= 0`` was met, or the lowest eigenvalue is negative.
        is_cut: Whether it is a share of the subproblem's solution.
    """

    p: Tensor
    length: float
    slope: float
    curvature: float
    is_on_boundary: bool
    has_negative_curvature: bool
    is_cut: bool = False

    @property
    def predicted(self) -> float:
        """The decrease that the model promises."""
        return -(self.slope + 0.5 * self.curvature)

    def times(self, share: float) -> Solution:
        """The same direction, ``share`` of the length."""
        return replace(
            self,
            p=self.p * share,
            length=self.length * share,
            slope=self.slope * share,
            curvature=self.curvature * share * share,
            is_on_boundary=False,
            is_cut=True,
        )


def solution(space: Space, g: Tensor, p: Tensor, Bp: Tensor, *, on_boundary: bool, negative_curvature: bool) -> Solution:
    """A step ``p`` with the product ``B p``. Cost: one reduction."""
    G = space.gram(g, p, Bp)
    return Solution(p, math.sqrt(G[1][1]), G[0][1], G[1][2], on_boundary, negative_curvature)


def damped_solution(g: Tensor, p: Tensor, diagonal: Tensor) -> Solution:
    """The exact solution ``p`` of ``(B + diagonal) p = -g``, in the type of ``g``: its curvature ``p.Bp`` follows from that equation."""
    length, slope, shift = torch.stack([torch.linalg.vector_norm(p), torch.dot(g, p), torch.dot(p, diagonal * p)]).tolist()
    return Solution(p, length, slope, max(-slope - shift, 0.0), is_on_boundary=False, has_negative_curvature=False)


def confined_solution(g: Tensor, p: Tensor, Jp: Tensor) -> Solution:
    """A step ``p`` with the change ``J p`` of the residuals that it promises; ``B = J' J``."""
    length, slope, curvature = torch.stack([torch.linalg.vector_norm(p), torch.dot(g, p), torch.dot(Jp, Jp)]).tolist()
    return Solution(p, length, slope, curvature, is_on_boundary=False, has_negative_curvature=False)
