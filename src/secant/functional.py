"""Minimization as a function call, with SciPy's result fields."""

from __future__ import annotations

import difflib
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from secant.closures import Closure
from secant.methods import METHODS
from secant.notice import warn_user
from secant.numpy_objective import NumpyObjective, is_array_like
from secant.objective import Counts
from secant.optimizer import Callback, CurvatureOptimizer, Iteration
from secant.progress import ProgressLine, end_line, terminal_line
from secant.step import Correction, Outcome, Point
from secant.tree import Tree, leaves_of, map_leaves

_BUDGET_OPTIONS = ("maxiter", "maxfun", "seconds")
_SUCCESSES = frozenset({Outcome.CONVERGED, Outcome.ROUNDING_FLOOR, Outcome.SMALL_CHANGE})
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
        x: The point, in the form of ``x0``; for a module, the module itself; for an array-like ``x0``, a NumPy array of shape ``(n,)``.
        fun: The loss there, as ``fun`` returned it.
        grad: Gradient of the minimized number, flat, shape ``(n,)``: of ``-fun`` with ``maximize``, with the weight-decay term. A tensor, or a NumPy array
            where ``x`` is one.
        nit: Iterations.
        nfev: Evaluations of the loss; of a NumPy function, all its calls, those for differences too.
        njev: Evaluations of the gradient, by whatever means.
        nhev: Hessian products; of a NumPy function, calls of ``hess`` (each serves every product at one point) or of ``hessp``.
        success: Whether the run ended at the tolerance or the rounding floor.
        status: 0 for success, 1 for a used-up budget, 2 for everything else.
        message: The outcome's sentence.
        outcome: Why the run ended.
        trace: One row per iteration.
        optimizer: The optimizer, with its curvature.
    """

    x: Any
    fun: float
    grad: Any
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
    def jac(self) -> Any:
        """SciPy's name for the gradient."""
        return self.grad

    @property
    def hess_inv(self) -> Any:
        """The inverse Hessian, corrected with every step, a new tensor (a NumPy array where ``x`` is one) of shape ``(n, n)``.

        Raises:
            RuntimeError: No step was taken: the start was the minimum already, or not finite.
        """
        dense: Tensor = self.optimizer.curvature.dense_inverse()
        return dense.numpy() if isinstance(self.x, np.ndarray) else dense

    def __str__(self) -> str:
        """The result in a few lines."""
        rows = {"message": self.message, "success": self.success, "fun": f"{self.fun:.8g}", "max |grad|": f"{float(abs(self.grad).max()):.3g}"}
        counts = {"nit": self.nit, "nfev": self.nfev, "njev": self.njev, "nhev": self.nhev}
        return "\n".join(f"{name:>10}: {value}" for name, value in {**rows, **counts}.items())


def minimize(
    fun: Callable[..., Any],
    x0: Tree | nn.Module,
    method: str = "ssbroyden",
    *,
    args: Any = (),
    jac: Callable[..., Any] | bool | str | None = None,
    hess: Callable[..., Any] | None = None,
    hessp: Callable[..., Any] | None = None,
    tol: float | None = None,
    bounds: None = None,
    constraints: tuple[()] = (),
    options: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    progress: ProgressLine | None = None,
) -> Result:
    """The minimizer of a scalar function near ``x0``.

    Functions of tensors are differentiated by torch. Functions of NumPy arrays are called as SciPy's ``minimize`` calls them; their derivatives are ``jac``
    and ``hess``, or differences: ``"2-point"`` costs ``n`` more calls per gradient and ends at about half the digits, ``"3-point"`` costs ``2 n`` and ends at
    about two thirds.

    Args:
        fun: ``fun(x, *args)`` with ``x`` in the form of ``x0``; for a module ``fun()`` or ``fun(module)``, or ``fun(module, *args)`` where there are
            ``args``. Returns the loss: a tensor with one number, or a number where ``x0`` is array-like.
        x0: A tensor, or tensors in nested dicts, lists or tuples, which are never modified. Or a module: its trainable parameters are updated in place and
            stand at the best point afterwards, also after an exception. Or array-like of shape ``(n,)`` as in SciPy: integers become float64.
        method: One of ``secant.methods.METHODS``, in any case.
        args: A tuple of further arguments of ``fun``, ``jac``, ``hess`` and ``hessp``; anything else is one argument.
        jac: For array-like ``x0`` only: ``jac(x, *args)`` of shape ``(n,)``; True where ``fun`` returns loss and gradient; ``"2-point"`` (what None means, as
            in SciPy) or ``"3-point"``.
        hess: For array-like ``x0`` only: ``hess(x, *args)``, a matrix (dense or sparse) or ``LinearOperator`` of shape ``(n, n)``, for methods that ask for
            Hessian products. Without it and ``hessp`` these take differences of the gradient, as SciPy's Newton-CG does.
        hessp: For array-like ``x0`` only: ``hessp(x, p, *args)``, the Hessian times ``p``; not used where ``hess`` is given.
        tol: ``max |grad|`` relative to the first one at which the run has converged; 0 goes on to the rounding floor. None is 0, but for differences what
            they resolve: 1e-6 for ``"2-point"``, 1e-9 for ``"3-point"``. Below that a search follows their error.
        bounds: Not supported: None.
        constraints: Not supported: empty.
        options: ``maxiter`` (default ``200 n``), ``maxfun`` and ``seconds`` bound the run and are tested between iterations; the others go to the method's
            constructor, for example ``globalization`` or ``initial_scale``.
        callback: Called with an :class:`~secant.optimizer.Iteration` after each; raising ``StopIteration`` stops.
        progress: Gets a line of text after each iteration; None shows it on stderr where that is a terminal, ``lambda line: None`` shows nothing.

    Returns:
        A :class:`Result`. Cost per iteration: about one evaluation of loss and gradient, and the method's algebra.

    Raises:
        ValueError: An unknown method or option, or an option, ``x0`` or a derivative out of range or of the wrong shape.
        TypeError: ``x0`` holds something other than floating-point or complex tensors or real numbers, bounds or constraints were given, or derivatives for a
            function of tensors.

    Example:
        >>> import torch, secant
        >>> result = secant.minimize(lambda x: ((x - 3.0) ** 2).sum(), torch.zeros(2, dtype=torch.float64))
        >>> result.success, result.x
        (True, tensor([3., 3.], dtype=torch.float64))
        >>> secant.minimize(lambda x: ((x - 3.0) ** 2).sum(), [0.0, 0.0], jac=lambda x: 2.0 * (x - 3.0)).x
        array([3., 3.])
    """
    _refuse_limits(bounds, constraints)
    method = _checked_method(method)
    budget, constructor = _split_options(method, options or {})
    if is_array_like(x0):
        source = NumpyObjective(fun, x0, args, jac=jac, hess=hess, hessp=hessp)
        constructor = _second_derivatives(method, constructor, source, given=hess is not None or hessp is not None)
        bound = _Bound([source.variable], source.loss, lambda: source.variable.detach().numpy(), lambda: source.counts, source.resolution)
    else:
        _refuse_derivatives(jac=jac, hess=hess, hessp=hessp)
        bound = _bind(fun, x0, args if isinstance(args, tuple) else (args,))
    run = _Run(bound, budget, callback, progress)
    optimizer = METHODS[method](bound.parameters, gradient_tolerance=bound.resolution if tol is None else tol, callback=run.record, **constructor)
    outcome = run.to_the_end(optimizer)
    optimizer.correct()
    return _result(bound, run, optimizer, outcome)


@dataclass(frozen=True, slots=True, eq=False)
class _Bound:
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


def _result(bound: _Bound, run: _Run, optimizer: CurvatureOptimizer[Any], outcome: Outcome) -> Result:
    point, counts, answer = optimizer.point, run.counts(optimizer.counts), bound.answer()
    assert point is not None
    success = outcome in _SUCCESSES
    return Result(
        x=answer,
        fun=float(point.reported),
        grad=point.grad.numpy() if isinstance(answer, np.ndarray) else point.grad,
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

    def __init__(self, bound: _Bound, budget: _Budget, callback: Callback | None, progress: ProgressLine | None) -> None:
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


def _bind(fun: Callable[..., Any], x0: Tree | nn.Module, args: tuple[Any, ...]) -> _Bound:
    if isinstance(x0, nn.Module):
        module = x0
        closure = (lambda: fun(module, *args)) if args or _takes_argument(fun) else fun
        return _Bound(list(module.parameters()), closure, lambda: module)
    variables = map_leaves(lambda leaf: leaf.detach().clone().requires_grad_(leaf.is_floating_point() or leaf.is_complex()), x0)
    return _Bound(leaves_of(variables), lambda: fun(variables, *args), lambda: map_leaves(lambda leaf: leaf.detach(), variables))


def _refuse_limits(bounds: object, constraints: object) -> None:
    given = [
        name for name, value in (("bounds", bounds), ("constraints", constraints)) if value is not None and not (isinstance(value, (tuple, list)) and not value)
    ]
    if given:
        raise TypeError(
            f"Expected an unconstrained problem, got {' and '.join(given)}. Change the variables so that every point is feasible (x = exp(u) for x > 0), "
            "or use scipy.optimize.minimize."
        )


def _refuse_derivatives(**given: object) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise TypeError(
            f"Expected {' and '.join(names)} only with an array-like x0: functions of tensors are differentiated by torch. Pass x0 as a NumPy array."
        )


def _second_derivatives(method: str, constructor: dict[str, Any], source: NumpyObjective, *, given: bool) -> dict[str, Any]:
    """The method's options with ``hessian`` chosen for a NumPy function; a Hessian that no one will ask for is said."""
    if "hessian" not in inspect.signature(METHODS[method].__init__).parameters:
        if given:
            warn_user(f"{method} makes no use of hess and hessp: it learns the curvature from gradients. Leave them out, or choose a Newton method.")
        return constructor
    if given or "hessian" in constructor:
        return constructor
    if source.differentiates:
        raise ValueError(f"Expected jac, hess or hessp for {method}: differences of differences are mostly rounding. Pass jac=, or use 'ssbroyden'.")
    return {**constructor, "hessian": "differences"}


def _checked_method(method: str) -> str:
    if not isinstance(method, str):
        raise TypeError(f"Expected method to be a name such as 'ssbroyden', got {method!r}. Pass further arguments of fun as args=.")
    if method.lower() not in METHODS:
        raise ValueError(f"Expected method to be one of {', '.join(METHODS)}, got {method!r}.{_nearest(method.lower(), METHODS)}")
    return method.lower()


def _takes_argument(fun: Callable[..., Any]) -> bool:
    """Whether ``fun`` wants the module: it has a positional parameter without a default."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is inspect.Parameter.empty for p in inspect.signature(fun).parameters.values())


def _split_options(method: str, options: Mapping[str, Any]) -> tuple[_Budget, dict[str, Any]]:
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
