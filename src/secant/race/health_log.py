"""Gradients and updates of every layer at some moments of a run, measured with the clock paused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor, nn

from secant.health import GradientFlow, flow_of, gradient_noise
from secant.operators import EmpiricalRisk
from secant.operators.risk import LossFunction
from secant.race.hooks import OwnHooks
from secant.race.records import HealthMoment, LayerHealth

Batch: TypeAlias = tuple[Tensor, Tensor]

_MOMENTS = 20
_UNKNOWN_LENGTH_RATIO = 1.5
_LEARNED = 0.01


@dataclass(frozen=True, slots=True)
class HealthRequest:
    """When to look at the gradients.

    Attributes:
        every: Steps between two looks; None for about 20 geometrically spaced ones.
    """

    every: int | None = None

    def __post_init__(self) -> None:
        """Check the range."""
        if self.every is not None and self.every < 1:
            raise ValueError(f"--health-every needs 1 step or more, got {self.every}.")


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """What is known before a step: the gradients, the parameters and how noisy the gradient is."""

    flow: GradientFlow
    before: Mapping[str, Tensor]
    noise_scale: float | None


@final
class HealthLog:
    """Looks at a model before and after some of its steps.

    Attributes:
        moments: What was seen so far.
    """

    def __init__(self, model: nn.Module, request: HealthRequest, steps: int | None) -> None:
        """Plan the looks of a run of so many steps; None when its length is not known. No method may have put a hook on the model yet."""
        self.moments: list[HealthMoment] = []
        self._model = model
        self._hooks = OwnHooks(model)
        self._every = request.every
        self._ratio = _UNKNOWN_LENGTH_RATIO if steps is None else max(1.0, steps) ** (1.0 / (_MOMENTS - 1))
        self._next = 1
        self._look: _Look | None = None

    def is_due(self, step: int) -> bool:
        """Whether to look at this step, counted from 1."""
        return step >= self._next

    def before_step(self, loss: LossFunction, batches: Sequence[Batch]) -> None:
        """Look at the gradients in ``.grad``, before they are clipped.

        Args:
            loss: ``loss(outputs, targets)``, the mean over the samples.
            batches: Two or more of one size, whose gradients tell noise from signal; with fewer the noise scale stays unknown.
        """
        named = _trainable(self._model)
        flow = flow_of(named.items())
        with self._hooks.alone(), torch.compiler.set_stance("force_eager"):
            noise = _noise_scale(self._model, loss, batches)
        self._look = _Look(flow, {name: parameter.detach().clone() for name, parameter in named.items()}, noise)

    def after_step(self, step: int) -> None:
        """Keep a moment, if :meth:`before_step` looked."""
        look, self._look = self._look, None
        if look is None:
            return
        self._next = step + self._every if self._every is not None else max(step + 1, math.ceil(step * self._ratio))
        weights = _layer_norms(look.before)
        updates = _layer_norms({name: parameter.detach() - look.before[name] for name, parameter in _trainable(self._model).items()})
        layers = tuple(
            LayerHealth(
                name=each.name,
                gradient=each.norm,
                update=updates[each.name],
                weight=weights[each.name],
                zeros=each.zeros,
                not_finite=each.not_finite,
            )
            for each in look.flow.layers
        )
        problems = {name: f"Layer {name} {problem.sentence}" for name, problem in look.flow.problems.items()}
        self.moments.append(HealthMoment(step=step, layers=layers, noise_scale=look.noise_scale, problems=problems))


@final
class FirstLayer:
    """Has the layer that is farthest from the loss learned anything? It has when it moved by more than one percent of its norm.

    Attributes:
        learned_at: The first step after which it had; None as long as it has not.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remember where the layer stands."""
        named = _trainable(model)
        first = _layer_of(next(iter(named)))
        self._parameters = [parameter for name, parameter in named.items() if _layer_of(name) == first]
        self._start = [parameter.detach().clone() for parameter in self._parameters]
        self._far = _LEARNED * _norm(self._start)
        self.learned_at: int | None = None

    def look(self, step: int) -> None:
        """See whether it has learned after this step."""
        if self.learned_at is not None:
            return
        moves = [parameter.detach() - start for parameter, start in zip(self._parameters, self._start, strict=True)]
        if _norm(moves) > self._far:
            self.learned_at = step


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _layer_of(name: str) -> str:
    """The module that owns a parameter, named as the gradient flow names it."""
    return name.rpartition(".")[0] or name


def _layer_norms(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    layers: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        layers.setdefault(_layer_of(name), []).append(tensor)
    return {layer: _norm(members) for layer, members in layers.items()}


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]).square().sum().sqrt())


def _noise_scale(model: nn.Module, loss: LossFunction, batches: Sequence[Batch]) -> float | None:
    if len(batches) < 2:
        return None
    risk = EmpiricalRisk(model, loss, list(batches), count=lambda batch: float(batch.rows))
    return gradient_noise(risk).noise_scale
