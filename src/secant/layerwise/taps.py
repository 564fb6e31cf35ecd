"""Hooks that sketch the inputs and output gradients of a model's layers: what the methods need that ``.grad`` cannot tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from secant.layerwise.routing import matrix_shape, refuse_unsupported
from secant.layerwise.signs import check_columns, key_of
from secant.layerwise.sketching import Sketch, has_rows
from secant.layerwise.tap import Tap, TapSettings


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """What one weight's layers saw since the last step, over all micro-batches and ranks.

    A row is one token of a linear layer or one place of a convolution. With ``M`` rows, input rows ``a`` and output gradients ``d`` of the loss whose gradient
    is in ``.grad``, the gradient is ``sum d a'``, and a row's own is ``M d``: where the loss is a mean over the rows, the gradient of that row's loss.

    Attributes:
        inputs: ``V`` of shape ``(m, r)``. From signs, ``E[V V'] = sum a a' / M``, the input factor of K-FAC; from means, ``V = sum a / M``.
        outputs: ``V`` of shape ``(n, r)``. From signs, ``E[V V'] = sum (M d)(M d)' / M``; from means, ``V = sum d``. None when it is not captured.
        input_square: ``|V|^2`` of the inputs, the trace of ``V V'``.
        output_square: ``|V|^2`` of the outputs.
        rows: ``M``.
    """

    inputs: Tensor
    outputs: Tensor | None
    input_square: float
    output_square: float
    rows: int


@final
class Taps:
    """Sketches of the inputs and output gradients of every ``Linear``, ``Conv1d`` and ``Conv2d`` of a model.

    Captures add up over micro-batches as ``.grad`` does and belong to the same loss: divide the loss of each of ``K`` micro-batches by ``K``, as for any
    optimizer, and the captures are those of the ``K`` times larger batch, sign for sign. Over the ranks of ``process_group`` gradients are averaged and rows
    added, as ``DistributedDataParallel`` does it: the joint batch of rank ``k`` of ``R`` is samples ``k, k + R, ...``, as ``DistributedSampler`` deals them.

    Modules that share a weight, and several calls of one module, are summed into one capture; a use is known by its number in the forward pass of ``model``.
    Forward passes under ``torch.no_grad`` or without a backward pass leave nothing. Every backward pass counts, also one to the inputs (an adversarial
    example, a gradient penalty): run it in :meth:`paused`.

    Register taps before the model is compiled: graphs compiled earlier never call them. A compiled model needs no graph break for them and gives the captures
    of the eager one; only after several forward passes with a single backward pass do their signs differ (in the eager model, equal places of such passes have
    equal signs, so that their rows are added before they are squared).

    Args:
        model: Whose layers are tapped. Left out, and listed in :attr:`left_out`: other modules with parameters, grouped convolutions, subclasses with a
            forward pass of their own, attention projections that ``nn.MultiheadAttention`` applies itself, parametrized weights, and weights that are shared
            with any of these.
        columns: Vectors ``r`` per side, 1 to 32; 1 with ``Sketch.MEAN``.
        sketch: Random signs or the mean.
        outputs: Whether output gradients are captured, too.
        largest_inputs: Weight matrices with more columns are left out.
        largest_outputs: Weight matrices with more rows are left out.
        exclude: Shell patterns of the names of weights that are not tapped, for instance ``("head.*", "blocks.0.*")``.
        seed: Of the signs; the same on all ranks.
        process_group: Ranks over which captures are reduced; None communicates nothing.

    Raises:
        ValueError: ``columns`` is out of range, a pattern matches no parameter, or no layer can be tapped.
        TypeError: A parameter is distributed, sparse, or not yet initialized.

    Cost: ``4 (m + n) r`` bytes per weight of shape ``(n, m)``, and ``2 r`` flops per element of a layer's inputs and output gradients: ``r / n`` and ``r / m``
    of a linear layer's forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        columns: int = 1,
        sketch: Sketch = Sketch.SIGNS,
        outputs: bool = True,
        largest_inputs: float = math.inf,
        largest_outputs: float = math.inf,
        exclude: Sequence[str] = (),
        seed: int = 0,
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        check_columns(columns)
        if sketch is Sketch.MEAN and columns != 1:
            raise ValueError(f"Expected columns=1 with Sketch.MEAN, which has a single vector, got columns={columns}. Use Sketch.SIGNS.")
        _check_patterns(model, exclude)
        found = _find(model, exclude, (largest_outputs, largest_inputs))
        if not found.weights:
            raise ValueError("Expected a Linear, Conv1d or Conv2d layer that can be tapped and is not excluded, got none. Use an optimizer without taps.")
        self.left_out = found.left_out
        self.seed, self._step = seed, 0
        self._group = process_group
        rank, ranks = (dist.get_rank(process_group), dist.get_world_size(process_group)) if process_group is not None else (0, 1)
        self._settings = TapSettings(sketch, columns, outputs, rank, ranks)
        devices = {weight.device for weight, _ in found.weights.values()}
        self._keys = {device: torch.zeros((), dtype=torch.int64, device=device) for device in devices}
        self._taps = {name: Tap(weight, self._settings, self._keys[weight.device]) for name, (weight, _) in found.weights.items()}
        self._handles: list[RemovableHandle] = [model.register_forward_pre_hook(self._begin)]
        for name, (_, modules) in found.weights.items():
            self._handles += [module.register_forward_hook(self._taps[name], with_kwargs=True) for module in modules]
        self.step = 0

    @property
    def step(self) -> int:
        """The step that the signs belong to. Set it to go on to another, or after loading a state together with ``seed``."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        for key in self._keys.values():
            key.fill_(key_of(self.seed, step))

    @property
    def sketch(self) -> Sketch:
        """Whether rows are summed under random signs or averaged."""
        return self._settings.sketch

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The tapped weights, by their first name in the model."""
        return {name: tap.weight for name, tap in self._taps.items()}

    @property
    def listening(self) -> bool:
        """Whether passes are captured at present; a change takes effect at the next forward pass."""
        return self._settings.listening

    @listening.setter
    def listening(self, listening: bool) -> None:
        self._settings.listening = listening

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Capture nothing of the forward passes inside."""
        before, self.listening = self.listening, False
        try:
            yield
        finally:
            self.listening = before

    def reduce(self) -> None:
        """Make the captures those of the joint batch on every rank; nothing without a process group. Cost: one reduction of all buffers."""
        if self._group is None:
            return
        buffers = [buffer for tap in self._taps.values() for buffer in (tap.inputs, tap.outputs, tap.rows) if buffer is not None]
        for device in self._keys:
            mine = [buffer for buffer in buffers if buffer.device == device]
            dtype = torch.promote_types(torch.float32, mine[0].dtype)
            joint = torch.cat([buffer.flatten().to(dtype) for buffer in mine])
            dist.all_reduce(joint, group=self._group)
            for buffer, part in zip(mine, torch.split(joint, [buffer.numel() for buffer in mine]), strict=True):
                buffer.copy_(part.view_as(buffer))
        for tap in self._taps.values():
            if tap.outputs is not None:
                tap.outputs.div_(self._settings.ranks)

    def norms(self) -> Tensor:
        """Number of rows, norm of the input sums and norm of the output sums of each weight, one after another: all that decisions depend on."""
        device = next(iter(self._keys))
        dtype = torch.float64 if any(tap.inputs.dtype == torch.float64 for tap in self._taps.values()) else torch.float32
        numbers = []
        for tap in self._taps.values():
            of_inputs = torch.linalg.vector_norm(tap.inputs)
            of_outputs = torch.zeros_like(of_inputs) if tap.outputs is None else torch.linalg.vector_norm(tap.outputs)
            numbers.append(torch.stack([tap.rows.to(of_inputs.dtype), of_inputs, of_outputs]).to(device, dtype))
        return torch.cat(numbers)

    def captures(self, norms: Sequence[float], *, scale: float = 1.0) -> dict[str, Capture]:
        """What arrived, by name of the weight; weights without a capture are missing.

        Args:
            norms: From :meth:`norms`, on the host.
            scale: What the loss was multiplied by; the outputs are divided by it.
        """
        triples = zip(norms[0::3], norms[1::3], norms[2::3], strict=True)
        return {
            name: self._capture(tap, round(rows), of_inputs, of_outputs, scale)
            for (name, tap), (rows, of_inputs, of_outputs) in zip(self._taps.items(), triples, strict=True)
            if rows > 0
        }

    def clear(self) -> None:
        """Drop what was captured."""
        for tap in self._taps.values():
            tap.clear()

    def remove(self) -> None:
        """Take all hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _begin(self, *_: object) -> None:
        for tap in self._taps.values():
            tap.calls = 0

    def _capture(self, tap: Tap, rows: int, of_inputs: float, of_outputs: float, scale: float) -> Capture:
        columns, signs = self._settings.columns, self._settings.sketch is Sketch.SIGNS
        input_factor = 1.0 / math.sqrt(rows * columns) if signs else 1.0 / rows
        output_factor = (math.sqrt(rows / columns) if signs else 1.0) / scale
        outputs = None if tap.outputs is None else tap.outputs * output_factor
        return Capture(tap.inputs * input_factor, outputs, (of_inputs * input_factor) ** 2, (of_outputs * output_factor) ** 2, rows)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The weights that can be tapped, by name with the modules that use them, and the modules with other parameters, by name with their type."""

    weights: dict[str, tuple[nn.Parameter, list[nn.Module]]]
    left_out: dict[str, str]


def _find(model: nn.Module, exclude: Sequence[str], largest: tuple[float, float]) -> _Found:
    attention = {part for module in model.modules() if isinstance(module, nn.MultiheadAttention) for part in module.modules()}
    users: dict[Tensor, list[tuple[str, nn.Module, str]]] = {}
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            users.setdefault(parameter, []).append((name, module, own))
    weights: dict[str, tuple[nn.Parameter, list[nn.Module]]] = {}
    left_out: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        refuse_unsupported(parameter)
        uses = users[parameter]
        if any(fnmatchcase(name, pattern) for pattern in exclude):
            continue
        are_rows = all(has_rows(module) and module not in attention for _, module, _ in uses)
        is_weight = are_rows and all(own == "weight" for _, _, own in uses)
        if not are_rows or (is_weight and any(side > limit for side, limit in zip(matrix_shape(parameter), largest, strict=True))):
            left_out |= {user or "the model itself": type(module).__name__ for user, module, _ in uses if parameter.requires_grad}
        elif is_weight:
            weights[name] = (parameter, [module for _, module, _ in uses])
    return _Found(weights, left_out)


def _check_patterns(model: nn.Module, exclude: Sequence[str]) -> None:
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    unused = [pattern for pattern in exclude if not any(fnmatchcase(name, pattern) for name in names)]
    if unused:
        raise ValueError(f"Expected patterns that match parameter names, got {unused[0]!r}, which matches none. The names are {', '.join(names[:8])}, ...")
