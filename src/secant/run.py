"""One run of an optimizer to its end: the loop around its loop, with its budget, its clock and its trace."""

from __future__ import annotations

import difflib
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from secant.closures import Closure
from secant.objective import Counts
from secant.optimizer import Callback, CurvatureOptimizer, Iteration
from secant.progress import ProgressLine, end_line, terminal_line
from secant.step import Correction, Outcome, Point
from secant.tree import Tree, leaves_of, map_leaves

_BUDGET_OPTIONS = ("maxiter", "maxfun", "seconds")
_FRUITLESS = frozenset({Outcome.NOT_FINITE, Outcome.NO_DECREASE, Outcome.NO_DESCENT})
_PATIENCE = 3  # fruitless iterations in a row after which another is not worth its evaluations

SUCCESSES = frozenset({Outcome.CONVERGED, Outcome.ROUNDING_FLOOR, Outcome.SMALL_CHANGE})
"""Outcomes after which nothing better is to be had."""

Optimizers = Mapping[str, type[CurvatureOptimizer[Any]]]


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One iteration in numbers.

    Attributes:
        iteration: Counted from 1.
        loss: At its end.
        largest_grad: ``max |grad|`` there.
        outcome: Why the step ended as it did.
        correction: What became of the inverse Hessian before the step.
        counts: Evaluations so far.
        seconds: Wall time so far.
    """

    iteration: int
    loss: float
    largest_grad: float
    outcome: Outcome
    correction: Correction
    counts: Counts
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """A function tied to its start.

    Attributes:
        parameters: What to train.
        closure: The loss.
        answer: Gives the result in the form of ``x0``.
        counted: Calls of the user's functions; None where each evaluation is one.
        resolution: The relative gradient below which there is nothing but error.
    """

    parameters: list[Tensor]
    closure: Closure
    answer: Callable[[], Any]
    counted: Callable[[], Counts] | None = None
    resolution: float = 0.0


def bound_to_copies(x0: Tree, closure_of: Callable[[Tree], Closure]) -> Bound:
    """A function tied to copies of tensors; those of ``x0`` are never modified.

    Args:
        x0: Tensors in nested dicts, lists or tuples.
        closure_of: Makes the closure from the copies, which have the form of ``x0``.
    """
    variables = map_leaves(lambda leaf: leaf.detach().clone().requires_grad_(leaf.is_floating_point() or leaf.is_complex()), x0)
    return Bound(leaves_of(variables), closure_of(variables), lambda: map_leaves(lambda leaf: leaf.detach(), variables))


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds of a run; None is no bound.

    Attributes:
        maxiter: Iterations.
        maxfun: Evaluations of the loss.
        seconds: Wall time.
    """

    maxiter: int | None
    maxfun: int | None
    seconds: float | None


class Run:
    """One call of ``minimize``: the loop around the optimizer's loop, with its clock and its trace."""

    def __init__(self, bound: Bound, budget: Budget, callback: Callback | None, progress: ProgressLine | None) -> None:
        self.trace: list[TraceRow] = []
        self._closure = bound.closure
        self._counted = bound.counted
        self._budget = budget
        self._callback = callback
        self._owns_line = progress is None
        self._progress = progress or terminal_line()
        self._began = time.perf_counter()
        self._fruitless = 0

    def counts(self, evaluated: Counts) -> Counts:
        """Calls of the user's functions: those the objective counts, or the optimizer's evaluations where each is one call."""
        return evaluated if self._counted is None else self._counted()

    def record(self, iteration: Iteration) -> None:
        """Append a row, show it, pass it on."""
        seconds, counts = time.perf_counter() - self._began, self.counts(iteration.counts)
        row = TraceRow(iteration.number, iteration.loss, iteration.largest_grad, iteration.outcome, iteration.correction, counts, seconds)
        self.trace.append(row)
        self._progress(f"iteration {row.iteration}: loss {row.loss:.6g}, max |grad| {row.largest_grad:.2e}, {seconds:.0f} s")
        if self._callback is not None:
            self._callback(replace(iteration, counts=counts))

    def to_the_end(self, optimizer: CurvatureOptimizer[Any]) -> Outcome:
        """Step until something says stop; the parameters then stand at the best point of the whole run."""
        best: Point | None = None
        try:
            while not self._is_used_up(optimizer):
                optimizer.step(self._closure)
                best = _better(best, optimizer.point)
                if self._is_over(optimizer):
                    assert optimizer.outcome is not None
                    return optimizer.outcome
            return Outcome.BUDGET
        finally:
            if self._owns_line:
                end_line()
            rest = _better(best, optimizer.point)
            if rest is not None:
                optimizer.go_to(rest)

    def _is_used_up(self, optimizer: CurvatureOptimizer[Any]) -> bool:
        if optimizer.outcome is None:
            return False
        budget = self._budget
        if optimizer.iteration >= (200 * optimizer.size if budget.maxiter is None else budget.maxiter):
            return True
        if budget.maxfun is not None and self.counts(optimizer.counts).losses >= budget.maxfun:
            return True
        return budget.seconds is not None and time.perf_counter() - self._began >= budget.seconds

    def _is_over(self, optimizer: CurvatureOptimizer[Any]) -> bool:
        outcome = optimizer.outcome
        if outcome is None or outcome.stops or outcome is Outcome.ZERO_LEARNING_RATE:
            return True
        self._fruitless = self._fruitless + 1 if outcome in _FRUITLESS else 0
        return self._fruitless >= _PATIENCE


def _better(best: Point | None, latest: Point | None) -> Point | None:
    """The finite point of lower loss; the latest where they are equal within rounding, because its gradient is the smaller."""
    if best is None or not best.is_finite or latest is None:
        return latest
    return best if not latest.is_finite or best.loss < latest.loss - best.loss_noise else latest


def status_of(outcome: Outcome) -> int:
    """0 for success, 1 for a used-up budget, 2 for everything else."""
    return 0 if outcome in SUCCESSES else 1 if outcome is Outcome.BUDGET else 2


def refuse_limits(bounds: object, constraints: object, instead: str) -> None:
    """Say that only unconstrained problems are solved.

    Raises:
        TypeError: There are bounds or constraints.
    """
    given = [
        name for name, value in (("bounds", bounds), ("constraints", constraints)) if value is not None and not (isinstance(value, (tuple, list)) and not value)
    ]
    if given:
        raise TypeError(
            f"Expected an unconstrained problem, got {' and '.join(given)}. Change the variables so that every point is feasible (x = exp(u) for x > 0), "
            f"or use {instead}."
        )


def checked_method(method: str, methods: Optimizers, default: str) -> str:
    """The name of a method in lower case.

    Raises:
        TypeError: It is no string.
        ValueError: There is no such method.
    """
    if not isinstance(method, str):
        raise TypeError(f"Expected method to be a name such as {default!r}, got {method!r}. Pass further arguments of fun as args=.")
    if method.lower() not in methods:
        raise ValueError(f"Expected method to be one of {', '.join(methods)}, got {method!r}.{_nearest(method.lower(), methods)}")
    return method.lower()


def takes_argument(fun: Callable[..., Any]) -> bool:
    """Whether ``fun`` wants the module: it has a positional parameter without a default."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is inspect.Parameter.empty for p in inspect.signature(fun).parameters.values())


def split_options(optimizer: type[CurvatureOptimizer[Any]], options: Mapping[str, Any]) -> tuple[Budget, dict[str, Any]]:
    """The bounds of the run, and what goes to the optimizer's constructor.

    Raises:
        ValueError: An option is unknown, or a bound is not positive.
    """
    taken = {"params", "self", "gradient_tolerance", "callback", "iterations_per_step"}
    allowed = [name for name in inspect.signature(optimizer.__init__).parameters if name not in taken]
    for name in options:
        if name not in allowed and name not in _BUDGET_OPTIONS:
            raise ValueError(f"Expected options among {', '.join([*_BUDGET_OPTIONS, *allowed])}, got {name!r}.{_nearest(name, [*_BUDGET_OPTIONS, *allowed])}")
    bounds = {name: options.get(name) for name in _BUDGET_OPTIONS}
    for name, value in bounds.items():
        if value is not None and not value > 0:
            raise ValueError(f"Expected {name} > 0, got {name}={value}.")
    return Budget(**bounds), {name: value for name, value in options.items() if name not in _BUDGET_OPTIONS}


def _nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
