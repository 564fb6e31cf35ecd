"""The whole Broyden class with self-scaling, as two rank-one corrections of the dense inverse."""

from __future__ import annotations

from typing import Protocol, final

import torch
from torch import Tensor

from secant.curvature.curvature import PositiveDefiniteInverse, State
from secant.curvature.initial import InitialScale, initial_inverse
from secant.curvature.pair import InverseProducts, SecantPair
from secant.curvature.scaling import Member, MemberRule
from secant.curvature.symmetric import DeferredSymmetric, MatrixKernel
from secant.objective import Objective
from secant.step import Correction, Point, Step


@final
class Broyden(PositiveDefiniteInverse):
    """The dense inverse ``H`` of the Broyden class.

    With ``w = H y``, ``rho = 1 / s.y``, ``v = rho s - w / y.w``:

        H+ = (H - w w' / y.w + phi (y.w) v v') / tau + rho s s'

    where ``phi = (1 - theta) / (1 + a theta)`` and ``a = (y.w)(s.Bs) / (s.y)^2 - 1``. BFGS is ``theta = 0``, DFP ``theta = 1``, both with ``tau = 1``.
    ``H+`` is positive definite whenever ``H`` is, ``s.y > 0`` and ``1 + a theta > 0``.

    Args:
        rule: Chooses ``theta`` and ``tau`` at every correction.
        initial: The initial scale, see :class:`~secant.curvature.initial.InitialScale`.
        skip_below: The correction is skipped when ``s.y <= skip_below |s| |y|``.
        first_gain: With the automatic scale, ``H`` is multiplied before its first correction by this times the first accepted length. Directions not
            yet explored then start from a small curvature, which corrections raise at once, while a large one is lowered only step by step
            (benchmarks/results/initial_scale.json: 10 needs a third to a half of the evaluations of 1 for BFGS, and no more for the self-scaled members).
        kernel: The passes over the matrix; None chooses by device and type.

    Source:
        Urban, Stefanou & Pons (2025), arXiv 2405.04230; Nocedal & Wright (2006), section 6.3. Departures: both terms are brought to rank one by
        completing the square, so that they can wait and be folded in together; ``H y`` is the difference of two known products.
    """

    def __init__(
        self, rule: MemberRule, *, initial: InitialScale, skip_below: float = 1e-14, first_gain: float = 10.0, kernel: MatrixKernel | None = None
    ) -> None:
        self._rule = rule
        self._initial = initial
        self._skip_below = skip_below
        self._first_gain = first_gain
        self._kernel = kernel
        self._products: InverseProducts | None = None
        self._corrections = 0

    def update(self, objective: Objective, point: Point, last: Step | None) -> Correction:
        """Correct ``H`` with the last step; see :class:`~secant.curvature.curvature.Curvature`. Cost: one product and O(n)."""
        if self._products is None:
            self._products = InverseProducts(initial_inverse(self._initial, objective, point, self._kernel))
            self._corrections = 0
            return Correction.INITIAL
        pair = self._products.pair(last, objective.space)
        if pair is None:
            return Correction.NOTHING_NEW
        refusal = pair.refusal(self._skip_below)
        if refusal is not None:
            return refusal
        if not pair.yHy > 0.0:
            self.reset()
            self.update(objective, point, None)
            return Correction.RESET_INDEFINITE
        return self._correct(self._products, pair)

    def solve(self, v: Tensor) -> Tensor:
        """``H v``, shape ``(n,)``; free for the gradient of the last correction. Cost otherwise: one read of ``H``."""
        if self._products is None:
            raise RuntimeError("Expected an inverse Hessian, got none yet: call update first.")
        return self._products.times(v)

    def reset(self) -> None:
        """Forget ``H``; the next ``update`` starts from the initial scale."""
        self._products = None

    def dense_inverse(self) -> Tensor:
        """``H`` as a new symmetric matrix of shape ``(n, n)``."""
        if self._products is None:
            raise RuntimeError("Expected an inverse Hessian, got none yet: take a step first.")
        return self._products.inverse.dense()

    def is_positive_definite(self) -> bool:
        """See :class:`~secant.curvature.curvature.PositiveDefiniteInverse`. Cost: a Cholesky factorization, ``n^3 / 3`` flops and two more matrices."""
        return self._products is None or self._products.inverse.is_positive_definite()

    def bytes_needed(self, size: int, bytes_per_number: int) -> int:
        """``n^2`` numbers for ``H`` and ``2 * 32 n`` for the waiting terms and a fold of them."""
        return DeferredSymmetric.bytes_needed(size, bytes_per_number)

    def state(self) -> State:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        return self._products.state() | {"corrections": self._corrections} if self._products is not None else {}

    def load(self, state: State, like: Tensor) -> None:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        self._products = InverseProducts.from_state(state, like, self._kernel) if state else None
        self._corrections = int(state.get("corrections", 0) or 0)

    def _correct(self, products: InverseProducts, pair: SecantPair) -> Correction:
        gain = 1.0
        if self._corrections == 0 and self._initial == "auto" and pair.length > 0.0:
            gain = self._first_gain * pair.length
            pair = pair.with_inverse_times(gain)
        member = self._rule(pair.yHy / pair.sy, pair.sBs / pair.sy, pair.s.numel())
        product = corrected(products.inverse, pair, member, gain)
        if product is None:
            return Correction.SKIPPED_THETA
        products.remember(pair.gradient, product)
        self._corrections += 1
        return Correction.APPLIED


class RankOneSum(Protocol):
    """A symmetric matrix that takes a factor and rank-one terms."""

    def scale(self, factor: float) -> None:
        """``A <- factor A``."""

    def add(self, weight: float, vector: Tensor) -> None:
        """``A <- A + weight vector vector'``."""


def corrected(inverse: RankOneSum, pair: SecantPair, member: Member, gain: float) -> Tensor | None:
    """Correct ``H`` in place.

    Args:
        inverse: ``H`` before it is multiplied by ``gain``.
        pair: Seen through ``gain H``.
        member: Of the class.
        gain: Factor on ``H`` that comes first.

    Returns:
        ``H+ g+``, known in O(n); None, and ``H`` as it was, where the member would not be positive definite.
    """
    terms = rank_one_terms(pair, member)
    if terms is None:
        return None
    inverse.scale(gain / member.tau)
    product = pair.Hg / member.tau
    for weight, share_of_s, share_of_Hy in terms:
        vector = torch.add(pair.s * share_of_s, pair.Hy, alpha=share_of_Hy)
        inverse.add(weight, vector)
        product.add_(vector, alpha=weight * (share_of_s * pair.sg + share_of_Hy * pair.Hyg))
    return product


_Term = tuple[float, float, float]


def rank_one_terms(pair: SecantPair, member: Member) -> tuple[_Term, _Term] | None:
    """The correction as two terms ``weight u u'`` with ``u = share_of_s s + share_of_Hy w``, ``w = H y``, after ``H`` was divided by ``tau``.

    In ``s`` and ``w`` the correction is a symmetric 2 x 2 form. Completing the square on a factor that cannot vanish leaves two rank-one terms: on ``s s'`` for
    ``phi >= 0`` (theta up to 1), where it is at least ``rho``; on ``w w'`` beyond, where it is below ``-1 / (tau y.w)``.

    Returns:
        Two ``(weight, share_of_s, share_of_Hy)``, or None where ``1 + a theta <= 0``: the member would not be positive definite.
    """
    h, b = pair.yHy / pair.sy, pair.sBs / pair.sy  # ratios first: the products of two small curvatures would underflow
    a = h * b - 1.0
    if not 1.0 + a * member.theta > 0.0:
        return None
    phi = (1.0 - member.theta) / (1.0 + a * member.theta)
    rho = 1.0 / pair.sy
    ss = rho * (1.0 + phi * h / member.tau)
    sw = -phi * rho / member.tau
    ww = (phi - 1.0) / (pair.yHy * member.tau)
    if phi >= 0.0:
        return (ss, 1.0, sw / ss), (ww - sw / ss * sw, 0.0, 1.0)
    return (ww, sw / ww, 1.0), (ss - sw / ww * sw, 1.0, 0.0)
