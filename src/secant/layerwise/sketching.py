"""A layer's inputs and output gradients as rows of two matrices, and weighted sums of those rows.

A layer with weight matrix ``W`` computes ``W a`` for every row ``a``: a token of a linear layer, the patch under the kernel at one place of a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Final

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.grad import conv1d_weight, conv2d_weight


class Sketch(Enum):
    """How the rows of a batch become a few vectors ``v``.

    Attributes:
        SIGNS: ``v`` is the sum of the rows under independent random signs, over the root of their number: ``E[v v']`` is their second moment, so that the
            average over steps is that of K-FAC.
        MEAN: ``v`` is the mean of the rows, as Eva and MKOR take it: ``v v'`` is the square of the mean, which lacks their covariance.
    """

    SIGNS = "signs"
    MEAN = "mean"


_FORWARDS: Final[dict[type[nn.Module], Callable[..., Tensor]]] = {nn.Linear: nn.Linear.forward, nn.Conv1d: nn.Conv1d.forward, nn.Conv2d: nn.Conv2d.forward}


def has_rows(module: nn.Module) -> bool:
    """Whether the module is a ``Linear``, ``Conv1d`` or ``Conv2d`` with a real ``weight`` of its own, one group and the forward pass of its class."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    known = any(isinstance(module, kind) and type(module).forward is forward for kind, forward in _FORWARDS.items())
    return known and weight is not None and weight.is_floating_point() and weight.numel() > 0 and getattr(module, "groups", 1) == 1


def count_rows(module: nn.Module, inputs: Tensor, output: Tensor) -> tuple[int, int]:
    """Samples (first dimension; 1 without a batch dimension) and positions per sample."""
    if isinstance(module, nn.Linear):
        return (inputs.shape[0], math.prod(inputs.shape[1:-1])) if inputs.dim() > 1 else (1, 1)
    spatial = _spatial_dimensions(module)
    return (output.shape[0] if output.dim() == spatial + 2 else 1), math.prod(output.shape[-spatial:])


def sketch_inputs(module: nn.Module, inputs: Tensor, signs: Tensor, output: Tensor) -> Tensor:
    """The sum of the input rows under signs.

    A convolution's is the gradient by the weight of a convolution with ``r`` outputs whose output gradient is the signs, so that no patch is written out:
    with 3 x 3 kernels ten to twenty times faster than ``unfold``.

    Args:
        module: Whose inputs they are.
        inputs: As the module got them; already in the dtype of ``signs``.
        signs: Shape ``(samples, r, positions)``.
        output: What the module returned; only its shape is read.

    Returns:
        Shape ``(columns of the weight matrix, r)``.
    """
    if isinstance(module, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1]).T @ _rows_first(signs)
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    spatial = _spatial_dimensions(module)
    batch, padding = _padded(module, inputs if inputs.dim() == spatial + 2 else inputs.unsqueeze(0))
    shape = (signs.shape[1], *module.weight.shape[1:])
    as_outputs = signs.reshape(*signs.shape[:2], *output.shape[-spatial:])
    weight_gradient = conv1d_weight if isinstance(module, nn.Conv1d) else conv2d_weight
    sums: Tensor = weight_gradient(batch, shape, as_outputs, stride=module.stride, padding=padding, dilation=module.dilation)  # type: ignore[no-untyped-call]
    return sums.flatten(1).T


def sketch_outputs(module: nn.Module, gradient: Tensor, signs: Tensor) -> Tensor:
    """The sum of the rows of the output gradient under signs of shape ``(samples, r, positions)``: shape ``(rows of the weight matrix, r)``."""
    if isinstance(module, nn.Linear):
        return gradient.reshape(-1, gradient.shape[-1]).T @ _rows_first(signs)
    spatial = _spatial_dimensions(module)
    batch = gradient if gradient.dim() == spatial + 2 else gradient.unsqueeze(0)
    return (batch.flatten(2) @ signs.transpose(1, 2)).sum(0)


def _rows_first(signs: Tensor) -> Tensor:
    return signs.transpose(1, 2).reshape(-1, signs.shape[1])


def _spatial_dimensions(module: nn.Module) -> int:
    return 1 if isinstance(module, nn.Conv1d) else 2


def _padded(module: nn.Conv1d | nn.Conv2d, batch: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The inputs with the padding that a plain convolution cannot add, and the padding that it can."""
    if module.padding_mode == "zeros" and not isinstance(module.padding, str):
        return batch, module.padding
    none = (0,) * len(module.kernel_size)
    if module.padding == "valid":
        return batch, none
    if isinstance(module.padding, str):
        totals = [dilation * (size - 1) for dilation, size in zip(module.dilation, module.kernel_size, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(size, size) for size in module.padding]
    last_first = [size for pair in reversed(sides) for size in pair]
    return functional.pad(batch, last_first, mode="constant" if module.padding_mode == "zeros" else module.padding_mode), none
