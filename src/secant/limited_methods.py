"""The public optimizers that keep the newest secant pairs instead of a matrix."""

from __future__ import annotations

import math
from typing import Literal, final

import torch.distributed as dist
from torch import Tensor

from secant.curvature.curvature import Curvature
from secant.curvature.initial import InitialScale, checked_initial_scale
from secant.curvature.limited_bfgs import LimitedBFGS
from secant.curvature.limited_sr1 import LimitedSR1
from secant.globalization.fixed_step import FixedStep
from secant.globalization.globalization import Globalization
from secant.globalization.hager_zhang import HagerZhang
from secant.globalization.strong_wolfe import StrongWolfe
from secant.globalization.trust_region import TrustRegion
from secant.optimizer import Callback, CurvatureOptimizer, Params, StepLimits

LineSearchName = Literal["hager_zhang", "strong_wolfe"]


@final
class LBFGS(CurvatureOptimizer[Curvature]):
    """Limited-memory BFGS, in the place of ``torch.optim.LBFGS``.

    The arguments up to ``line_search_fn`` are torch's, in torch's order and with torch's meaning; ``state_dict`` is not. Memory: ``2 history_size`` numbers per
    parameter, allocated as the pairs come. Each iteration reads the stored pairs twice, beside about one evaluation.

    What is left out behaves otherwise than in torch: ``step`` takes one iteration, as in every optimizer of this library; the line search is Hager and Zhang's;
    no absolute tolerance ends a step. And in every case curvature tests are relative, NaN is survived, groups may have different options, and the first
    direction has length 1 (times ``lr``), where torch's is ``min(1, 1/|g|_1)`` times the gradient.

    Args:
        params: As for every torch optimizer.
        lr: Multiplies the first trial of every search, and without a search the step.
        max_iter: Iterations in one call of ``step``; None for ``iterations_per_step``. torch's default is 20.
        max_eval: A call of ``step`` begins no further iteration once it made so many evaluations; None for any number. torch's default is ``1.25 max_iter``.
        tolerance_grad: ``max |grad|``, absolute, at which the outcome is ``CONVERGED``; None for no such test. torch's default is 1e-7.
        tolerance_change: ``|loss change|`` or ``max |parameter change|`` of one iteration, absolute, at which the outcome is ``SMALL_CHANGE``; None for no such
            test. torch's default is 1e-9.
        history_size: ``m``, the number of pairs.
        line_search_fn: ``"hager_zhang"``; ``"strong_wolfe"`` for :class:`~secant.StrongWolfe`; None for :class:`~secant.FixedStep`, as in torch.
        globalization: A line search with its own options, instead of ``line_search_fn``.
        initial_scale: ``"auto"``: ``gamma = s.y / y.y`` of the newest pair, ``1 / |g|`` before the first; or a positive number, ``gamma`` throughout.
        weight_decay: See :class:`~secant.optimizer.CurvatureOptimizer`, as all options below.
        maximize: Maximize instead.
        iterations_per_step: This library's name for ``max_iter``.
        gradient_tolerance: Relative to the first gradient.
        max_step_length: Largest distance an iteration may move the parameters.
        callback: Called after each iteration.
        process_group: Ranks to reduce over.
        reduction: ``"mean"`` or ``"sum"``.

    Example:
        >>> import torch, secant
        >>> x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = secant.LBFGS([x], max_iter=100, history_size=10)
        >>> loss = optimizer.step(lambda: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)
        >>> torch.allclose(x, torch.ones(2, dtype=torch.float64))
        True

    Source:
        Liu & Nocedal (1989), Math. Program. 45; in the compact form of Byrd, Nocedal & Schnabel (1994), theorem 2.2.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        max_iter: int | None = None,
        max_eval: int | None = None,
        tolerance_grad: float | None = None,
        tolerance_change: float | None = None,
        history_size: int = 100,
        line_search_fn: LineSearchName | None = "hager_zhang",
        *,
        globalization: Globalization[Curvature] | None = None,
        initial_scale: InitialScale = "auto",
        weight_decay: float = 0.0,
        maximize: bool = False,
        iterations_per_step: int = 1,
        gradient_tolerance: float = 0.0,
        max_step_length: float | None = None,
        callback: Callback | None = None,
        process_group: dist.ProcessGroup | None = None,
        reduction: str = "mean",
    ) -> None:
        _check_history(history_size)
        limits = _checked_limits(max_eval, tolerance_grad, tolerance_change)
        super().__init__(
            params,
            LimitedBFGS(memory=history_size, initial=checked_initial_scale(initial_scale)),
            _line_search(line_search_fn, globalization),
            lr=lr,
            weight_decay=weight_decay,
            maximize=maximize,
            iterations_per_step=_iterations(max_iter, iterations_per_step),
            gradient_tolerance=gradient_tolerance,
            max_step_length=max_step_length,
            callback=callback,
            process_group=process_group,
            reduction=reduction,
        )
        self._limits = limits


@final
class LSR1(CurvatureOptimizer[Curvature]):
    """Limited-memory SR1, in a trust region by default.

    It learns negative curvature and uses it, at the price of a limited-memory method: the trust-region subproblem is solved exactly in the eigenbasis of the
    model. Memory: ``2 history_size`` numbers per parameter, allocated as the pairs come.

    Args:
        params: As for every torch optimizer.
        lr: See :class:`~secant.optimizer.CurvatureOptimizer`, as all other options; here it multiplies the first trust radius.
        history_size: ``m``, the number of pairs.
        globalization: A trust region (the default) or any line search.
        initial_scale: ``"auto"`` or a positive number ``c`` for ``H = c I`` before the pairs.
        weight_decay: Becomes part of the objective.
        maximize: Maximize instead.
        iterations_per_step: Iterations in one call of ``step``.
        gradient_tolerance: Relative to the first gradient.
        max_step_length: Largest distance an iteration may move the parameters.
        callback: Called after each iteration.
        process_group: Ranks to reduce over.
        reduction: ``"mean"`` or ``"sum"``.

    Source:
        Byrd, Nocedal & Schnabel (1994), theorem 5.1; Brust, Erway & Marcia (2017), Comput. Optim. Appl. 66.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        *,
        history_size: int = 20,
        globalization: TrustRegion | Globalization[Curvature] | None = None,
        initial_scale: InitialScale = "auto",
        weight_decay: float = 0.0,
        maximize: bool = False,
        iterations_per_step: int = 1,
        gradient_tolerance: float = 0.0,
        max_step_length: float | None = None,
        callback: Callback | None = None,
        process_group: dist.ProcessGroup | None = None,
        reduction: str = "mean",
    ) -> None:
        _check_history(history_size)
        super().__init__(
            params,
            LimitedSR1(memory=history_size, initial=checked_initial_scale(initial_scale)),
            globalization or TrustRegion(),  # type: ignore[arg-type]  # a globalization of any quadratic model works with this one
            lr=lr,
            weight_decay=weight_decay,
            maximize=maximize,
            iterations_per_step=iterations_per_step,
            gradient_tolerance=gradient_tolerance,
            max_step_length=max_step_length,
            callback=callback,
            process_group=process_group,
            reduction=reduction,
        )


def _line_search(name: LineSearchName | None, globalization: Globalization[Curvature] | None) -> Globalization[Curvature]:
    if globalization is not None:
        if name != "hager_zhang":
            raise ValueError(f"Expected line_search_fn or globalization, got both: {name!r} and {type(globalization).__name__}. Leave one out.")
        return globalization
    match name:
        case None:
            return FixedStep()
        case "hager_zhang":
            return HagerZhang()
        case "strong_wolfe":
            return StrongWolfe()
    raise ValueError(f"Expected line_search_fn to be 'hager_zhang', 'strong_wolfe' or None, got {name!r}. Pass other searches as globalization=.")


def _iterations(max_iter: int | None, iterations_per_step: int) -> int:
    if max_iter is None:
        return iterations_per_step
    if iterations_per_step not in (1, max_iter):
        raise ValueError(f"Expected max_iter or iterations_per_step, got both: {max_iter} and {iterations_per_step}. Leave one out: they mean the same.")
    if max_iter < 1:
        raise ValueError(f"Expected max_iter >= 1, got {max_iter}.")
    return max_iter


def _checked_limits(max_eval: int | None, tolerance_grad: float | None, tolerance_change: float | None) -> StepLimits:
    if max_eval is not None and max_eval < 1:
        raise ValueError(f"Expected max_eval >= 1, got {max_eval}. Leave it out for any number.")
    for name, value in (("tolerance_grad", tolerance_grad), ("tolerance_change", tolerance_change)):
        if value is not None and not 0.0 <= value < math.inf:
            raise ValueError(f"Expected 0 <= {name} < inf, got {value}. Leave it out for no absolute test.")
    return StepLimits(math.inf if max_eval is None else max_eval, tolerance_grad or 0.0, tolerance_change or 0.0)


def _check_history(history_size: int) -> None:
    if isinstance(history_size, bool) or not isinstance(history_size, int) or history_size < 1:
        raise ValueError(f"Expected history_size to be a whole number >= 1, got {history_size!r}.")
