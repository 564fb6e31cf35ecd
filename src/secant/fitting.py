"""Least squares as a function call, with SciPy's result fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from secant.curvature.gauss_newton import GaussNewton
from secant.linearization.rows import StoredRows
from secant.optimizer import Callback, CurvatureOptimizer
from secant.progress import ProgressLine
from secant.residual_methods import RESIDUAL_METHODS
from secant.residuals import Residual, ResidualClosure, RowResidual, SumOfSquares
from secant.run import SUCCESSES, Bound, Run, TraceRow, bound_to_copies, checked_method, refuse_limits, split_options, status_of
from secant.step import Outcome
from secant.tree import Tree

ResidualFunction = Callable[..., Any]

_LEAST_ITERATIONS = 2000  # the longest curved valley of NIST's certified regressions takes 1,300 with three parameters


@dataclass(frozen=True, slots=True, eq=False)
class LeastSquaresResult:
    """What :func:`least_squares` found; the field names are SciPy's.

    Attributes:
        x: The point, in the form of ``x0``; for a module, the module itself.
        cost: ``0.5 * sum(fun^2)``.
        fun: The residuals at ``x``, shape ``(N,)``.
        jac: Their Jacobian there, shape ``(N, n)``, the parameters flattened one after another; None where it was too large to be kept.
        grad: ``J' fun``, shape ``(n,)``, with the weight-decay term.
        optimality: ``max |grad|``.
        nit: Iterations.
        nfev: Evaluations of the residuals.
        njev: Evaluations of the Jacobian.
        status: 0 for success, 1 for a used-up budget, 2 for everything else.
        message: Why the run ended, and how the steps were computed.
        success: Whether it ended at the tolerance or the rounding floor.
        outcome: Why the run ended.
        trace: One row per iteration.
        optimizer: The optimizer, with its curvature.
    """

    x: Any
    cost: float
    fun: Tensor
    jac: Tensor | None
    grad: Tensor
    optimality: float
    nit: int
    nfev: int
    njev: int
    status: int
    message: str
    success: bool
    outcome: Outcome
    trace: tuple[TraceRow, ...]
    optimizer: CurvatureOptimizer[Any]

    def covariance(self) -> Tensor:
        """The estimated covariance of the fitted parameters, ``2 cost / (N - n) (J' J)^+``, shape ``(n, n)``, as ``scipy.optimize.curve_fit`` returns it.

        Raises:
            ValueError: There are no more residuals than parameters.
        """
        freedom = self.fun.numel() - self.grad.numel()
        if freedom < 1:
            raise ValueError(f"Expected more residuals than parameters, got {self.fun.numel()} and {self.grad.numel()}: their variance cannot be estimated.")
        inverse: Tensor = self.optimizer.curvature.dense_inverse()
        return 2.0 * self.cost / freedom * inverse

    def __str__(self) -> str:
        """The result in a few lines."""
        rows = {"message": self.message, "success": self.success, "cost": f"{self.cost:.8g}", "optimality": f"{self.optimality:.3g}"}
        counts = {"nit": self.nit, "nfev": self.nfev, "njev": self.njev}
        return "\n".join(f"{name:>10}: {value}" for name, value in {**rows, **counts}.items())


def least_squares(
    residual: ResidualFunction | Sequence[ResidualFunction],
    x0: Tree | nn.Module,
    method: str = "lm",
    *,
    size: int | None = None,
    tol: float = 0.0,
    bounds: None = None,
    options: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
    progress: ProgressLine | None = None,
) -> LeastSquaresResult:
    """The minimizer of ``0.5 * sum(r(x)^2)`` near ``x0``.

    Args:
        residual: ``residual(x)`` with ``x`` in the form of ``x0`` returns the residuals, a tensor of shape ``(N,)`` or a tuple of such blocks with their
            weights multiplied in; for a module ``residual()``, or a :class:`~secant.derivatives.PointResidual` or another :class:`~secant.residuals.Residual`.
            Also a list of such functions, whose blocks are evaluated one after another. With ``size`` it takes one more argument, the rows wanted
            (a ``slice``), and memory is bounded by a block of them.
        x0: A tensor, or tensors in nested dicts, lists or tuples, which are never modified. Or a module: its trainable parameters are updated in place and
            stand at the best point afterwards, also after an exception.
        method: ``"lm"`` (:class:`secant.LevenbergMarquardt`) or ``"gaussnewton"`` (:class:`secant.GaussNewton`).
        size: ``N``, where ``residual`` is a function of its rows.
        tol: ``max |grad|`` relative to the first one at which the run has converged; 0 goes on to the rounding floor.
        bounds: Not supported: None.
        options: ``maxiter`` (2,000 or ``200 n``, the larger), ``maxfun`` and ``seconds`` bound the run; the others go to the method's constructor, for example
            ``solver`` or ``corrections``.
        callback: Called with an :class:`~secant.optimizer.Iteration` after each; raising ``StopIteration`` stops.
        progress: Gets a line of text after each iteration; None shows it on stderr where that is a terminal.

    Returns:
        A :class:`LeastSquaresResult`. Cost per iteration: one Jacobian, two or three evaluations of the residuals and the solver's algebra.

    Raises:
        TypeError: Bounds were given, ``x0`` holds something other than tensors, or the residuals are not real floating-point tensors.
        ValueError: An unknown method or option, residuals that are not one-dimensional, or whose number changes between calls.

    Example:
        >>> import torch, secant
        >>> t = torch.linspace(0.0, 1.0, 20, dtype=torch.float64)
        >>> x0 = {"scale": torch.tensor(1.0, dtype=torch.float64), "rate": torch.tensor(1.0, dtype=torch.float64)}
        >>> fit = secant.least_squares(lambda x: x["scale"] * torch.exp(-x["rate"] * t) - 2.0 * torch.exp(-3.0 * t), x0)
        >>> fit.success, fit.x["rate"]
        (True, tensor(3., dtype=torch.float64))
    """
    refuse_limits(bounds, (), "scipy.optimize.least_squares")
    method = checked_method(method, RESIDUAL_METHODS, "lm")
    budget, constructor = split_options(RESIDUAL_METHODS[method], options or {})
    bound = _bind(residual, x0, size)
    if budget.maxiter is None:
        budget = replace(budget, maxiter=max(_LEAST_ITERATIONS, 200 * sum(parameter.numel() for parameter in bound.parameters)))
    run = Run(bound, budget, callback, progress)
    optimizer = RESIDUAL_METHODS[method](bound.parameters, gradient_tolerance=tol, callback=run.record, **constructor)
    outcome = run.to_the_end(optimizer)
    optimizer.correct()
    if optimizer.curvature.age > 0:  # a corrected Jacobian is not what the result shall show
        optimizer.curvature.reset()
        optimizer.correct()
    return _result(bound, run, optimizer, outcome)


def _bind(residual: ResidualFunction | Sequence[ResidualFunction], x0: Tree | nn.Module, size: int | None) -> Bound:
    functions = tuple(residual) if isinstance(residual, (list, tuple)) else (residual,)
    if size is not None and len(functions) != 1:
        raise ValueError(f"Expected one residual function with size={size}, got {len(functions)}. Use secant.RowResidual for each of them.")
    if isinstance(x0, nn.Module):
        module = x0
        parts: Sequence[ResidualClosure] = functions if size is None else (RowResidual(functions[0], size),)
        return Bound(list(module.parameters()), SumOfSquares(parts), lambda: module)

    def closure_of(variables: Tree) -> SumOfSquares:
        return SumOfSquares([_of(f, variables) for f in functions] if size is None else [RowResidual(lambda rows: functions[0](variables, rows), size)])

    return bound_to_copies(x0, closure_of)


def _of(function: ResidualFunction, variables: Tree) -> ResidualClosure:
    if not callable(function):
        raise TypeError(f"Expected a function that returns the residuals, got {type(function).__name__}. Pass it without calling it.")
    if isinstance(function, Residual):
        raise TypeError(f"Expected a function of x beside tensors to start from, got a {type(function).__name__}. Pass its module as x0.")
    return lambda: function(variables)


def _result(bound: Bound, run: Run, optimizer: CurvatureOptimizer[GaussNewton], outcome: Outcome) -> LeastSquaresResult:
    point, counts, squares = optimizer.point, optimizer.counts, bound.closure
    assert point is not None
    assert isinstance(squares, SumOfSquares)
    curvature = optimizer.curvature
    rows, choice = curvature.rows if point.is_finite else None, curvature.choice
    fun = squares.values()
    squares.forget()
    solver = "" if choice is None else f" Steps by {choice.solver.value}: {choice.reason}."
    return LeastSquaresResult(
        x=bound.answer(),
        cost=float(point.reported),
        fun=fun,
        jac=rows.jacobian()[: fun.numel()] if isinstance(rows, StoredRows) else None,
        grad=point.grad,
        optimality=point.largest_grad,
        nit=optimizer.iteration,
        nfev=counts.losses,
        njev=counts.jacobians,
        status=status_of(outcome),
        message=f"{outcome.sentence}{solver}",
        success=outcome in SUCCESSES,
        outcome=outcome,
        trace=tuple(run.trace),
        optimizer=optimizer,
    )
