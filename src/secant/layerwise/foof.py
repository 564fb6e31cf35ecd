"""FOOF: gradient descent on the neurons of a layer, by the inverse of its inputs' second moment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch.distributed as dist
from torch import Tensor, nn

from secant.layerwise.layer_curvature import LayerCurvature
from secant.layerwise.moving_inverse import MovingInverse
from secant.layerwise.preconditioner import Length, Preconditioner
from secant.layerwise.routing import Rule
from secant.layerwise.sketching import Sketch
from secant.layerwise.tapped_optimizer import Base, TappedOptimizer, names_of_others
from secant.layerwise.taps import Capture


@final
class FoofPreconditioner(Preconditioner):
    """Preconditions ``G`` to ``G (A + d I)^-1`` with the moving average ``A`` of ``V V'``, ``V`` sums of the layer's inputs under random signs.

    ``E[V V']`` is the second moment of the inputs, K-FAC's input factor. The output side is not used, so that output gradients are not even captured. How it is
    put in front of an optimizer, and what it leaves alone: :class:`~secant.layerwise.preconditioner.Preconditioner`.

    Args:
        model: As it is trained, before it is compiled; see :class:`~secant.layerwise.taps.Taps` for what is tapped.
        factor_decay: Of the moving average.
        damping: ``d`` over the mean eigenvalue of ``A``; it is known exactly and stays between half of this and all of it.
        columns: Vectors ``r`` in ``V``. More cost more and follow the second moment better.
        every: Steps from one correction to the next.
        largest_side: Weights with more inputs are left alone, as the warning says.
        length: How long preconditioned gradients are.
        exclude: Shell patterns of the names of weights to leave alone, for instance ``("head.*",)``.
        seed: Of the signs; the same on all ranks.
        process_group: Ranks over which captures are reduced (gradients are averaged by ``DistributedDataParallel``); None communicates nothing.

    Raises:
        ValueError: An option is out of range, or nothing can be tapped.

    Cost: for a weight of shape ``(n, m)`` state of ``4 m^2`` bytes. Per step ``2 n m^2`` flops for the gradient, ``4 m^2 r`` for the correction and on
    average ``m^3 (1 - factor_decay) / log 2`` for the damping, beside the taps' own.

    Source:
        Benzing (2022), Gradient descent on neurons and its link to approximate second-order optimization, ICML. Departures: the second moment is sketched by
        ``r`` vectors and its inverse corrected at every step by the Sherman-Morrison-Woodbury formula, where the source averages all rows and inverts now and
        then; the damping is relative; biases are left to the base optimizer.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> preconditioner = FoofPreconditioner(model)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> loss = model(torch.ones(16, 4)).square().mean()
        >>> loss.backward()
        >>> preconditioner.step()
        >>> optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        factor_decay: float = 0.98,
        damping: float = 0.01,
        columns: int = 4,
        every: int = 1,
        largest_side: int = 8192,
        length: Length = Length.OF_GRADIENT,
        exclude: Sequence[str] = (),
        seed: int = 0,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            model,
            factor_decay=factor_decay,
            damping=damping,
            sketch=Sketch.SIGNS,
            columns=columns,
            outputs=False,
            every=every,
            length=length,
            largest_inputs=largest_side,
            largest_outputs=math.inf,
            exclude=exclude,
            seed=seed,
            process_group=process_group,
        )

    def _new_curvature(self, like: Tensor) -> LayerCurvature:
        return _InputInverse(MovingInverse(like.shape[1], decay=self._factor_decay, damping=self._damping, like=like))


@final
class Foof(TappedOptimizer):
    """FOOF as a whole optimizer.

    Weights of hidden layers move by ``-0.2 lr`` times the unit-RMS form of ``M (A + d I)^-1``, ``M`` the averaged gradient; the last layer, biases, norms,
    embeddings and layers that cannot be tapped are trained by ``AdamW`` at the same ``lr``. The curvature, its options, its source and its cost are those of
    :class:`FoofPreconditioner`, the other options those of :class:`~secant.layerwise.tapped_optimizer.TappedOptimizer`; the averaged gradient adds 4 bytes
    per element.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> optimizer = Foof(model)
        >>> loss = model(torch.ones(16, 4)).square().mean()
        >>> loss.backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float | Tensor = 0.01,
        *,
        base: Base = Base.MOMENTUM,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        factor_decay: float = 0.98,
        damping: float = 0.01,
        columns: int = 4,
        every: int = 1,
        largest_side: int = 8192,
        rules: Mapping[str, Rule | str] | None = None,
        seed: int = 0,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        preconditioner = FoofPreconditioner(
            model,
            factor_decay=factor_decay,
            damping=damping,
            columns=columns,
            every=every,
            largest_side=largest_side,
            exclude=names_of_others(model, rules),
            seed=seed,
            process_group=process_group,
        )
        super().__init__(model, preconditioner, base=base, lr=lr, momentum=momentum, weight_decay=weight_decay, betas=betas, eps=eps, rules=rules)


@final
class _InputInverse(LayerCurvature):
    def __init__(self, inverse: MovingInverse) -> None:
        self._inverse = inverse

    def correct(self, capture: Capture) -> None:
        self._inverse.correct(capture.inputs, capture.input_square)

    def solve_scaled(self, gradient: Tensor) -> Tensor:
        return self._inverse.times_scaled(gradient)

    @property
    def scale(self) -> float:
        return self._inverse.scale

    def state(self) -> dict[str, Any]:
        return self._inverse.state()

    def load(self, state: dict[str, Any]) -> None:
        self._inverse.load(state)
