"""The Broyden class with self-scaling in the subspace of the gradients: dense inside, a multiple of the identity outside."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from secant.curvature.broyden import corrected
from secant.curvature.curvature import PositiveDefiniteInverse, State
from secant.curvature.initial import InitialScale, initial_diagonal
from secant.curvature.pair import CANCELLATION, ROUNDING_STEP, SecantPair
from secant.curvature.scaling import MemberRule
from secant.curvature.subspace_inverse import SeenGradient, SubspaceInverse
from secant.objective import Objective
from secant.step import Correction, Point, Step

_LEAST_MEMORY = 8
_ASTRAY = 1e-3  # squared sine of the angle between s and H g: beyond it, s is not the step that the coordinates say


@final
class LimitedBroyden(PositiveDefiniteInverse):
    """The inverse ``H`` of the Broyden class as a small dense matrix in the span of the gradients.

    While ``H`` starts as ``c I``, every step and every gradient change lies in the span of the gradients so far. With an orthonormal basis ``Q`` of it,

        H = c (I - Q'Q) + Q' A Q

    holds exactly, and the correction of ``H`` is the correction of the small matrix ``A`` by the coordinates ``Q s`` and ``Q y``: until the memory is full this
    is the dense method, iterate for iterate. Then the eigenvalues of ``A`` decide what is forgotten: the half whose eigenvalues differ least from ``c``, as
    ratios, leaves the basis, and their geometric mean becomes ``c``. The stiffest and the softest directions stay however long ago they were learned, and
    ``H`` stays positive definite. Where groups differ in their learning rate, all this holds after a diagonal change of variables.

    Args:
        rule: Chooses ``theta`` and ``tau`` at every correction.
        initial: The initial scale, see :class:`~secant.curvature.initial.InitialScale`.
        memory: Rows of ``Q`` at most; no more than ``n`` are used.
        skip_below: The correction is skipped when ``s.y <= skip_below |s| |y|``.
        first_gain: As of :class:`~secant.curvature.broyden.Broyden`.

    Raises:
        ValueError: ``memory`` is below 8.

    Source:
        Gill & Leonard (2001), SIAM J. Optim. 12, 209 (quasi-Newton methods in the span of the gradients), and (2003), SIAM J. Optim. 14, 380 (with limited
        memory). Departures: the inverse instead of a factor of the Hessian, the self-scaled class instead of BFGS, and forgetting by eigenvalue instead of
        by age.
    """

    def __init__(self, rule: MemberRule, *, initial: InitialScale, memory: int, skip_below: float = 1e-14, first_gain: float = 10.0) -> None:
        if memory < _LEAST_MEMORY:
            raise ValueError(f"Expected memory >= {_LEAST_MEMORY}, got memory={memory}.")
        self._rule = rule
        self._initial = initial
        self._memory = memory
        self._skip_below = skip_below
        self._first_gain = first_gain
        self._inverse: SubspaceInverse | None = None
        self._corrections = 0

    def update(self, objective: Objective, point: Point, last: Step | None) -> Correction:
        """Correct ``H`` with the last step, which must have left along ``-H g``; see :class:`~secant.curvature.curvature.Curvature`.

        Cost: four passes over the rows and O(memory^2); once in nearly ``memory / 2`` updates, ``memory^2 n`` flops.
        """
        if self._inverse is None:
            scale = float(initial_diagonal(self._initial, objective, point).amax())
            self._inverse = SubspaceInverse(scale, objective.initial_scales(), self._memory)
            self._inverse.space = objective.space
            self._inverse.look_at(point.grad)
            self._corrections = 0
            return Correction.INITIAL
        self._inverse.space = objective.space
        correction = self._correct(self._inverse, last)
        self._inverse.look_at(point.grad)
        if correction is Correction.RESET_INDEFINITE or not (self._inverse.has_room or self._inverse.forget_half()):
            self.reset()
            self.update(objective, point, None)
            return Correction.RESET_INDEFINITE
        return correction

    def solve(self, v: Tensor) -> Tensor:
        """``H v``, shape ``(n,)``. Cost: one pass over the rows for the gradient of the last update, two for any other vector."""
        return self._known().times(v)

    def reset(self) -> None:
        """Forget ``H``; the next ``update`` starts from the initial scale."""
        self._inverse = None

    def dense_inverse(self) -> Tensor:
        """``H`` as a new symmetric matrix of shape ``(n, n)``."""
        return self._known().dense()

    def is_positive_definite(self) -> bool:
        """See :class:`~secant.curvature.curvature.PositiveDefiniteInverse`. Cost: a Cholesky factorization of a small matrix."""
        return self._inverse is None or self._inverse.is_positive_definite()

    def bytes_needed(self, size: int, bytes_per_number: int) -> int:
        """``min(memory, n)`` rows of ``n`` numbers, half as many more while they grow, and a small matrix."""
        return SubspaceInverse.bytes_needed(size, self._memory, bytes_per_number)

    def state(self) -> State:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        return self._inverse.state() | {"corrections": self._corrections} if self._inverse is not None else {}

    def load(self, state: State, like: Tensor) -> None:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        self._inverse = SubspaceInverse.from_state(state, like) if state else None
        self._corrections = int(state.get("corrections", 0) or 0)

    def _known(self) -> SubspaceInverse:
        if self._inverse is None:
            raise RuntimeError("Expected an inverse Hessian, got none yet: take a step first.")
        return self._inverse

    def _correct(self, inverse: SubspaceInverse, last: Step | None) -> Correction:
        if last is None or last.trial is None or last.trial is last.start or not last.trial.is_finite:
            return Correction.NOTHING_NEW
        pair = _secant_pair(inverse, last.start, last.trial)
        inverse.remember(SeenGradient(last.trial.grad, pair.gradient, pair.Hg))
        refusal = pair.refusal(self._skip_below)
        if refusal is not None:
            return refusal
        if not pair.yHy > 0.0:
            return Correction.RESET_INDEFINITE
        gain = 1.0
        if self._corrections == 0 and self._initial == "auto" and pair.length > 0.0:
            gain = self._first_gain * pair.length
            pair = pair.with_inverse_times(gain)
        member = self._rule(pair.yHy / pair.sy, pair.sBs / pair.sy, last.trial.grad.numel())
        product = corrected(inverse, pair, member, gain)
        if product is None:
            return Correction.SKIPPED_THETA
        inverse.remember(SeenGradient(last.trial.grad, pair.gradient, product))
        self._corrections += 1
        return Correction.APPLIED


def _secant_pair(inverse: SubspaceInverse, start: Point, trial: Point) -> SecantPair:
    """The pair of a step along ``-H g`` in coordinates: there ``s`` is a multiple of a product that is known. Cost: four passes over the rows."""
    before, change = inverse.look_at(start.grad), trial.grad - start.grad
    G = inverse.space.gram(trial.x - start.x, inverse.times(start.grad), start.x, change, trial.grad)
    length = -G[0][1] / G[1][1] if G[1][1] > 0.0 else 0.0
    is_cancelled = G[3][3] < CANCELLATION**2 * G[4][4]
    y = inverse.coordinates(change) if is_cancelled else None
    after = inverse.coordinates(trial.grad)
    y = after - before.coordinates if y is None else y
    Hg = inverse.times_coordinates(after)
    s, Hy = -length * before.product, Hg - before.product
    if float(Hy @ Hy) < CANCELLATION**2 * float(before.product @ before.product):
        Hy = inverse.times_coordinates(y)
    sg, sy = float(s @ after), float(s @ y)
    is_drowned = G[0][0] < (ROUNDING_STEP * torch.finfo(start.x.dtype).eps) ** 2 * G[2][2]
    return SecantPair(
        s,
        y,
        after,
        Hy,
        Hg,
        ss=float(s @ s),
        yy=float(y @ y),
        sy=sy,
        yHy=float(y @ Hy),
        sg=sg,
        Hyg=float(Hy @ after),
        sBs=-length * (sg - sy),
        length=length,
        is_rounding=is_drowned or G[0][0] - length * length * G[1][1] > _ASTRAY * G[0][0],
    )
