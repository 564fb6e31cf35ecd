"""What the laws are about: every method with every globalization it accepts, and three small problems.

The methods of ``METHODS`` take the loss of a problem, those of ``RESIDUAL_METHODS`` its residuals. A law that holds for both asks its case for the problem's
form and passes ``problem.closure``; one that speaks of what only a loss has (its own scale ``initial_scale``, ``maximize``, hooks on gradients, a closure that
calls ``backward``) stays with the methods of a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import secant
from secant.globalization.globalization import Globalization
from secant.methods import METHODS
from secant.optimizer import CurvatureOptimizer
from secant.residual_methods import RESIDUAL_METHODS

EXTRA: dict[str, dict[str, Any]] = {"broyden": {"theta": 0.3}}
"""Options that make a method something else than another one of the list."""

GLOBALIZATIONS = {name: value for name in secant.__all__ if isinstance(value := getattr(secant, name), type) and issubclass(value, Globalization)}


@dataclass(frozen=True)
class Case:
    """One method with one globalization; None is the method's own default."""

    method: str
    globalization: str | None = None

    def __str__(self) -> str:
        return self.method if self.globalization is None else f"{self.method}-{self.globalization}"

    def build(self, parameters: Any, **options: Any) -> CurvatureOptimizer[Any]:
        chosen = {} if self.globalization is None else {"globalization": GLOBALIZATIONS[self.globalization]()}
        return (METHODS | RESIDUAL_METHODS)[self.method](parameters, **(EXTRA.get(self.method, {}) | chosen | options))

    @property
    def is_monotone(self) -> bool:
        return self.globalization != "FixedStep"

    @property
    def takes_residuals(self) -> bool:
        return self.method in RESIDUAL_METHODS

    @property
    def amplifies_rounding(self) -> bool:
        """Undamped Gauss-Newton steps without any test jump about, and every digit that rounding takes grows with each of them."""
        return self.takes_residuals and self.globalization == "FixedStep"

    def form(self, problem: Problem) -> Problem:
        """The problem as this method wants it."""
        return problem.as_residuals() if self.takes_residuals else problem


def _accepts(case: Case) -> bool:
    try:
        case.build([torch.zeros(2, requires_grad=True)])
    except TypeError:
        return False
    return True


METHOD_CASES = [Case(name) for name in METHODS]
PAIRS = [case for name in METHODS for globalization in GLOBALIZATIONS if _accepts(case := Case(name, globalization))]
FIT_CASES = [Case(name) for name in RESIDUAL_METHODS]
FIT_PAIRS = [case for name in RESIDUAL_METHODS for globalization in GLOBALIZATIONS if _accepts(case := Case(name, globalization))]

every_method = pytest.mark.parametrize("case", METHOD_CASES, ids=str)
every_pair = pytest.mark.parametrize("case", PAIRS, ids=str)
every_method_and_fit = pytest.mark.parametrize("case", METHOD_CASES + FIT_CASES, ids=str)
every_pair_and_fit = pytest.mark.parametrize("case", PAIRS + FIT_PAIRS, ids=str)


@dataclass(frozen=True)
class Problem:
    """Parameters at their start, the loss over them, and residuals whose squares sum up to twice the loss.

    Attributes:
        closure: What is passed to ``step``.
    """

    parameters: list[Tensor]
    loss: Callable[[], Tensor]
    residual: Callable[[], Tensor] | None = None
    takes_residuals: bool = False

    @property
    def closure(self) -> Callable[[], Tensor]:
        if not self.takes_residuals:
            return self.loss
        assert self.residual is not None
        return self.residual

    def as_residuals(self) -> Problem:
        """The same, for methods that take residuals; the loss is computed from them."""
        residual = self.residual
        assert residual is not None

        def loss() -> Tensor:
            r = residual()
            return 0.5 * torch.dot(r, r)

        return replace(self, loss=loss, takes_residuals=True)

    def times(self, factor: float) -> Problem:
        """The loss times a factor."""
        loss, residual = self.loss, self.residual
        return replace(self, loss=lambda: factor * loss(), residual=None if residual is None else lambda: math.sqrt(factor) * residual())


def quadratic(dtype: torch.dtype = torch.float64, n: int = 5, condition: float = 30.0, minimizer: float = 0.0) -> Problem:
    """A rotated bowl with eigenvalues from 1 to ``condition`` and least value 0, in two tensors."""
    generator = torch.Generator().manual_seed(3)
    rotation, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    matrix = (rotation @ torch.diag(torch.logspace(0, 1, n, dtype=torch.float64, base=condition)) @ rotation.T).to(dtype)
    start = (minimizer + torch.randn(n, generator=generator, dtype=torch.float64)).to(dtype)
    a, b = start[:2].clone().requires_grad_(), start[2:].clone().requires_grad_()

    def loss() -> Tensor:
        x = torch.cat([a, b]) - minimizer
        return 0.5 * x @ matrix @ x

    root = torch.linalg.cholesky(matrix)
    return Problem([a, b], loss, lambda: root.T @ (torch.cat([a, b]) - minimizer))


def rosenbrock(dtype: torch.dtype = torch.float64, n: int = 12) -> Problem:
    """The chained Rosenbrock function from the usual start."""
    return rosenbrock_of(torch.tensor([-1.2, 1.0] * (n // 2), dtype=dtype, requires_grad=True))


def rosenbrock_of(x: Tensor) -> Problem:
    """The chained Rosenbrock function of the given tensor."""
    return Problem(
        [x],
        lambda: ((1.0 - x[:-1]) ** 2).sum() + 100.0 * ((x[1:] - x[:-1] ** 2) ** 2).sum(),
        lambda: math.sqrt(2.0) * torch.cat([1.0 - x[:-1], 10.0 * (x[1:] - x[:-1] ** 2)]),
    )


def tanh_net(dtype: torch.dtype = torch.float64, ridge: float = 0.0) -> Problem:
    """Seventeen weights of a 2-4-1 net on sixteen points; without the ridge term the best weights are infinite."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    inputs = normal(16, 2)
    targets = torch.sin(2.0 * inputs[:, :1]) * inputs[:, 1:]
    w1, b1, w2, b2 = (normal(*shape).requires_grad_() for shape in ((4, 2), (4,), (1, 4), (1,)))

    def misfit() -> Tensor:
        return torch.tanh(inputs @ w1.T + b1) @ w2.T + b2 - targets

    def residual() -> Tensor:
        data = math.sqrt(2.0 / 16.0) * misfit().reshape(-1)
        return torch.cat([data, *(math.sqrt(2.0 * ridge) * w.reshape(-1) for w in (w1, w2))]) if ridge > 0.0 else data

    return Problem([w1, b1, w2, b2], lambda: (misfit() ** 2).mean() + ridge * sum(w.square().sum() for w in (w1, w2)), residual)


PROBLEMS = {"quadratic": lambda dtype=torch.float64: quadratic(dtype, n=12, condition=1e3, minimizer=0.5), "rosenbrock": rosenbrock, "tanh_net": tanh_net}


def flat(parameters: Sequence[Tensor]) -> Tensor:
    """All parameters as one new vector."""
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def drive(optimizer: CurvatureOptimizer[Any], problem: Problem, steps: int) -> list[Tensor]:
    """The parameters after each of so many steps."""
    path = []
    for _ in range(steps):
        optimizer.step(problem.closure)
        path.append(flat(problem.parameters))
    return path
