"""The public optimizers of sums of squares: their ``step`` takes the residuals."""

from __future__ import annotations

from types import MappingProxyType
from typing import final

from torch import Tensor

from secant.curvature.curvature import Curvature
from secant.curvature.gauss_newton import GaussNewton as GaussNewtonCurvature
from secant.curvature.gauss_newton import Scaling, SolverName
from secant.globalization.damping import Damping
from secant.globalization.globalization import Globalization
from secant.globalization.hager_zhang import HagerZhang
from secant.globalization.trust_region import TrustRegion
from secant.linearization.choice import Choice
from secant.optimizer import Callback, CurvatureOptimizer, Params

AnyGlobalization = Damping | TrustRegion | Globalization[Curvature]


class _LeastSquares(CurvatureOptimizer[GaussNewtonCurvature]):
    """The constructor and the ``choice`` that the methods of least squares share."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor,
        curvature: GaussNewtonCurvature,
        globalization: AnyGlobalization,
        *,
        weight_decay: float,
        iterations_per_step: int,
        gradient_tolerance: float,
        max_step_length: float | None,
        callback: Callback | None,
    ) -> None:
        super().__init__(
            params,
            curvature,
            globalization,  # type: ignore[arg-type]  # the model serves every globalization
            lr=lr,
            weight_decay=weight_decay,
            iterations_per_step=iterations_per_step,
            gradient_tolerance=gradient_tolerance,
            max_step_length=max_step_length,
            callback=callback,
        )

    @property
    def choice(self) -> Choice | None:
        """Which solver computes the steps, and why; None before the first."""
        return self.curvature.choice


@final
class LevenbergMarquardt(_LeastSquares):
    """Levenberg-Marquardt: damped Gauss-Newton steps for a sum of squares, bent by corrections that cost residuals alone.

    The choice for fits and physics-informed nets of up to some thousands of parameters in float64: near a good fit it converges quadratically where secant
    methods need hundreds of steps. ``step`` takes the residuals, not a loss::

        optimizer = secant.LevenbergMarquardt(model.parameters())
        loss = optimizer.step(lambda: model(inputs).squeeze(1) - targets)

    and returns ``0.5 * sum(r^2)``. The residuals are one of

    - a function that returns a tensor of shape ``(N,)``, or a tuple of such blocks, each with its weight multiplied in. Its Jacobian is made by automatic
      differentiation of its own graph, which is kept whole, at ``min(N, n)`` backward passes: for small fits;
    - a :class:`secant.RowResidual`, given as a function of its rows: memory is bounded by a block of rows;
    - a :class:`secant.derivatives.PointResidual`, which knows its own Jacobian at the cost of a few passes: for networks;
    - a list of any of these.

    Args:
        params: As for every torch optimizer.
        lr: Divides the first damping; see :class:`~secant.optimizer.CurvatureOptimizer`, as all other options. The ratios between groups play no part.
        damping: The first damping, relative to the largest curvature along a parameter.
        corrections: Most corrections of a trial with the factors at hand, each at one evaluation of the residuals; 0 for straight steps.
        accelerate: Whether steps start with the geodesic acceleration, at one evaluation of the residuals for each trial; see :class:`~secant.Damping`.
        solver: ``"cholesky"`` of ``J' J``; ``"qr"`` of ``J`` with singular values; ``"woodbury"``, of ``J J'``, for fewer residuals than parameters; ``"cg"``,
            without a Jacobian; ``"sketch"`` of its rows; ``"auto"`` chooses, see :attr:`choice`.
        scaling: ``"identity"``: the damping treats all parameters alike; ``"columns"``: each by the norm of its column of ``J`` (More 1978).
        jacobian_every: The Jacobian is exact at every so manieth iteration and corrected by a rank-one term between (Broyden).
        globalization: :class:`~secant.Damping` (the default, from the three options above), :class:`~secant.TrustRegion` or a line search.
        weight_decay: Becomes part of the objective, as further residuals.
        iterations_per_step: Iterations in one call of ``step``.
        gradient_tolerance: Relative to the first gradient.
        max_step_length: Largest distance an iteration may move the parameters.
        callback: Called after each iteration.

    Example:
        >>> import torch, secant
        >>> t = torch.linspace(0.0, 1.0, 20, dtype=torch.float64)
        >>> data = 2.0 * torch.exp(-3.0 * t)
        >>> x = torch.ones(2, dtype=torch.float64, requires_grad=True)
        >>> optimizer = secant.LevenbergMarquardt([x], iterations_per_step=50)
        >>> loss = optimizer.step(lambda: x[0] * torch.exp(-x[1] * t) - data)
        >>> torch.allclose(x, torch.tensor([2.0, 3.0], dtype=torch.float64))
        True

    Source:
        Levenberg (1944); Marquardt (1963); Madsen, Nielsen & Tingleff (2004); Transtrum & Sethna (2012), arXiv 1201.5885.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        *,
        damping: float = 1e-3,
        corrections: int = 6,
        accelerate: bool = False,
        solver: SolverName = "auto",
        scaling: Scaling = "identity",
        jacobian_every: int = 1,
        globalization: AnyGlobalization | None = None,
        weight_decay: float = 0.0,
        iterations_per_step: int = 1,
        gradient_tolerance: float = 0.0,
        max_step_length: float | None = None,
        callback: Callback | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            GaussNewtonCurvature(solver=solver, scaling=scaling, jacobian_every=jacobian_every),
            Damping(initial=damping, corrections=corrections, accelerate=accelerate) if globalization is None else globalization,
            weight_decay=weight_decay,
            iterations_per_step=iterations_per_step,
            gradient_tolerance=gradient_tolerance,
            max_step_length=max_step_length,
            callback=callback,
        )


@final
class GaussNewton(_LeastSquares):
    """Gauss-Newton: undamped steps ``-(J' J)^+ J' r`` with a line search. In function space it is the energy natural gradient.

    Where ``J`` is nearly rank-deficient its steps are wild; :class:`LevenbergMarquardt` is the safer choice. ``step`` takes the residuals, as there.

    Args:
        params: As for every torch optimizer.
        lr: See :class:`~secant.optimizer.CurvatureOptimizer`, as all other options. The ratios between groups play no part.
        solver: See :class:`LevenbergMarquardt`.
        jacobian_every: See :class:`LevenbergMarquardt`.
        globalization: Any line search (Hager and Zhang's by default), :class:`~secant.TrustRegion` or :class:`~secant.Damping`.
        weight_decay: Becomes part of the objective, as further residuals.
        iterations_per_step: Iterations in one call of ``step``.
        gradient_tolerance: Relative to the first gradient.
        max_step_length: Largest distance an iteration may move the parameters.
        callback: Called after each iteration.

    Source:
        Nocedal & Wright (2006), section 10.3; Mueller & Zeinhofer (2023), arXiv 2302.13163.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        *,
        solver: SolverName = "auto",
        jacobian_every: int = 1,
        globalization: AnyGlobalization | None = None,
        weight_decay: float = 0.0,
        iterations_per_step: int = 1,
        gradient_tolerance: float = 0.0,
        max_step_length: float | None = None,
        callback: Callback | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            GaussNewtonCurvature(solver=solver, jacobian_every=jacobian_every),
            HagerZhang() if globalization is None else globalization,
            weight_decay=weight_decay,
            iterations_per_step=iterations_per_step,
            gradient_tolerance=gradient_tolerance,
            max_step_length=max_step_length,
            callback=callback,
        )


RESIDUAL_METHODS: MappingProxyType[str, type[LevenbergMarquardt | GaussNewton]] = MappingProxyType({"gaussnewton": GaussNewton, "lm": LevenbergMarquardt})
"""The methods whose ``step`` takes residuals, by the name that ``least_squares`` and the race know them by."""
