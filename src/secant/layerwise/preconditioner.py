"""Taps, curvature and gradients brought together: what happens between ``backward`` and the step of an optimizer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from secant.layerwise.layer_curvature import LayerCurvature
from secant.layerwise.sketching import Sketch
from secant.layerwise.taps import Capture, Taps
from secant.notice import warn_user


class Length(Enum):
    """How long a preconditioned gradient is.

    Attributes:
        OF_GRADIENT: As long as the gradient of the same weight, so that the learning rate and the clipping of the optimizer behind keep their meaning.
        AS_SOLVED: ``C^-1 G`` as it is.
    """

    OF_GRADIENT = "gradient"
    AS_SOLVED = "solved"


class Preconditioner(ABC):
    """Replaces the gradients of tapped weights by preconditioned ones, in front of any optimizer.

    ::

        loss.backward()
        preconditioner.step()
        optimizer.step()

    With loss scaling the order is ``scaler.unscale_(optimizer)``, ``preconditioner.step(scaler)``, ``scaler.step(optimizer)``. Everything else (biases, norms,
    embeddings, layers that cannot be tapped) keeps its gradient, and one warning names the modules.

    A step with a gradient or a capture that is not finite changes neither gradients nor curvature.

    Attributes:
        taps: The hooks on the model.
        skipped_steps: Steps without effect because a gradient or a capture was not finite.

    Args:
        model: As it is trained, before it is compiled; see :class:`~secant.layerwise.taps.Taps` for what is tapped.
        factor_decay: Of the moving averages.
        damping: Relative to the curvature.
        sketch: Signs or means.
        columns: Vectors per capture.
        outputs: Whether output gradients are captured.
        every: Steps from one correction of the curvature to the next; the passes between them are not captured.
        length: How long preconditioned gradients are.
        largest_inputs: Weights with more columns are left alone.
        largest_outputs: Weights with more rows are left alone.
        exclude: Shell patterns of the names of weights to leave alone.
        seed: Of the signs; the same on all ranks.
        process_group: Ranks over which captures are reduced (gradients are averaged by ``DistributedDataParallel``); None communicates nothing.

    Raises:
        ValueError: An option is out of range, or nothing can be tapped.
        TypeError: A parameter is distributed, sparse, or not yet initialized.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        factor_decay: float,
        damping: float,
        sketch: Sketch,
        columns: int,
        outputs: bool,
        every: int,
        length: Length,
        largest_inputs: float,
        largest_outputs: float,
        exclude: Sequence[str],
        seed: int,
        process_group: dist.ProcessGroup | None,
    ) -> None:
        _check_options(factor_decay, damping, every)
        self._factor_decay, self._damping, self._every, self._length = factor_decay, damping, every, length
        self.taps = Taps(
            model,
            columns=columns,
            sketch=sketch,
            outputs=outputs,
            largest_inputs=largest_inputs,
            largest_outputs=largest_outputs,
            exclude=exclude,
            seed=seed,
            process_group=process_group,
        )
        self.skipped_steps = 0
        self._parameters = list(model.parameters())
        self._names = {weight: name for name, weight in self.taps.weights.items()}
        self._curvatures: dict[str, LayerCurvature] = {}
        if self.taps.left_out:
            _warn_left_out(type(self).__name__, self.taps.left_out)

    @abstractmethod
    def _new_curvature(self, like: Tensor) -> LayerCurvature:
        """A fresh model for a weight matrix of the shape, dtype and device of ``like``."""

    def step(self, scaler: torch.amp.GradScaler | None = None) -> None:
        """Correct the curvature with what was captured since the last step and replace the gradients of the tapped weights.

        Weights without a gradient are left alone.

        Args:
            scaler: What the loss was scaled by, after ``scaler.unscale_(optimizer)``.

        Raises:
            RuntimeError: A weight has a gradient that no tap has seen.
        """
        if not self.correct(scaler):
            return
        for weight in self._names:
            if weight.grad is not None:
                weight.grad.copy_(self.precondition(weight, weight.grad))

    @torch.no_grad()
    def correct(self, scaler: torch.amp.GradScaler | None = None) -> bool:
        """The first half of :meth:`step`: correct the curvature and leave the gradients.

        Returns:
            Whether gradients and captures were finite. If not, the curvature is what it was.

        Raises:
            RuntimeError: A weight has a gradient that no tap has seen.

        Cost: one host synchronization, and one reduction where there is a process group.
        """
        listened = self.taps.listening
        if listened:
            self.taps.reduce()
        norms = self.taps.norms()
        numbers = torch.cat([norms, _largest(self._parameters).to(norms).reshape(1)]).tolist()
        if not all(map(math.isfinite, numbers)):
            self.skipped_steps += 1
            self.taps.clear()
            return False
        captures = self.taps.captures(numbers[:-1], scale=1.0 if scaler is None else scaler.get_scale())
        if listened:
            self._check_arrived(captures)
        for name, capture in captures.items():
            if name not in self._curvatures:
                self._curvatures[name] = self._fresh(name)
            self._curvatures[name].correct(capture)
        self.taps.clear()
        self._go_to(self.taps.step + 1)
        return True

    @torch.no_grad()
    def precondition(self, weight: nn.Parameter, gradient: Tensor) -> Tensor:
        """The second half of :meth:`step` for one weight: ``C^-1 G``.

        Args:
            weight: One of the tapped weights.
            gradient: Of its shape; its gradient or an average of gradients.

        Returns:
            A new tensor of the same shape, float32 or wider; a copy of the gradient as long as nothing was captured for the weight.
        """
        matrix = gradient.flatten(1).to(_wide(weight.dtype))
        curvature = self._curvatures.get(self._names[weight])
        if curvature is None:
            return matrix.clone().view_as(weight)
        solved = curvature.solve_scaled(matrix)
        if self._length is Length.AS_SOLVED:
            return solved.div_(curvature.scale).view_as(weight)
        tiny = torch.finfo(solved.dtype).tiny
        return solved.mul_(torch.linalg.vector_norm(matrix) / torch.linalg.vector_norm(solved).clamp_min(tiny)).view_as(weight)

    def remove(self) -> None:
        """Take the taps off the model."""
        self.taps.remove()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on bit for bit between two steps: tensors (copies) and plain numbers.

        Options of the constructor are not saved: build the preconditioner as it was.
        """
        return {
            "method": type(self).__name__,
            "seed": self.taps.seed,
            "step": self.taps.step,
            "skipped_steps": self.skipped_steps,
            "curvatures": {name: curvature.state() for name, curvature in self._curvatures.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a saved state.

        Raises:
            ValueError: It was saved by another method, or for weights that this model does not tap. Nothing is changed then.
        """
        method, name = state_dict.get("method"), type(self).__name__
        if method != name:
            raise ValueError(f"Expected a state_dict saved by {name}, got one of {method}.")
        unknown = sorted(set(state_dict["curvatures"]) - set(self.taps.weights))
        if unknown:
            raise ValueError(f"Expected a state for tapped weights of this model, got one with {', '.join(unknown)}. Build the model as it was.")
        curvatures = {weight_name: self._fresh(weight_name) for weight_name in state_dict["curvatures"]}
        for weight_name, curvature in curvatures.items():
            curvature.load(state_dict["curvatures"][weight_name])
        self._curvatures = curvatures
        self.skipped_steps = state_dict["skipped_steps"]
        self.taps.clear()
        self.taps.seed = state_dict["seed"]
        self._go_to(state_dict["step"])

    def _go_to(self, step: int) -> None:
        self.taps.step = step
        self.taps.listening = step % self._every == 0

    def _fresh(self, name: str) -> LayerCurvature:
        weight = self.taps.weights[name].detach()
        return self._new_curvature(weight.flatten(1).to(_wide(weight.dtype)))

    def _check_arrived(self, captures: dict[str, Capture]) -> None:
        missing = [name for weight, name in self._names.items() if name not in captures and weight.grad is not None and bool(weight.grad.any())]
        if missing:
            raise RuntimeError(
                f"Expected a capture for every weight with a gradient, got none for {', '.join(missing)}. Build {type(self).__name__} before the model is "
                "compiled, apply the layers by calling them, and step once after each backward pass."
            )


def _check_options(factor_decay: float, damping: float, every: int) -> None:
    if not 0.0 <= factor_decay < 1.0:
        raise ValueError(f"Expected 0 <= factor_decay < 1, got {factor_decay}. Close to 1 averages over many steps.")
    if not 0.0 < damping < math.inf:
        raise ValueError(f"Expected 0 < damping < inf, got {damping}. It is relative to the curvature: 0.01 is a good start.")
    if every < 1:
        raise ValueError(f"Expected every >= 1, got {every}. 1 corrects the curvature at every step.")


def _largest(parameters: Iterable[Tensor]) -> Tensor:
    """The largest absolute element of all gradients; NaN when one is."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    dense = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
    return get_total_norm(dense, norm_type=math.inf)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _warn_left_out(method: str, left_out: dict[str, str]) -> None:
    names = ", ".join(f"{name} ({kind})" for name, kind in left_out.items())
    warn_user(f"{method} leaves to the base optimizer what is no Linear, Conv1d or Conv2d layer, or too large: {names}.")
