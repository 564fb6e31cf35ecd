"""The public optimizers: a curvature, a default globalization, a docstring."""

from __future__ import annotations

from abc import abstractmethod
from types import MappingProxyType
from typing import final

import torch.distributed as dist
from torch import Tensor

from secant.curvature.broyden import Broyden as BroydenCurvature
from secant.curvature.curvature import Curvature, QuadraticModel
from secant.curvature.initial import InitialScale, checked_initial_scale
from secant.curvature.limited_broyden import LimitedBroyden
from secant.curvature.scaling import FixedMember, MemberRule, self_scaled_bfgs, self_scaled_broyden
from secant.curvature.sr1 import SR1 as SR1Curvature
from secant.curvature.sr1 import InverseSR1
from secant.globalization.cubic import Cubic
from secant.globalization.globalization import Globalization
from secant.globalization.hager_zhang import HagerZhang
from secant.globalization.trust_region import TrustRegion
from secant.limited_methods import LBFGS, LSR1
from secant.newton_methods import CubicNewton, NewtonCG, SaddleFreeNewton
from secant.optimizer import Callback, CurvatureOptimizer, Params


class _Broyden(CurvatureOptimizer[Curvature]):
    """The constructor that the members of the Broyden class share; the options are those of :class:`~secant.optimizer.CurvatureOptimizer`."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
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
        super().__init__(
            params,
            BroydenCurvature(self._rule(), initial=checked_initial_scale(initial_scale)),
            globalization or HagerZhang(),
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
    def _rule(self) -> MemberRule:
        """The member of the class to use at a correction."""


@final
class BFGS(_Broyden):
    """Broyden-Fletcher-Goldfarb-Shanno with a dense inverse Hessian: ``theta = 0`` of the Broyden class.

    The choice for easy problems (nearly quadratic, well scaled). Memory ``n^2`` numbers; per iteration one read of them beside about one evaluation.

    The options are those of :class:`secant.optimizer.CurvatureOptimizer`, with a ``globalization`` (any line search; Hager and Zhang's by default) and an
    ``initial_scale`` (``"auto"``, or a positive number ``c`` for ``H = c I``).

    Example:
        >>> import torch, secant
        >>> x = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = secant.BFGS([x], iterations_per_step=100)
        >>> loss = optimizer.step(lambda: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2)
        >>> torch.allclose(x, torch.ones(2, dtype=torch.float64))
        True

    Source:
        Nocedal & Wright (2006), eq. 6.17.
    """

    def _rule(self) -> MemberRule:
        return FixedMember(0.0)


@final
class DFP(_Broyden):
    """Davidon-Fletcher-Powell with a dense inverse Hessian: ``theta = 1`` of the Broyden class.

    Of historical interest: it recovers from a bad scale much more slowly than BFGS.

    The options are those of :class:`secant.optimizer.CurvatureOptimizer`, with a ``globalization`` (any line search; Hager and Zhang's by default) and an
    ``initial_scale`` (``"auto"``, or a positive number ``c`` for ``H = c I``).

    Source:
        Nocedal & Wright (2006), eq. 6.15.
    """

    def _rule(self) -> MemberRule:
        return FixedMember(1.0)


@final
class SSBFGS(_Broyden):
    """Self-scaled BFGS: the old inverse is divided by ``tau = min(1, s.y / s.Bs)`` before each correction.

    The options are those of :class:`secant.optimizer.CurvatureOptimizer`, with a ``globalization`` (any line search; Hager and Zhang's by default) and an
    ``initial_scale`` (``"auto"``, or a positive number ``c`` for ``H = c I``).

    Source:
        Al-Baali (1998), Comput. Optim. Appl. 9; Urban, Stefanou & Pons (2025), arXiv 2405.04230.
    """

    def _rule(self) -> MemberRule:
        return self_scaled_bfgs


@final
class SSBroyden(_Broyden):
    """Self-scaled Broyden: the member of the class and its scale are chosen anew at each correction.

    The choice for physics-informed nets and other badly conditioned smooth fits in float64 with up to about 2e4 parameters.

    The options are those of :class:`secant.optimizer.CurvatureOptimizer`, with a ``globalization`` (any line search; Hager and Zhang's by default) and an
    ``initial_scale`` (``"auto"``, or a positive number ``c`` for ``H = c I``).

    Source:
        Al-Baali & Khalfan (2005); Urban, Stefanou & Pons (2025), arXiv 2405.04230.
    """

    def _rule(self) -> MemberRule:
        return self_scaled_broyden


@final
class LSSBroyden(CurvatureOptimizer[Curvature]):
    """Self-scaled Broyden with limited memory: :class:`SSBroyden` in the span of the gradients.

    The choice for physics-informed nets and other badly conditioned smooth fits in float64 with more parameters than a dense inverse can hold, 1e4 to 1e6. It
    is the dense method until ``memory`` gradients were seen; then the directions of middling curvature are forgotten, the stiffest and the softest stay.
    Memory: ``memory`` numbers per parameter, half as many more while they grow. Each iteration reads them five times.

    Args:
        params: As for every torch optimizer.
        lr: See :class:`~secant.optimizer.CurvatureOptimizer`, as all other options.
        memory: Directions at most, at least 8; no more than there are parameters are used. benchmarks/results/limited_broyden.json has error against time.
        globalization: Any line search; Hager and Zhang's by default.
        initial_scale: ``"auto"`` or a positive number ``c`` for ``H = c I``.
        weight_decay: Becomes part of the objective.
        maximize: Maximize instead.
        iterations_per_step: Iterations in one call of ``step``.
        gradient_tolerance: Relative to the first gradient.
        max_step_length: Largest distance an iteration may move the parameters.
        callback: Called after each iteration.
        process_group: Ranks to reduce over.
        reduction: ``"mean"`` or ``"sum"``.

    Example:
        >>> import torch, secant
        >>> x = torch.full((2000,), 3.0, dtype=torch.float64, requires_grad=True)
        >>> optimizer = secant.LSSBroyden([x], memory=50, iterations_per_step=300)
        >>> loss = optimizer.step(lambda: (torch.linspace(1.0, 100.0, 2000, dtype=torch.float64) * (x - 1.0) ** 2).sum())
        >>> torch.allclose(x, torch.ones(2000, dtype=torch.float64))
        True

    Source:
        The self-scaled member of Al-Baali & Khalfan (2005) in the form of Urban, Stefanou & Pons (2025), arXiv 2405.04230; the span of the gradients of
        Gill & Leonard (2001). Forgetting by eigenvalue is our own.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        *,
        memory: int = 300,
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
        super().__init__(
            params,
            LimitedBroyden(self_scaled_broyden, initial=checked_initial_scale(initial_scale), memory=memory),
            globalization or HagerZhang(),
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


@final
class Broyden(CurvatureOptimizer[Curvature]):
    """One fixed member of the Broyden class with a dense inverse Hessian.

    Args:
        params: As for every torch optimizer.
        theta: 0 is BFGS, 1 is DFP; any finite number: where a correction would not stay positive definite it is skipped with that reason.
        lr: See :class:`~secant.optimizer.CurvatureOptimizer`, as all other options.
        globalization: Any line search; Hager and Zhang's by default.
        initial_scale: ``"auto"`` or a positive number ``c`` for ``H = c I``.
        weight_decay: Becomes part of the objective.
        maximize: Maximize instead.
        iterations_per_step: Iterations in one call of ``step``.
        gradient_tolerance: Relative to the first gradient.
        max_step_length: Largest distance an iteration may move the parameters.
        callback: Called after each iteration.
        process_group: Ranks to reduce over.
        reduction: ``"mean"`` or ``"sum"``.

    Source:
        Nocedal & Wright (2006), eq. 6.32.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        *,
        theta: float = 0.0,
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
        if not abs(theta) < float("inf"):
            raise ValueError(f"Expected a finite theta, got theta={theta}.")
        super().__init__(
            params,
            BroydenCurvature(FixedMember(theta), initial=checked_initial_scale(initial_scale)),
            globalization or HagerZhang(),
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


@final
class SR1(CurvatureOptimizer[Curvature]):
    """The symmetric rank-one method, in a trust region by default.

    It learns negative curvature and uses it. With a trust region it keeps ``B`` beside ``H``, ``2 n^2`` numbers; with a line search ``H`` alone.

    Args:
        params: As for every torch optimizer.
        lr: See :class:`~secant.optimizer.CurvatureOptimizer`, as all other options; here it multiplies the first trust radius.
        globalization: A trust region (the default), cubic regularization or any line search.
        initial_scale: ``"auto"`` or a positive number ``c`` for ``H = c I``.
        weight_decay: Becomes part of the objective.
        maximize: Maximize instead.
        iterations_per_step: Iterations in one call of ``step``.
        gradient_tolerance: Relative to the first gradient.
        max_step_length: Largest distance an iteration may move the parameters.
        callback: Called after each iteration.
        process_group: Ranks to reduce over.
        reduction: ``"mean"`` or ``"sum"``.

    Source:
        Conn, Gould & Toint (1991); Nocedal & Wright (2006), algorithm 6.2.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        *,
        globalization: TrustRegion | Cubic | Globalization[Curvature] | None = None,
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
        chosen = globalization or TrustRegion()
        initial = checked_initial_scale(initial_scale)
        super().__init__(
            params,
            SR1Curvature(initial=initial) if chosen.needs is QuadraticModel else InverseSR1(initial=initial),
            chosen,  # type: ignore[arg-type]  # a globalization comes with the model it needs, one line above
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


METHODS: MappingProxyType[str, type[CurvatureOptimizer[Curvature]]] = MappingProxyType(
    {
        "bfgs": BFGS,
        "broyden": Broyden,
        "cubicnewton": CubicNewton,
        "dfp": DFP,
        "lbfgs": LBFGS,
        "lsr1": LSR1,
        "lssbroyden": LSSBroyden,
        "newtoncg": NewtonCG,
        "saddlefreenewton": SaddleFreeNewton,
        "sr1": SR1,
        "ssbfgs": SSBFGS,
        "ssbroyden": SSBroyden,
    }
)
"""Every public optimizer by the name that ``minimize`` and the race know it by."""
