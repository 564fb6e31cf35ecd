"""The course of one run: the closure a method sees, the clock around it, and the trace it leaves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secant.race.budget import Budget, BudgetExhausted
from secant.race.errors import UsageError
from secant.race.records import TracePoint
from secant.race.stopwatch import Stopwatch

if TYPE_CHECKING:
    from secant.problems import Problem

Watch: TypeAlias = Callable[[TracePoint], None]

_SPACING = 1.12
"""Ratio of successive traced moments: 20 points per decade, so about 120 over the six decades a run can span."""
_TICK_SECONDS = 0.2
_IDLE_STEPS = 20


@final
class Course:
    """One run under the clock.

    Each evaluation counts as one loss with its gradient. Before it, the budget is checked, and :class:`BudgetExhausted` is raised instead of one evaluation too
    many. Loss and error of the trace are measured at the parameters that the method keeps at the end of an iteration, with the clock paused and the evaluation
    not counted, so they cost no method anything.

    Attributes:
        parameters: The trainable parameters, which methods may write to.
        clock: Runs while the method does.
        evaluations: Evaluations so far.
        steps: Iterations so far, as the method counts them.
        trace: Measured moments so far.
    """

    def __init__(self, problem: Problem, budget: Budget, *, keep_best: bool, watch: Watch) -> None:
        """Prepare a run from the problem's present parameters.

        Args:
            problem: Loss, parameters and error.
            budget: The limit of the run.
            keep_best: Remember the best evaluated point, and end the run there.
            watch: Called with the clock paused, a few times per second.

        Raises:
            UsageError: If no parameter is trainable, or the loss depends on none of them.
        """
        self.parameters = [parameter for parameter in problem.parameters if parameter.requires_grad]
        self.clock = Stopwatch()
        self.evaluations = 0
        self.steps = 0
        self.trace: list[TracePoint] = []
        self._problem = problem
        self._budget = budget
        self._watch = watch
        self._keep_best = keep_best
        self._best_loss = math.inf
        self._best: list[Tensor] = []
        self._next_evaluations = 1
        self._next_seconds = 0.0
        self._next_tick = 0.0
        self._idle_since = (0, 0)
        self._calls_backward = _warm_up(problem, self.parameters)
        self._measure()

    def loss(self) -> Tensor:
        """One counted evaluation for a method that differentiates the loss itself: the loss with its graph."""
        self._count()
        return self._problem.loss()

    def loss_and_gradient(self) -> Tensor:
        """One counted evaluation: the detached loss, with its gradient in ``.grad``."""
        self._count()
        _clear_gradients(self.parameters)
        with torch.enable_grad():
            loss = self._problem.loss()
            if not self._calls_backward:
                loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        if self._keep_best:
            self._remember(float(loss))
        return loss

    def value_and_gradient(self, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """One counted evaluation at a flat vector of shape ``(n,)``: the loss and its gradient in float64, as SciPy takes them."""
        self.write(torch.as_tensor(x))
        loss = float(self.loss_and_gradient())
        return loss, self.gradient().double().numpy()

    def gradient(self) -> Tensor:
        """The gradient of the last :meth:`loss_and_gradient` as a new flat vector of shape ``(n,)``; unreached parameters count as zero."""
        pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return torch.cat([piece.detach().reshape(-1) for piece in pieces])

    def read(self) -> Tensor:
        """The parameters as a new flat vector of shape ``(n,)``."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters])

    @torch.no_grad()
    def write(self, x: Tensor) -> None:
        """Set the parameters from a flat vector of shape ``(n,)``, in their own dtype."""
        pieces = torch.split(x, [parameter.numel() for parameter in self.parameters])
        for parameter, piece in zip(self.parameters, pieces, strict=True):
            parameter.copy_(piece.view_as(parameter))

    def settle(self, x: Tensor | None = None) -> None:
        """End an iteration: the method keeps its present parameters, or the flat vector ``x``.

        Raises:
            ArithmeticError: If the loss at a traced moment is not finite.
            RuntimeError: If many iterations in a row evaluated nothing.
        """
        self.steps += 1
        self._check_idle()
        seconds = self.clock.cpu_seconds
        if self.evaluations >= self._next_evaluations or seconds >= self._next_seconds:
            with self.clock.paused():
                if x is not None:
                    self.write(x)
                point = self._measure()
            if point.loss is None:
                raise ArithmeticError(f"The loss is not a finite number after {self.evaluations} evaluations.")
        elif time.perf_counter() >= self._next_tick:
            with self.clock.paused():
                self._tell(self._now(self.trace[-1].loss, self.trace[-1].error))

    def finish(self) -> TracePoint:
        """Stop the clock, put the kept parameters in place, and measure the end of the run."""
        self.clock.stop()
        if self._keep_best and self._best:
            with torch.no_grad():
                for parameter, best in zip(self.parameters, self._best, strict=True):
                    parameter.copy_(best)
        return self._measure()

    def _count(self) -> None:
        if self._budget.is_used_up(self.evaluations, self.clock.cpu_seconds):
            raise BudgetExhausted
        self.evaluations += 1

    @torch.no_grad()
    def _remember(self, loss: float) -> None:
        if not loss < self._best_loss:
            return
        self._best_loss = loss
        if not self._best:
            self._best = [torch.empty_like(parameter) for parameter in self.parameters]
        for best, parameter in zip(self._best, self.parameters, strict=True):
            best.copy_(parameter)

    def _check_idle(self) -> None:
        evaluations, step = self._idle_since
        if self.evaluations != evaluations:
            self._idle_since = (self.evaluations, self.steps)
        elif self.steps - step >= _IDLE_STEPS:
            raise RuntimeError(f"{_IDLE_STEPS} steps in a row evaluated nothing.")

    def _measure(self) -> TracePoint:
        loss = _loss_aside(self._problem, self.parameters)
        error = self._problem.error() if self._problem.error is not None and math.isfinite(loss) else None
        point = self._now(loss, float(error.detach()) if isinstance(error, Tensor) else error)
        if self.trace and self.trace[-1].evaluations == point.evaluations:
            self.trace.pop()
        self.trace.append(point)
        self._next_evaluations = max(self.evaluations + 1, math.ceil(self.evaluations * _SPACING))
        self._next_seconds = max(0.01, point.cpu_seconds * _SPACING)
        self._tell(point)
        return point

    def _now(self, loss: float | None, error: float | None) -> TracePoint:
        seconds, wall = self.clock.cpu_seconds, self.clock.wall_seconds
        return TracePoint(evaluations=self.evaluations, cpu_seconds=seconds, wall_seconds=wall, loss=loss, error=error)

    def _tell(self, point: TracePoint) -> None:
        self._watch(point)
        self._next_tick = time.perf_counter() + _TICK_SECONDS


def _clear_gradients(parameters: list[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _warm_up(problem: Problem, parameters: list[Tensor]) -> bool:
    """Evaluate once with gradient; whether the closure calls ``backward`` itself."""
    if not parameters:
        raise UsageError(f"The problem {problem.name!r} has no trainable parameter.", "set requires_grad on at least one")
    _clear_gradients(parameters)
    with torch.enable_grad():
        loss = problem.loss()
        calls_backward = any(parameter.grad is not None for parameter in parameters)
        if not calls_backward:
            if not (isinstance(loss, Tensor) and loss.requires_grad):
                raise UsageError(f"The loss of {problem.name!r} depends on no parameter.", "return the loss tensor itself, not loss.item()")
            loss.backward()  # type: ignore[no-untyped-call]
    _clear_gradients(parameters)
    return calls_backward


def _loss_aside(problem: Problem, parameters: list[Tensor]) -> float:
    """The loss at the present parameters; gradients and random numbers are left as they were."""
    gradients = [parameter.grad for parameter in parameters]
    _clear_gradients(parameters)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        loss = float(problem.loss().detach())
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    return loss
