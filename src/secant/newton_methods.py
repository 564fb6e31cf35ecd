"""The public optimizers that use the Hessian itself, by products."""

from __future__ import annotations

from abc import abstractmethod
from typing import final

import torch.distributed as dist
from torch import Tensor

from secant.curvature.curvature import Curvature
from secant.curvature.exact import Derivative, ExactHessian
from secant.curvature.initial import InitialScale, checked_initial_scale
from secant.globalization.cubic import Cubic
from secant.globalization.globalization import Globalization
from secant.globalization.hager_zhang import HagerZhang
from secant.globalization.trust_region import TrustRegion
from secant.optimizer import Callback, CurvatureOptimizer, Params

AnyGlobalization = TrustRegion | Cubic | Globalization[Curvature]


class _Newton(CurvatureOptimizer[Curvature]):
    """The constructor that Newton's methods share.

    Args:
        params: As for every torch optimizer.
        lr: See :class:`~secant.optimizer.CurvatureOptimizer`, as all other options; the groups' ratios play no part, since the Hessian knows the scales.
        globalization: A line search, :class:`~secant.TrustRegion` or :class:`~secant.Cubic`.
        hessian: ``"exact"`` products need a closure that only returns the loss. ``"differences"`` of gradients serve every closure, at two gradients each and
            about two thirds of the digits. ``"auto"`` takes differences where the closure calls ``backward``; ``correction`` says which.
        krylov_limit: Most vectors of the Krylov space in which the model is minimized; 0 for conjugate gradients, in four vectors of memory. None is 100, and 0
            for :class:`NewtonCG` unless with :class:`~secant.Cubic`.
        initial_scale: ``"auto"`` uses the Hessian from the start; a positive number ``c`` takes the first step with ``H = c I``, times the groups' ratios.
        weight_decay: Becomes part of the objective.
        maximize: Maximize instead.
        iterations_per_step: Iterations in one call of ``step``.
        gradient_tolerance: Relative to the first gradient.
        max_step_length: Largest distance an iteration may move the parameters.
        callback: Called after each iteration.
        process_group: Ranks to reduce over.
        reduction: ``"mean"`` or ``"sum"``.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        *,
        globalization: AnyGlobalization | None = None,
        hessian: Derivative = "auto",
        krylov_limit: int | None = None,
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
        chosen = globalization or self._default()
        limit = self._krylov_limit(chosen) if krylov_limit is None else krylov_limit
        super().__init__(
            params,
            ExactHessian(initial=checked_initial_scale(initial_scale), hessian=hessian, krylov_limit=limit),
            chosen,  # type: ignore[arg-type]  # the Hessian is a model for every globalization
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

    @abstractmethod
    def _default(self) -> AnyGlobalization:
        """The globalization where none is given."""

    @abstractmethod
    def _krylov_limit(self, chosen: AnyGlobalization) -> int:
        """The size of the Krylov space where none is given."""


@final
class NewtonCG(_Newton):
    """Newton's method by conjugate gradients: Steihaug's in a trust region by default, truncated with a line search.

    Converges superlinearly near a minimum, in four vectors of memory besides the graph of the gradient; an iteration costs one evaluation and one Hessian
    product, about a gradient or two, per conjugate gradient. Directions of negative curvature are followed, and the outcome says so.

    The options are those of :class:`secant.optimizer.CurvatureOptimizer`, with ``globalization``, ``hessian`` (``"exact"``, ``"differences"`` of gradients,
    or ``"auto"``: differences where the closure calls ``backward``), ``krylov_limit`` (0 for conjugate gradients) and ``initial_scale`` (a number makes the
    first step one of ``H = c I``).

    Example:
        >>> import torch, secant
        >>> x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = secant.NewtonCG([x], iterations_per_step=100)
        >>> loss = optimizer.step(lambda: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)
        >>> torch.allclose(x, torch.ones(2, dtype=torch.float64))
        True

    Source:
        Steihaug (1983), SIAM J. Numer. Anal. 20(3); Nocedal & Wright (2006), algorithms 7.1 and 7.2.
    """

    def _default(self) -> AnyGlobalization:
        return TrustRegion(exact_below=0, tolerance=None)

    def _krylov_limit(self, chosen: AnyGlobalization) -> int:
        return 100 if isinstance(chosen, Cubic) else 0


@final
class CubicNewton(_Newton):
    """Newton's method with adaptive cubic regularization, in a Krylov space of the Hessian.

    Leaves saddles in a few steps, also where the gradient is orthogonal to the negative curvature. An iteration costs one evaluation and a Hessian product per
    Krylov vector; a rejected trial costs its evaluation alone. Memory: up to ``krylov_limit`` numbers per parameter, as many as are needed.

    The options are those of :class:`secant.optimizer.CurvatureOptimizer`, with ``globalization``, ``hessian`` (``"exact"``, ``"differences"`` of gradients,
    or ``"auto"``: differences where the closure calls ``backward``), ``krylov_limit`` (100) and ``initial_scale`` (a number makes the first step one of ``H
    = c I``).

    Example:
        >>> import torch, secant
        >>> x = torch.tensor([1e-12, 0.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = secant.CubicNewton([x], iterations_per_step=100)
        >>> loss = optimizer.step(lambda: x[0] ** 2 - 2 * x[1] ** 2 + x[1] ** 4)
        >>> torch.allclose(x.abs(), torch.tensor([0.0, 1.0], dtype=torch.float64))
        True

    Source:
        Nesterov & Polyak (2006), Math. Program. 108; Cartis, Gould & Toint (2011), Math. Program. 127.
    """

    def _default(self) -> AnyGlobalization:
        return Cubic()

    def _krylov_limit(self, chosen: AnyGlobalization) -> int:
        return 100


@final
class SaddleFreeNewton(_Newton):
    """Newton's method with the absolute values of the Hessian's eigenvalues, in a Krylov space, with Hager and Zhang's line search by default.

    Where the Hessian is positive it is Newton's method; along negative curvature the step turns round and leaves the saddle. Memory and cost are those of
    :class:`CubicNewton`, whose model also knows how far to go.

    The options are those of :class:`secant.optimizer.CurvatureOptimizer`, with ``globalization``, ``hessian`` (``"exact"``, ``"differences"`` of gradients,
    or ``"auto"``: differences where the closure calls ``backward``), ``krylov_limit`` (100) and ``initial_scale`` (a number makes the first step one of ``H
    = c I``).

    Source:
        Dauphin et al. (2014), arXiv 1406.2572. Departures: the Krylov space is that of the gradient and grows until it holds the step, a line search decides
        its length, and where the gradient is all but orthogonal to the most negative curvature, a tenth of it is put there.
    """

    def _default(self) -> AnyGlobalization:
        return HagerZhang()

    def _krylov_limit(self, chosen: AnyGlobalization) -> int:
        return 100
