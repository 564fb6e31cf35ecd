"""Functions of one number as objectives, and searches along ``-g`` on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secant.curvature.broyden import Broyden
from secant.curvature.scaling import FixedMember
from secant.globalization.line import LineSearch
from secant.objective import Objective
from secant.step import Step

Curve = Callable[[float], tuple[float, float]]
"""From ``x`` to the loss and its slope."""


class Given(torch.autograd.Function):
    """A loss whose gradient is what the test says, also where that is not its derivative."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, loss: float, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient  # type: ignore[attr-defined]
        return x.new_tensor(loss)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, weight: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return weight * ctx.gradient, None, None  # type: ignore[attr-defined]


@dataclass
class Search:
    """One search from ``x0`` along ``-g`` with ``H = I``: ``lr`` is the first length.

    Attributes:
        step: What came out of it.
        lengths: The lengths tried, in order.
    """

    curve: Curve
    method: LineSearch
    x0: float
    lr: float = 1.0
    lengths: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        x = torch.tensor([self.x0], dtype=torch.float64, requires_grad=True)
        groups = [{"params": [x], "lr": self.lr, "weight_decay": 0.0}]
        objective = Objective(groups)
        visited: list[float] = []

        def closure() -> Tensor:
            here = float(x.detach())
            visited.append(here)
            loss, slope = self.curve(here)
            return Given.apply(x, loss, x.new_tensor([slope]))  # type: ignore[no-untyped-call]

        objective.bind(closure, groups)
        start = objective.here()
        curvature = Broyden(FixedMember(0.0), initial=1.0)
        curvature.update(objective, start, None)
        self.step: Step = self.method.advance(objective, start, curvature, self.lr)
        self.slope = -(float(start.grad) ** 2)
        self.evaluations = objective.counts.losses - 1
        self.lengths = [(value - self.x0) / -float(start.grad) for value in visited[1:]]

    @property
    def length(self) -> float:
        """The length that was kept."""
        return (float(self.step.kept.x) - self.x0) / -float(self.step.start.grad)

    @property
    def rise(self) -> float:
        """``phi(length) - phi(0)``."""
        return self.step.kept.loss - self.step.start.loss

    @property
    def end_slope(self) -> float:
        """``phi'(length)``."""
        return -float(self.step.start.grad) * float(self.step.kept.grad)


def parabola(x: float) -> tuple[float, float]:
    return 0.5 * x * x, x


def quartic(x: float) -> tuple[float, float]:
    return x**4, 4.0 * x**3


def double_well(x: float) -> tuple[float, float]:
    return 0.25 * x**4 - 0.5 * x**2 + 0.1 * x, x**3 - x + 0.1


def plateau(x: float) -> tuple[float, float]:
    """A bell: almost flat far out, steep at its flank."""
    value = math.exp(-min(x * x, 700.0))
    return -value, 2.0 * x * value


def wall_of_nan(x: float) -> tuple[float, float]:
    return (x - 1.0) ** 2 if x > 0.3 else math.nan, 2.0 * (x - 1.0)


def barrier(x: float) -> tuple[float, float]:
    """``x - log x``, infinite from zero on."""
    return (x - math.log(x), 1.0 - 1.0 / x) if x > 0.0 else (math.inf, math.nan)


def kink(x: float) -> tuple[float, float]:
    return abs(x), math.copysign(1.0, x)


def steep_kink(x: float) -> tuple[float, float]:
    return (x, 1.0) if x > 0.0 else (-100.0 * x, -100.0)


def endless(x: float) -> tuple[float, float]:
    return x, 1.0


def accelerating(x: float) -> tuple[float, float]:
    return -(x**2), -2.0 * x


def flat_to_rounding(x: float) -> tuple[float, float]:
    """A parabola whose depth is below the last digit of its offset."""
    return 1.0 + 0.5 * x * x, x


def wrong_gradient(x: float) -> tuple[float, float]:
    return -x, 1.0


def wavy(x: float) -> tuple[float, float]:
    return 0.05 * x * x + math.sin(3.0 * x), 0.1 * x + 3.0 * math.cos(3.0 * x)


SOLVABLE: dict[str, tuple[Curve, float]] = {
    "parabola": (parabola, 3.0),
    "quartic": (quartic, 1.7),
    "double well": (double_well, 2.5),
    "plateau": (plateau, 2.0),
    "far plateau": (plateau, 4.0),
    "wall of nan": (wall_of_nan, 4.0),
    "barrier": (barrier, 5.0),
    "wavy": (wavy, 4.0),
}
AWKWARD: dict[str, tuple[Curve, float]] = {
    "kink": (kink, 0.3),
    "steep kink": (steep_kink, 0.7),
    "endless": (endless, 0.0),
    "accelerating": (accelerating, 1.0),
    "flat to rounding": (flat_to_rounding, 1e-9),
    "wrong gradient": (wrong_gradient, 0.0),
}
