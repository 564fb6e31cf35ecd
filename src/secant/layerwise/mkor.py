"""MKOR with the inverses it describes: both Kronecker factors of K-FAC, corrected by a few vectors per step."""

from __future__ import annotations

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
class MkorPreconditioner(Preconditioner):
    """Preconditions ``G`` to ``(S + e I)^-1 G (A + d I)^-1`` with moving averages of ``V V'``: ``A`` of the inputs, ``S`` of the output gradients.

    Each inverse is that of its own moving average, to rounding, at every step (:class:`~secant.layerwise.moving_inverse.MovingInverse`). How it is put in
    front of an optimizer, and what it leaves alone: :class:`~secant.layerwise.preconditioner.Preconditioner`.

    Args:
        model: As it is trained, before it is compiled; see :class:`~secant.layerwise.taps.Taps` for what is tapped.
        factor_decay: Of the moving averages.
        damping: ``d`` and ``e``, each over the mean eigenvalue of its average; known exactly, and between half of this and all of it.
        columns: Vectors ``r`` per side; 1 is the published rank, and the only one of ``Sketch.MEAN``.
        sketch: ``Sketch.SIGNS`` makes ``A`` and ``S`` the factors of K-FAC on average; ``Sketch.MEAN`` takes the mean over the batch as the source does, whose
            square lacks the covariance.
        every: Steps from one correction to the next; the source takes 10.
        largest_side: Weights with more inputs or outputs are left alone, as the warning says.
        length: How long preconditioned gradients are; ``Length.OF_GRADIENT`` is the source's.
        exclude: Shell patterns of the names of weights to leave alone, for instance ``("head.*",)``.
        seed: Of the signs; the same on all ranks.
        process_group: Ranks over which captures are reduced (gradients are averaged by ``DistributedDataParallel``); None communicates nothing.

    Raises:
        ValueError: An option is out of range, or nothing can be tapped.

    Cost: for a weight of shape ``(n, m)`` state of ``4 (m^2 + n^2)`` bytes. Per step ``2 n m (n + m)`` flops for the gradient, ``4 (m^2 + n^2) r`` for the
    corrections and on average ``(m^3 + n^3) (1 - factor_decay) / log 2`` for the damping, beside the taps' own.

    Source:
        Mozaffari, Li, Zhang & Dehnavi (2023), MKOR: Momentum-enabled Kronecker-factor-based optimizer using rank-1 updates, NeurIPS. Departures: the authors'
        code blends the inverse itself with the identity, ``0.95 P + 0.05 I``, and adds the mean vector with weight 1, so that ``P`` is the inverse of no
        average; here it is. Their stabilizer, which mixes the identity in once the norm of ``P`` passes a bound, becomes that bound: the norm never passes
        ``2 / (damping * mean eigenvalue)``, and the inverse stays exact. Signs and 4 columns by default: at the same learning rate the training loss was
        0.7 of that with means on an ill-conditioned regression, and below 0.1 of it on a small convolution net. Biases are left to the base optimizer.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> preconditioner = MkorPreconditioner(model)
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
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
        sketch: Sketch = Sketch.SIGNS,
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
            sketch=sketch,
            columns=columns,
            outputs=True,
            every=every,
            length=length,
            largest_inputs=largest_side,
            largest_outputs=largest_side,
            exclude=exclude,
            seed=seed,
            process_group=process_group,
        )

    def _new_curvature(self, like: Tensor) -> LayerCurvature:
        inputs, outputs = (MovingInverse(size, decay=self._factor_decay, damping=self._damping, like=like) for size in (like.shape[1], like.shape[0]))
        return _KroneckerInverse(inputs, outputs)


@final
class Mkor(TappedOptimizer):
    """MKOR as a whole optimizer.

    Weights of hidden layers move by ``-0.2 lr`` times the unit-RMS form of ``(S + e I)^-1 M (A + d I)^-1``, ``M`` the averaged gradient; the last layer,
    biases, norms, embeddings and layers that cannot be tapped are trained by ``AdamW`` at the same ``lr``. The curvature, its options, its source and its
    cost are those of :class:`MkorPreconditioner`, the other options those of :class:`~secant.layerwise.tapped_optimizer.TappedOptimizer`; the averaged
    gradient adds 4 bytes per element.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> optimizer = Mkor(model)
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
        sketch: Sketch = Sketch.SIGNS,
        every: int = 1,
        largest_side: int = 8192,
        rules: Mapping[str, Rule | str] | None = None,
        seed: int = 0,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        preconditioner = MkorPreconditioner(
            model,
            factor_decay=factor_decay,
            damping=damping,
            columns=columns,
            sketch=sketch,
            every=every,
            largest_side=largest_side,
            exclude=names_of_others(model, rules),
            seed=seed,
            process_group=process_group,
        )
        super().__init__(model, preconditioner, base=base, lr=lr, momentum=momentum, weight_decay=weight_decay, betas=betas, eps=eps, rules=rules)


@final
class _KroneckerInverse(LayerCurvature):
    def __init__(self, inputs: MovingInverse, outputs: MovingInverse) -> None:
        self._inputs, self._outputs = inputs, outputs

    def correct(self, capture: Capture) -> None:
        assert capture.outputs is not None
        self._inputs.correct(capture.inputs, capture.input_square)
        self._outputs.correct(capture.outputs, capture.output_square)

    def solve_scaled(self, gradient: Tensor) -> Tensor:
        return self._outputs.times_scaled(self._inputs.times_scaled(gradient).T).T

    @property
    def scale(self) -> float:
        return self._inputs.scale * self._outputs.scale

    def state(self) -> dict[str, Any]:
        return {"inputs": self._inputs.state(), "outputs": self._outputs.state()}

    def load(self, state: dict[str, Any]) -> None:
        self._inputs.load(state["inputs"])
        self._outputs.load(state["outputs"])
