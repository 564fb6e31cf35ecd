"""Eva: one vector per side of a layer, and the closed form of their damped Kronecker square."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from secant.layerwise.layer_curvature import LayerCurvature
from secant.layerwise.preconditioner import Length, Preconditioner
from secant.layerwise.routing import Rule
from secant.layerwise.sketching import Sketch
from secant.layerwise.tapped_optimizer import Base, TappedOptimizer, names_of_others
from secant.layerwise.taps import Capture


@final
class EvaPreconditioner(Preconditioner):
    """Preconditions ``G`` to ``(G - b b'G a a' / (g + |a|^2 |b|^2)) / g``: the inverse of ``(a a') x (b b') + g I`` by the Sherman-Morrison formula.

    ``a`` is a moving average of the layer's inputs, ``b`` of its output gradients. How it is put in front of an optimizer, and what it leaves alone:
    :class:`~secant.layerwise.preconditioner.Preconditioner`.

    Args:
        model: As it is trained, before it is compiled; see :class:`~secant.layerwise.taps.Taps` for what is tapped.
        factor_decay: Of the moving averages.
        damping: ``g`` over ``|a|^2 |b|^2``, the one eigenvalue of the curvature. Of the gradient's part along ``b a'`` the share ``1 / (1 + damping)`` is
            removed.
        sketch: ``Sketch.MEAN`` averages the rows of a batch, as the source does. With ``Sketch.SIGNS`` the sign of a vector is arbitrary and is turned towards
            the average first, which is a power iteration: ``a`` approaches the first eigenvector of the inputs' second moment, ``|a|^2`` about 0.64 times its
            eigenvalue.
        every: Steps from one correction to the next.
        length: How long preconditioned gradients are.
        exclude: Shell patterns of the names of weights to leave alone, for instance ``("head.*",)``.
        seed: Of the signs; the same on all ranks.
        process_group: Ranks over which captures are reduced (gradients are averaged by ``DistributedDataParallel``); None communicates nothing.

    Raises:
        ValueError: An option is out of range, or nothing can be tapped.

    Cost: for a weight of shape ``(n, m)`` state of ``4 (m + n)`` bytes, and ``6 n m`` flops per step, beside the taps' own.

    Source:
        Zhang, Shi & Li (2023), Eva: Practical second-order optimization with Kronecker-vectorized approximation, ICLR. Departures: the damping is relative,
        so that the scale of the loss does not matter; the length is that of the gradient where the source clips by its KL divergence; biases are left to the
        base optimizer. Signs by default: on a small convolution net in front of ``AdamW`` the loss was 0.6 of that with means at a learning rate of 0.01, and
        equal at 0.003. It is the cheapest of the tapped methods, and was level with ``AdamW`` alone there and on an ill-conditioned regression: for more,
        take :class:`~secant.layerwise.foof.FoofPreconditioner`.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> preconditioner = EvaPreconditioner(model)
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
        factor_decay: float = 0.95,
        damping: float = 1.0,
        sketch: Sketch = Sketch.SIGNS,
        every: int = 1,
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
            columns=1,
            outputs=True,
            every=every,
            length=length,
            largest_inputs=math.inf,
            largest_outputs=math.inf,
            exclude=exclude,
            seed=seed,
            process_group=process_group,
        )

    def _new_curvature(self, like: Tensor) -> LayerCurvature:
        return _KroneckerVectors(like, decay=self._factor_decay, damping=self._damping, sketch=self.taps.sketch)


@final
class Eva(TappedOptimizer):
    """Eva as a whole optimizer.

    Preconditioned gradients of hidden layers go to ``AdamW``, which also trains the last layer, biases, norms, embeddings and layers that cannot be tapped. The
    curvature, its options, its source and its cost are those of :class:`EvaPreconditioner`, the other options those of
    :class:`~secant.layerwise.tapped_optimizer.TappedOptimizer`; ``AdamW`` adds two numbers per parameter.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> optimizer = Eva(model)
        >>> loss = model(torch.ones(16, 4)).square().mean()
        >>> loss.backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float | Tensor = 0.01,
        *,
        base: Base = Base.ADAMW,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        factor_decay: float = 0.95,
        damping: float = 1.0,
        sketch: Sketch = Sketch.SIGNS,
        every: int = 1,
        rules: Mapping[str, Rule | str] | None = None,
        seed: int = 0,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        preconditioner = EvaPreconditioner(
            model,
            factor_decay=factor_decay,
            damping=damping,
            sketch=sketch,
            every=every,
            exclude=names_of_others(model, rules),
            seed=seed,
            process_group=process_group,
        )
        super().__init__(model, preconditioner, base=base, lr=lr, momentum=momentum, weight_decay=weight_decay, betas=betas, eps=eps, rules=rules)


@final
class _KroneckerVectors(LayerCurvature):
    def __init__(self, like: Tensor, *, decay: float, damping: float, sketch: Sketch) -> None:
        self._inputs, self._outputs = like.new_zeros(like.shape[1]), like.new_zeros(like.shape[0])
        self._decay, self._damping = decay, damping
        self._has_arbitrary_signs = sketch is Sketch.SIGNS
        self._corrections = 0

    def correct(self, capture: Capture) -> None:
        assert capture.outputs is not None
        if capture.input_square == 0.0 or capture.output_square == 0.0:
            return
        self._corrections += 1
        weight = max(1.0 - self._decay, 1.0 / self._corrections)
        for average, vectors in ((self._inputs, capture.inputs), (self._outputs, capture.outputs)):
            vector = vectors.squeeze(1)
            if self._has_arbitrary_signs:
                vector = torch.where(average @ vector < 0, -vector, vector)
            average.lerp_(vector, weight)

    def solve_scaled(self, gradient: Tensor) -> Tensor:
        tiny = torch.finfo(gradient.dtype).tiny
        a = self._inputs / torch.linalg.vector_norm(self._inputs).clamp_min(tiny)
        b = self._outputs / torch.linalg.vector_norm(self._outputs).clamp_min(tiny)
        return torch.addr(gradient, b * ((b @ gradient) @ a), a, alpha=-1.0 / (1.0 + self._damping))

    @property
    def scale(self) -> float | Tensor:
        if self._corrections == 0:
            return 1.0
        return self._damping * self._inputs.square().sum() * self._outputs.square().sum()

    def state(self) -> dict[str, Any]:
        return {"inputs": self._inputs.clone(), "outputs": self._outputs.clone(), "corrections": self._corrections}

    def load(self, state: dict[str, Any]) -> None:
        self._inputs.copy_(state["inputs"])
        self._outputs.copy_(state["outputs"])
        self._corrections = state["corrections"]
