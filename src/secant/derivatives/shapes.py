"""Linear operations that act on each point's features alone, on one channel like on all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from secant.derivatives.refusals import CoupledPointsError, NotUnderstoodError

Guard = Callable[[str, Tensor, tuple[Any, ...], Mapping[str, Any]], None]
"""``guard(name, value, arguments, options)`` raises when the operation, applied to the value, would not keep points apart and in their place."""


def feature_index(items: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    """An index that leaves the points alone, with its ellipsis written out.

    Raises:
        NotUnderstoodError: When it selects or moves points.
    """
    taken = sum(item is not None and not isinstance(item, EllipsisType) for item in items)
    if sum(isinstance(item, EllipsisType) for item in items) == 1:
        place = next(place for place, item in enumerate(items) if isinstance(item, EllipsisType))
        items = (*items[:place], *(slice(None),) * (ndim - taken), *items[place + 1 :])
    if not items or not isinstance(items[0], slice) or items[0] != slice(None):
        raise NotUnderstoodError("an index that selects points")
    lists = [item for item in items if isinstance(item, (Tensor, list, tuple))]
    if lists and (len(lists) > 1 or any(isinstance(item, int) for item in items)):
        raise NotUnderstoodError("an index by several lists")
    return items


def per_channel(func: Callable[..., Any], tensor: Tensor, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    """The function of each channel, the channels first in every result."""
    return torch.vmap(lambda channel: func(channel, *args, **options))(tensor)


def keeps_points(result: Any, points: int, name: str) -> None:
    """Check that a result of channels has its points where they were."""
    for part in result if isinstance(result, (tuple, list)) else (result,):
        if part.ndim < 2 or part.shape[1] != points:
            raise NotUnderstoodError(f"{name} that moves points")


def _free(name: str, value: Tensor, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """No check: the elements stay in order, so that equal numbers of points mean equal points."""


def _over_features(position: int, default: int | None = None) -> Guard:
    """The dimensions stand at this position, or are called ``dim`` or ``dims``; none means the default, or all."""

    def guard(name: str, value: Tensor, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        dims = args[position] if len(args) > position else options.get("dim", options.get("dims", options.get("axis", default)))
        if dims is None or (isinstance(dims, Sequence) and not dims):
            raise CoupledPointsError(f"{name} over all dimensions")
        if any(dim % value.ndim == 0 for dim in (dims if isinstance(dims, Sequence) else (dims,))):
            raise CoupledPointsError(f"{name} over the points")

    return guard


def _along_features(position: int, default: int = 0) -> Guard:
    """For operations that take apart or select along a dimension without mixing: along the points there is no rule."""

    def guard(name: str, value: Tensor, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        dim = args[position] if len(args) > position else options.get("dim", default)
        if dim % value.ndim == 0:
            raise NotUnderstoodError(f"{name} along the points")

    return guard


def _transpose(name: str, value: Tensor, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    dims = (*args, *options.values())
    if any(dim % value.ndim == 0 for dim in dims):
        raise NotUnderstoodError(f"{name} that moves points")


def _permute(name: str, value: Tensor, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    dims = options.get("dims", args)
    dims = dims[0] if len(dims) == 1 and isinstance(dims[0], Sequence) else dims
    if dims[0] % value.ndim:
        raise NotUnderstoodError("permute that moves points")


def _same_rank(name: str, value: Tensor, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    sizes = next(iter(options.values())) if options else args
    sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes
    if len(sizes) != value.ndim or (name in ("repeat", "tile") and sizes[0] != 1):
        raise NotUnderstoodError(f"{name} that moves points")


ELEMENTWISE_LINEAR = frozenset("neg negative __neg__ positive __pos__ clone contiguous to float double half bfloat16 type type_as identity alias".split())  # noqa: SIM905
"""Linear operations that act on all channels at once as on one."""

LINEAR: Mapping[str, Guard] = {
    "sum": _over_features(0),
    "mean": _over_features(0),
    "cumsum": _over_features(0),
    "flip": _over_features(0),
    "roll": _over_features(1),
    "view": _free,
    "reshape": _free,
    "flatten": _free,
    "unflatten": _free,
    "squeeze": _free,
    "unsqueeze": _free,
    "transpose": _transpose,
    "swapaxes": _transpose,
    "swapdims": _transpose,
    "permute": _permute,
    "expand": _same_rank,
    "repeat": _same_rank,
    "tile": _same_rank,
    "broadcast_to": _same_rank,
    "select": _along_features(0),
    "narrow": _along_features(0),
    "index_select": _along_features(0),
    "unbind": _along_features(0),
    "chunk": _along_features(1),
    "split": _along_features(1),
    "tensor_split": _along_features(1),
}
"""Guards of linear operations, by their names in torch."""

CONSTANT = frozenset(
    (  # noqa: SIM905
        "detach zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty new_tensor gt ge lt le eq ne greater "
        "greater_equal less less_equal not_equal isnan isinf isfinite sign round floor ceil heaviside signbit size dim numel nelement is_floating_point "
        "is_complex is_contiguous stride get_device argmax argmin ndimension __len__ is_nonzero"
    ).split()
)
"""Operations whose result does not depend on the coordinates, or jumps: they see the values, and return plain tensors."""
