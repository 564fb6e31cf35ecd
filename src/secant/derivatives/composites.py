"""Layers written out in elementary operations, so that jets and nested automatic differentiation are right through them to any order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from secant.derivatives.refusals import CoupledPointsError, NotUnderstoodError


def layer_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, cudnn_enable: bool = True
) -> Tensor:
    """``torch.nn.functional.layer_norm``; torch's own third derivatives are wrong (2.13)."""
    dims = _trailing(x, normalized_shape, "layer_norm")
    centered = x - x.mean(dims, keepdim=True)
    return _scaled(centered * torch.rsqrt((centered * centered).mean(dims, keepdim=True) + eps), weight, bias)


def rms_norm(x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """``torch.nn.functional.rms_norm``."""
    dims = _trailing(x, normalized_shape, "rms_norm")
    return _scaled(x * torch.rsqrt((x * x).mean(dims, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps)), weight, None)


def softmax(x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """``torch.nn.functional.softmax`` over features. The largest entry that is taken off does not change the result, nor its derivatives."""
    if dim is None:
        raise NotUnderstoodError("softmax without dim")
    x = x if dtype is None else x.to(dtype)
    powers = torch.exp(x - x.detach().amax(dim, keepdim=True))
    return powers / powers.sum(dim, keepdim=True)


def log_softmax(x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """``torch.nn.functional.log_softmax`` over features."""
    if dim is None:
        raise NotUnderstoodError("log_softmax without dim")
    x = x if dtype is None else x.to(dtype)
    shifted = x - x.detach().amax(dim, keepdim=True)
    return shifted - torch.log(torch.exp(shifted).sum(dim, keepdim=True))


def var(x: Tensor, dim: int | tuple[int, ...] | None = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: float = 1) -> Tensor:
    """``torch.var`` over features."""
    if dim is None or isinstance(dim, bool):
        raise CoupledPointsError("var over all dimensions")
    centered = x - x.mean(dim, keepdim=True)
    count = math.prod(x.shape[one] for one in ((dim,) if isinstance(dim, int) else dim))
    return (centered * centered).sum(dim, keepdim=keepdim) / max(count - (correction if unbiased is None else unbiased), 0)


def std(x: Tensor, dim: int | tuple[int, ...] | None = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: float = 1) -> Tensor:
    """``torch.std`` over features."""
    return torch.sqrt(var(x, dim, unbiased, keepdim, correction=correction))


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """``torch.nn.functional.glu``."""
    left, right = x.chunk(2, dim)
    return left * torch.sigmoid(right)


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """``torch.nn.functional.dropout``: one mask for the values and all derivatives."""
    return x * torch.nn.functional.dropout(torch.ones_like(x), p, True) if training and p > 0.0 else x


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` with the stored statistics; those of the batch mix points."""
    if training or running_mean is None or running_var is None:
        raise CoupledPointsError("batch_norm with the statistics of the batch")
    shape = (-1, *(1 for _ in x.shape[2:]))
    scale = torch.rsqrt(running_var + eps)
    return _scaled(
        (x - running_mean.view(shape)) * scale.view(shape), None if weight is None else weight.view(shape), None if bias is None else bias.view(shape)
    )


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.instance_norm``, without an update of the running statistics; torch's own third derivatives are wrong (2.13)."""
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = tuple(range(2, x.ndim))
    if not dims:
        raise NotUnderstoodError("instance_norm without positions")
    centered = x - x.mean(dims, keepdim=True)
    shape = (-1, *(1 for _ in dims))
    normalized = centered * torch.rsqrt((centered * centered).mean(dims, keepdim=True) + eps)
    return _scaled(normalized, None if weight is None else weight.view(shape), None if bias is None else bias.view(shape))


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.bilinear`` of inputs of shape ``(points, features)``."""
    if x.ndim != 2 or y.ndim != 2:
        raise NotUnderstoodError("bilinear of these shapes")
    return _scaled(torch.einsum("noj,nj->no", torch.einsum("ni,oij->noj", x, weight), y), None, bias)


def _trailing(x: Tensor, normalized_shape: Sequence[int], name: str) -> tuple[int, ...]:
    if len(normalized_shape) >= x.ndim:
        raise CoupledPointsError(f"{name} over all dimensions")
    return tuple(range(-len(normalized_shape), 0))


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


COMPOSITES: Mapping[str, Callable[..., Any]] = {
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "var": var,
    "std": std,
    "glu": glu,
    "dropout": dropout,
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "bilinear": bilinear,
}
"""By their names in torch."""
