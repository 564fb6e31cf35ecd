"""Limited-memory BFGS in its compact form: one pass over the pairs for all inner products, one for the direction."""

from __future__ import annotations

import math
import sys
from typing import final

import torch
from torch import Tensor

from secant.curvature.curvature import PositiveDefiniteInverse, State
from secant.curvature.initial import InitialScale
from secant.curvature.pair import ROUNDING_STEP
from secant.curvature.pair_memory import Draft, PairMemory, PairProducts
from secant.objective import Objective
from secant.space import LocalSpace, Space
from secant.step import Correction, Point, Step


@final
class LimitedBFGS(PositiveDefiniteInverse):
    """The inverse ``H`` that BFGS makes of ``gamma I`` and the newest ``m`` pairs.

    With the pairs as columns of ``S`` and ``Y``, ``R`` the upper triangle of ``S'Y`` and ``D`` its diagonal:

        H g = gamma g + S p + Y (gamma q),   q = -R^-1 S'g,   p = R^-T (-(D + gamma Y'Y) q - gamma Y'g)

    ``S'Y`` and ``Y'Y`` grow by the products of the newest pair, which are differences of the products with two gradients: a step costs one pass over the pairs
    for the products with the new gradient and one for the direction. ``H`` is positive definite in exact arithmetic.

    Args:
        memory: ``m``, the number of pairs.
        initial: ``"auto"``: ``gamma = s.y / y.y`` of the newest pair, ``1 / |g|`` before the first. A number is ``gamma`` throughout.
        skip_below: A pair is refused when ``s.y <= skip_below |s| |y|``.

    Source:
        Byrd, Nocedal & Schnabel (1994), Math. Program. 63, theorem 2.2; ``gamma``: Nocedal & Wright (2006), eq. 7.20.
    """

    def __init__(self, *, memory: int, initial: InitialScale, skip_below: float = 1e-12) -> None:
        self._capacity = memory
        self._initial = initial
        self._skip_below = skip_below
        self._memory: PairMemory | None = None
        self._gamma = 1.0
        self._space: Space = LocalSpace()

    def update(self, objective: Objective, point: Point, last: Step | None) -> Correction:
        """Take the pair of the last step into the memory. Cost: one pass over the pairs and O(n)."""
        self._space = objective.space
        if self._memory is None:
            self._start(objective, point)
            return Correction.INITIAL
        if last is None or last.trial is None or last.trial is last.start or not last.trial.is_finite:
            return Correction.NOTHING_NEW
        draft = self._memory.draft(last, self._space)
        refusal = self._refusal(draft, last)
        if refusal is not None:
            return refusal
        self._memory.keep(draft, last, self._space)
        if self._initial == "auto":
            self._gamma = draft.sy / draft.yy
        if all(bool(torch.isfinite(part).all()) for part in self._coefficients(self._memory.products(point.grad, self._space))):
            return Correction.APPLIED
        self.reset()
        self.update(objective, point, None)
        return Correction.RESET_INDEFINITE

    def solve(self, v: Tensor) -> Tensor:
        """``H v``, shape ``(n,)``, a new tensor. Cost: one pass over the pairs for the gradient of the last update, two for any other vector."""
        memory = self._known_memory()
        of_s, of_y = self._coefficients(memory.products(v, self._space))
        return memory.combination(v, self._gamma, of_s, of_y)

    def dense_inverse(self) -> Tensor:
        """``H`` as a new symmetric matrix of shape ``(n, n)``."""
        memory = self._known_memory()
        k = len(memory)
        unit = torch.eye(k, dtype=torch.float64)
        zero = torch.zeros_like(unit)
        columns = [torch.cat(self._coefficients(PairProducts(on_s, on_y))) for on_s, on_y in ((unit, zero), (zero, unit))]
        return memory.dense(self._gamma, torch.cat(columns, 1), inverse=True)

    def reset(self) -> None:
        """Forget the pairs; the next ``update`` starts from the initial scale."""
        self._memory = None

    def is_positive_definite(self) -> bool:
        """See :class:`~secant.curvature.curvature.PositiveDefiniteInverse`: that all ``s.y`` and ``gamma`` are positive is enough."""
        return 0.0 < self._gamma < math.inf and (self._memory is None or bool((self._memory.sy.diagonal() > 0.0).all()))

    def bytes_needed(self, size: int, bytes_per_number: int) -> int:
        """``2 m n`` numbers; see :meth:`PairMemory.bytes_needed`."""
        return PairMemory.bytes_needed(self._capacity, size, bytes_per_number)

    def state(self) -> State:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        return {} if self._memory is None else self._memory.state() | {"gamma": self._gamma}

    def load(self, state: State, like: Tensor) -> None:
        """See :class:`~secant.curvature.curvature.Curvature`."""
        self.reset()
        if state:
            self._memory = PairMemory.from_state(state, self._capacity, like)
            self._gamma = float(state["gamma"])  # type: ignore[arg-type]

    def _start(self, objective: Objective, point: Point) -> None:
        self._memory = PairMemory(self._capacity, objective.initial_scales())
        length = self._space.norm(point.grad) if self._initial == "auto" else 1.0
        self._gamma = float(self._initial) if self._initial != "auto" else 1.0 / length if length > 0.0 else 1.0

    def _refusal(self, draft: Draft, step: Step) -> Correction | None:
        limit = (ROUNDING_STEP * torch.finfo(step.start.x.dtype).eps) ** 2
        if draft.ss < limit * draft.xx:
            return Correction.SKIPPED_ROUNDING
        has_digits = min(draft.ss, draft.yy, draft.sy) >= sys.float_info.min and draft.ss + draft.yy < math.inf
        if not has_digits or not draft.sy > self._skip_below * math.sqrt(draft.ss) * math.sqrt(draft.yy):
            return Correction.SKIPPED_CURVATURE
        return None

    def _coefficients(self, products: PairProducts) -> tuple[Tensor, Tensor]:
        """What the direction takes of each ``s`` and of each ``y``, shape ``(k,)`` or ``(k, columns)`` like the products."""
        memory = self._known_memory()
        on_s, on_y = (part[:, None] if part.ndim == 1 else part for part in (products.on_s, products.on_y))
        R = memory.sy.triu()
        q = -torch.linalg.solve_triangular(R, on_s, upper=True)
        rest = -memory.sy.diagonal()[:, None] * q - self._gamma * (memory.yy @ q) - self._gamma * on_y
        p = torch.linalg.solve_triangular(R.T, rest, upper=False)
        return p.reshape(products.on_s.shape), self._gamma * q.reshape(products.on_s.shape)

    def _known_memory(self) -> PairMemory:
        if self._memory is None:
            raise RuntimeError("Expected an inverse Hessian, got none yet: take a step first.")
        return self._memory
