"""What one weight's layers hand over during forward and backward passes: two small sums and two counts."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from secant.layerwise.signs import random_signs
from secant.layerwise.sketching import Sketch, count_rows, sketch_inputs, sketch_outputs


@dataclass(slots=True, eq=False)
class TapSettings:
    """What all taps of a model share; ``listening`` is the only field that changes.

    Attributes:
        sketch: How rows become vectors.
        columns: Vectors ``r`` per side.
        outputs: Whether output gradients are captured.
        rank: Of this process among those that share a batch.
        ranks: How many they are.
        listening: Whether forward passes are captured at present.
    """

    sketch: Sketch
    columns: int
    outputs: bool
    rank: int
    ranks: int
    listening: bool = True


@final
class Tap:
    """A forward hook on every module that uses one weight.

    The inputs are reduced in the forward pass and added to the buffers when the gradient of the output arrives, so that a forward pass without a backward
    pass leaves no trace, and neither does the recomputation of activation checkpoints.

    Attributes:
        weight: The parameter.
        inputs: Sum of the input rows under signs, shape ``(m, r)`` for a weight matrix of shape ``(n, m)``.
        outputs: Sum of the rows of the output gradient, shape ``(n, r)``; None when it is not captured.
        rows: Rows summed so far, an int64 scalar tensor.
        samples: Samples seen so far by the first use of the weight in a forward pass, an int64 scalar tensor.
        calls: Uses of the weight so far in the present forward pass.
    """

    __slots__ = ("_key", "_settings", "calls", "inputs", "outputs", "rows", "samples", "weight")

    def __init__(self, weight: nn.Parameter, settings: TapSettings, key: Tensor) -> None:
        columns, dtype = settings.columns, torch.promote_types(weight.dtype, torch.float32)
        self.weight = weight
        self._settings = settings
        self._key = key
        self.calls = 0
        with torch.no_grad():
            self.inputs = torch.zeros(weight[0].numel(), columns, dtype=dtype, device=weight.device)
            self.outputs = torch.zeros(weight.shape[0], columns, dtype=dtype, device=weight.device) if settings.outputs else None
            self.rows = torch.zeros((), dtype=torch.int64, device=weight.device)
            self.samples = torch.zeros((), dtype=torch.int64, device=weight.device)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """The forward hook: reduce the inputs, and the output's gradient when it comes."""
        if not self._hears(module, output):
            return
        inputs: Tensor = args[0] if args else kwargs["input"]
        if inputs.numel() == 0:
            return
        samples, positions = count_rows(module, inputs, output)
        call, self.calls = self.calls, self.calls + 1
        with _exact(inputs):
            signs = self._signs(samples, positions, call)
            sums = sketch_inputs(module, inputs.detach().to(signs.dtype), signs, output)

        def commit(gradient: Tensor) -> None:
            with _exact(gradient):
                self.inputs.add_(sums)
                if self.outputs is not None:
                    self.outputs.add_(sketch_outputs(module, gradient.detach().to(signs.dtype), signs))
                self.rows.add_(samples * positions)
                if call == 0:
                    self.samples.add_(samples)

        output.register_hook(commit)  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        """Set sums and counts to 0, in place: compiled graphs hold on to the tensors."""
        for tensor in (self.inputs, self.outputs, self.rows, self.samples):
            if tensor is not None:
                tensor.zero_()
        self.calls = 0

    def _hears(self, module: nn.Module, output: Tensor) -> bool:
        # The weight is another tensor while torch.func.functional_call has replaced it: what is computed then is not this model's training.
        return self._settings.listening and torch.is_grad_enabled() and output.requires_grad and module.weight is self.weight and self.weight.requires_grad

    def _signs(self, samples: int, positions: int, call: int) -> Tensor:
        settings, dtype = self._settings, self.inputs.dtype
        if settings.sketch is Sketch.MEAN:
            return torch.ones(samples, settings.columns, positions, dtype=dtype, device=self.inputs.device)
        return random_signs(
            self._key,
            self.samples,
            samples=samples,
            positions=positions,
            columns=settings.columns,
            call=call,
            rank=settings.rank,
            ranks=settings.ranks,
            dtype=dtype,
        )


def _exact(like: Tensor) -> AbstractContextManager[object]:
    """Keeps an autocast region around the pass from rounding the sums."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
