"""Minimization as a function call, with SciPy's result fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from secant.methods import METHODS
from secant.notice import warn_user
from secant.numpy_objective import NumpyObjective, is_array_like
from secant.optimizer import Callback, CurvatureOptimizer
from secant.progress import ProgressLine
from secant.run import SUCCESSES, Bound, Run, TraceRow, bound_to_copies, checked_method, refuse_limits, split_options, status_of, takes_argument
from secant.step import Outcome
from secant.tree import Tree


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
    refuse_limits(bounds, constraints, "scipy.optimize.minimize")
    method = checked_method(method, METHODS, "ssbroyden")
    budget, constructor = split_options(METHODS[method], options or {})
    if is_array_like(x0):
        source = NumpyObjective(fun, x0, args, jac=jac, hess=hess, hessp=hessp)
        constructor = _second_derivatives(method, constructor, source, given=hess is not None or hessp is not None)
        bound = Bound([source.variable], source.loss, lambda: source.variable.detach().numpy(), lambda: source.counts, source.resolution)
    else:
        _refuse_derivatives(jac=jac, hess=hess, hessp=hessp)
        bound = _bind(fun, x0, args if isinstance(args, tuple) else (args,))
    run = Run(bound, budget, callback, progress)
    optimizer = METHODS[method](bound.parameters, gradient_tolerance=bound.resolution if tol is None else tol, callback=run.record, **constructor)
    outcome = run.to_the_end(optimizer)
    optimizer.correct()
    return _result(bound, run, optimizer, outcome)


def _result(bound: Bound, run: Run, optimizer: CurvatureOptimizer[Any], outcome: Outcome) -> Result:
    point, counts, answer = optimizer.point, run.counts(optimizer.counts), bound.answer()
    assert point is not None
    return Result(
        x=answer,
        fun=float(point.reported),
        grad=point.grad.numpy() if isinstance(answer, np.ndarray) else point.grad,
        nit=optimizer.iteration,
        nfev=counts.losses,
        njev=counts.gradients,
        nhev=counts.hessian_products,
        success=outcome in SUCCESSES,
        status=status_of(outcome),
        message=outcome.sentence,
        outcome=outcome,
        trace=tuple(run.trace),
        optimizer=optimizer,
    )


def _bind(fun: Callable[..., Any], x0: Tree | nn.Module, args: tuple[Any, ...]) -> Bound:
    if isinstance(x0, nn.Module):
        module = x0
        closure = (lambda: fun(module, *args)) if args or takes_argument(fun) else fun
        return Bound(list(module.parameters()), closure, lambda: module)
    return bound_to_copies(x0, lambda variables: lambda: fun(variables, *args))


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
