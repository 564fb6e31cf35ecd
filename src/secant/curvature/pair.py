"""The secant pair of a step and the inner products that every correction is made of."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from secant.curvature.curvature import State
from secant.curvature.symmetric import DeferredSymmetric, MatrixKernel
from secant.space import Space
from secant.step import Correction, Step

ROUNDING_STEP = 100.0  # units in the last place of |x|: a shorter step's gradient change is wrong in the second digit
CANCELLATION = 1e-8  # below this share of |H g| the difference H g+ - H g has lost half its digits: H y is computed afresh


@dataclass(frozen=True, slots=True, eq=False)
class SecantPair:
    """One step seen through the present inverse ``H``.

    Attributes:
        s: Step ``x+ - x``.
        y: Gradient change ``g+ - g``.
        gradient: ``g+``.
        Hy: ``H y``.
        Hg: ``H g+``, the product that also gives the next direction.
        ss, yy, sy, yHy: Inner products ``s.s``, ``y.y``, ``s.y``, ``y.Hy``.
        sg, Hyg: ``s.g+`` and ``Hy.g+``.
        sBs: ``s.Bs`` with ``B = H^-1``, known without ``B`` because ``s`` is a multiple of ``-H g``.
        length: The multiple: ``s = -length H g``.
        is_rounding: Whether ``s`` is so short against ``x`` that ``y`` is hardly more than the rounding of two gradients.
    """

    s: Tensor
    y: Tensor
    gradient: Tensor
    Hy: Tensor
    Hg: Tensor
    ss: float
    yy: float
    sy: float
    yHy: float
    sg: float
    Hyg: float
    sBs: float
    length: float
    is_rounding: bool

    def refusal(self, skip_below: float) -> Correction | None:
        """Why the Broyden class cannot be corrected with this pair: rounding, or ``s.y <= skip_below |s| |y|``; None where it can."""
        if self.is_rounding:
            return Correction.SKIPPED_ROUNDING
        has_digits = min(self.ss, self.yy, self.sy, self.sBs) >= sys.float_info.min
        if not has_digits or not self.sy > skip_below * math.sqrt(self.ss) * math.sqrt(self.yy):
            return Correction.SKIPPED_CURVATURE
        return None

    def with_inverse_times(self, factor: float) -> SecantPair:
        """The same pair seen through ``factor H``."""
        return replace(
            self,
            Hy=self.Hy * factor,
            Hg=self.Hg * factor,
            yHy=self.yHy * factor,
            Hyg=self.Hyg * factor,
            sBs=self.sBs / factor,
            length=self.length / factor,
        )


@final
class InverseProducts:
    """Products with the inverse, remembering the last one.

    A line-search step leaves along ``-H g``, so ``H g`` is known when the correction is due and ``H y = H g+ - H g`` costs one product, the same one that gives
    the next direction.

    Args:
        inverse: The matrix ``H``.
    """

    def __init__(self, inverse: DeferredSymmetric) -> None:
        self.inverse = inverse
        self._known: tuple[Tensor, Tensor] | None = None

    def times(self, v: Tensor) -> Tensor:
        """``H v``; free for the vector multiplied last."""
        if self._known is not None and (self._known[0] is v or torch.equal(self._known[0], v)):
            return self._known[1]
        product = self.inverse.times(v)
        self.remember(v, product)
        return product

    def remember(self, v: Tensor, product: Tensor) -> None:
        """Note that ``H v`` is ``product``."""
        self._known = (v, product)

    def pair(self, step: Step | None, space: Space) -> SecantPair | None:
        """The secant pair of a step with everything a correction needs; None when no second point was evaluated. Cost: one product, O(n) besides."""
        if step is None or step.trial is None or step.trial is step.start or not step.trial.is_finite:
            return None
        before, gradient = self.times(step.start.grad), step.trial.grad
        s, y = step.trial.x - step.start.x, gradient - step.start.grad
        Hg = self.inverse.times(gradient)
        Hy = Hg - before
        G = space.gram(s, y, Hy, gradient, before, step.start.x)
        if G[2][2] < CANCELLATION**2 * G[4][4]:
            Hy = self.inverse.times(y)
            G = space.gram(s, y, Hy, gradient, before, step.start.x)
        length = -G[0][4] / G[4][4] if G[4][4] > 0.0 else 0.0
        return SecantPair(
            s,
            y,
            gradient,
            Hy,
            Hg,
            ss=G[0][0],
            yy=G[1][1],
            sy=G[0][1],
            yHy=G[1][2],
            sg=G[0][3],
            Hyg=G[2][3],
            sBs=-length * (G[0][3] - G[0][1]),
            length=length,
            is_rounding=G[0][0] < (ROUNDING_STEP * torch.finfo(s.dtype).eps) ** 2 * G[5][5],
        )

    def state(self) -> State:
        """The matrix's state and the product computed last."""
        vector, product = self._known if self._known is not None else (None, None)
        return self.inverse.state() | {"known_vector": vector, "known_product": product}

    @classmethod
    def from_state(cls, state: State, like: Tensor, kernel: MatrixKernel | None = None) -> InverseProducts:
        """Products that go on bit for bit where ``state`` was taken, on the device of ``like``."""
        restored = cls(DeferredSymmetric.from_state(state, like, kernel))
        vector, product = state["known_vector"], state["known_product"]
        if isinstance(vector, Tensor) and isinstance(product, Tensor):
            restored.remember(vector.to(like.device, copy=True), product.to(like.device, copy=True))
        return restored
