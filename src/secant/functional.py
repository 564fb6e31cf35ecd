"""Minimization as a function call, with SciPy's result fields."""

from __future__ import annotations

import difflib
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from secant.methods import METHODS
from secant.objective import Closure, Counts
from secant.optimizer import Callback, CurvatureOptimizer, Iteration
from secant.progress import ProgressLine, end_line, terminal_line
from secant.step import Correction, Outcome, Point
from secant.tree import Tree, leaves_of, map_leaves

_BUDGET_OPTIONS = ("maxiter", "maxfun", "seconds")
_SUCCESSES = frozenset({Outcome.CONVERGED, Outcome.ROUNDING_FLOOR})
_FRUITLESS = frozenset({Outcome.NOT_FINITE, Outcome.NO_DECREASE, Outcome.NO_DESCENT})
_PATIENCE = 3  # fruitless iterations in a row after which another is not worth its evaluations


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
class Result:
    """What :func:`minimize` found; the field names are SciPy's.

    Attributes:
        x: The point, in the form of ``x0``; for a module, the module itself.
        fun: The loss there, as ``fun`` returned it.
        grad: Gradient of the minimized number, flat, shape ``(n,)``: of ``-fun`` with ``maximize``, with the weight-decay term.
        nit: Iterations.
        nfev: Evaluations of the loss.
        njev: Evaluations of the gradient.
        nhev: Hessian products.
        success: Whether the run ended at the tolerance or the rounding floor.
        status: 0 for success, 1 for a used-up budget, 2 for everything else.
        message: The outcome's sentence.
        outcome: Why the run ended.
        trace: One row per iteration.
        optimizer: The optimizer, with its curvature.
    """

    x: Any
    fun: float
    grad: Tensor
    nit: int
    nfev: int
    njev: int
    nhev: int
    success: bool
    status: int
    message: str
    outcome: Outcome
    trace: tuple[TraceRow, ...]
    optimizer: CurvatureOptimizer[Any]

    @property
    def jac(self) -> Tensor:
        """SciPy's name for the gradient."""
        return self.grad

    @property
    def hess_inv(self) -> Tensor:
        """The inverse Hessian, corrected with every step, a new tensor of shape ``(n, n)``.

        Raises:
            RuntimeError: No step was taken: the start was the minimum already, or not finite.
        """
        dense: Tensor = self.optimizer.curvature.dense_inverse()
        return dense

    def __str__(self) -> str:
        """The result in a few lines."""
        rows = {"message": self.message, "success": self.success, "fun": f"{self.fun:.8g}", "max |grad|": f"{float(self.grad.abs().amax()):.3g}"}
        counts = {"nit": self.nit, "nfev": self.nfev, "njev": self.njev, "nhev": self.nhev}
        return "\n".join(f"{name:>10}: {value}" for name, value in {**rows, **counts}.items())


def minimize(
    fun: Callable[..., Any],
    x0: Tree | nn.Module,
    method: str = "ssbroyden",
    *,
    tol: float = 0.0,
    options: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    progress: ProgressLine | None = None,
) -> Result:
    """The minimizer of a scalar function near ``x0``.

    Args:
        fun: ``fun(x)`` with ``x`` in the form of ``x0``; for a module ``fun()`` or ``fun(module)``. Returns the loss, a tensor with one number.
        x0: A tensor, or tensors in nested dicts, lists or tuples, which are never modified. Or a module: its trainable parameters are updated in place and
            stand at the best point afterwards, also after an exception.
        method: ``"bfgs"``, ``"broyden"``, ``"dfp"``, ``"sr1"``, ``"ssbfgs"`` or ``"ssbroyden"``, in any case.
        tol: ``max |grad|`` relative to the first one at which the run has converged; 0 goes on to the rounding floor.
        options: ``maxiter`` (default ``200 n``), ``maxfun`` and ``seconds`` bound the run and are tested between iterations; the others go to the method's
            constructor, for example ``globalization`` or ``initial_scale``.
        callback: Called with an :class:`~secant.optimizer.Iteration` after each; raising ``StopIteration`` stops.
        progress: Gets a line of text after each iteration; None shows it on stderr where that is a terminal, ``lambda line: None`` shows nothing.

    Returns:
        A :class:`Result`. Cost per iteration: about one evaluation of loss and gradient, and the method's algebra.

    Raises:
        ValueError: An unknown method or option, or an option out of range.
        TypeError: ``x0`` holds something other than floating-point or complex tensors.

    Example:
        >>> import torch, secant
        >>> result = secant.minimize(lambda x: ((x - 3.0) ** 2).sum(), torch.zeros(2, dtype=torch.float64))
        >>> result.success, result.x
        (True, tensor([3., 3.], dtype=torch.float64))
    """
    method = method.lower()
    budget, constructor = _split_options(method, options or {})
    parameters, closure, answer = _bind(fun, x0)
    run = _Run(closure, budget, callback, progress)
    optimizer = METHODS[method](parameters, gradient_tolerance=tol, callback=run.record, **constructor)
    outcome = run.to_the_end(optimizer)
    optimizer.correct()
    point, counts = optimizer.point, optimizer.counts
    assert point is not None
    success = outcome in _SUCCESSES
    return Result(
        x=answer(),
        fun=float(point.reported),
        grad=point.grad,
        nit=optimizer.iteration,
        nfev=counts.losses,
        njev=counts.gradients,
        nhev=counts.hessian_products,
        success=success,
        status=0 if success else 1 if outcome is Outcome.BUDGET else 2,
        message=outcome.sentence,
        outcome=outcome,
        trace=tuple(run.trace),
        optimizer=optimizer,
    )


@dataclass(frozen=True, slots=True)
class _Budget:
    maxiter: int | None
    maxfun: int | None
    seconds: float | None


class _Run:
    """One call of ``minimize``: the loop around the optimizer's loop, with its clock and its trace."""

    def __init__(self, closure: Closure, budget: _Budget, callback: Callback | None, progress: ProgressLine | None) -> None:
        self.trace: list[TraceRow] = []
        self._closure = closure
        self._budget = budget
        self._callback = callback
        self._owns_line = progress is None
        self._progress = progress or terminal_line()
        self._began = time.perf_counter()
        self._fruitless = 0

    def record(self, iteration: Iteration) -> None:
        """Append a row, show it, pass it on."""
        seconds = time.perf_counter() - self._began
        row = TraceRow(iteration.number, iteration.loss, iteration.largest_grad, iteration.outcome, iteration.correction, iteration.counts, seconds)
        self.trace.append(row)
        self._progress(f"iteration {row.iteration}: loss {row.loss:.6g}, max |grad| {row.largest_grad:.2e}, {seconds:.0f} s")
        if self._callback is not None:
            self._callback(iteration)

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
        if budget.maxfun is not None and optimizer.counts.losses >= budget.maxfun:
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


def _bind(fun: Callable[..., Any], x0: Tree | nn.Module) -> tuple[list[Tensor], Closure, Callable[[], Any]]:
    """The tensors to train, the closure over them, and how to give the answer back in the form of ``x0``."""
    if isinstance(x0, nn.Module):
        module = x0
        closure = (lambda: fun(module)) if _takes_argument(fun) else fun
        return list(module.parameters()), closure, lambda: module
    variables = map_leaves(lambda leaf: leaf.detach().clone().requires_grad_(leaf.is_floating_point() or leaf.is_complex()), x0)
    return leaves_of(variables), lambda: fun(variables), lambda: map_leaves(lambda leaf: leaf.detach(), variables)


def _takes_argument(fun: Callable[..., Any]) -> bool:
    """Whether ``fun`` wants the module: it has a positional parameter without a default."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is inspect.Parameter.empty for p in inspect.signature(fun).parameters.values())


def _split_options(method: str, options: Mapping[str, Any]) -> tuple[_Budget, dict[str, Any]]:
    if method not in METHODS:
        raise ValueError(f"Expected method to be one of {', '.join(METHODS)}, got {method!r}.{_nearest(method, METHODS)}")
    taken = {"params", "self", "gradient_tolerance", "callback", "iterations_per_step"}
    allowed = [name for name in inspect.signature(METHODS[method].__init__).parameters if name not in taken]
    for name in options:
        if name not in allowed and name not in _BUDGET_OPTIONS:
            raise ValueError(f"Expected options among {', '.join([*_BUDGET_OPTIONS, *allowed])}, got {name!r}.{_nearest(name, [*_BUDGET_OPTIONS, *allowed])}")
    bounds = {name: options.get(name) for name in _BUDGET_OPTIONS}
    for name, value in bounds.items():
        if value is not None and not value > 0:
            raise ValueError(f"Expected {name} > 0, got {name}={value}.")
    return _Budget(**bounds), {name: value for name, value in options.items() if name not in _BUDGET_OPTIONS}


def _nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
