"""Derivatives of any network by nested automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from secant.derivatives.algebra import LAPLACIAN, Combination, Index, MultiIndex, order_of, terms_of
from secant.derivatives.composites import instance_norm, layer_norm
from secant.derivatives.refusals import KINKED, CoupledPointsError, KinkError
from secant.operators.plain_forms import plain_forms

_PROBED = 4
"""Points of the probe for interaction: enough for any operation over points, and free."""


def nested_derivatives(function: Callable[[Tensor], Tensor], points: Tensor, indices: Sequence[Index]) -> tuple[Tensor, ...]:
    """The derivatives of a function of single points, by reverse differentiation of reverse differentiation.

    Args:
        function: From points ``(N, d)`` to ``(N,)`` or ``(N, m)``; row ``i`` of the result may depend on row ``i`` of the points only.
        points: Shape ``(N, d)``.
        indices: Which derivatives.

    Returns:
        Each of the shape of the function's result, with a graph where gradients are recorded. Cost: every order about doubles that of the one below, times the
        number of outputs.

    Raises:
        KinkError: For second and higher derivatives through a function with a kink.
        CoupledPointsError: For the statistics of a batch.
    """
    recording = torch.is_grad_enabled()
    order = max(order_of(index) for index in indices)
    with torch.inference_mode(False), torch.enable_grad():
        here = points.view_as(points) if points.requires_grad else _leaf(points)
        with written_out(here, order):
            known: dict[MultiIndex, Tensor] = {(): function(here)}
        if order > 2:
            _check_norms(known[()])
        results = [_derivative(index, known, here) for index in indices]
    return tuple(results) if recording else tuple(result.detach() for result in results)


@contextmanager
def written_out(points: Tensor, order: int) -> Iterator[None]:
    """Run a network on the points inside so that its derivatives of this order are right or refused."""
    with plain_forms(), _WrittenOut(points, order):
        yield


def check_points_apart(function: Callable[[Tensor], Tensor], points: Tensor) -> None:
    """Check on a few points that no output depends on another point.

    Raises:
        CoupledPointsError: When the gradient of the first point's outputs by another point is not zero.
    """
    with torch.inference_mode(False), torch.enable_grad():
        few = _leaf(points[:_PROBED])
        with written_out(few, 1):
            outputs = function(few)
        if not outputs.requires_grad:
            return
        (gradient,) = torch.autograd.grad(outputs[0].sum(), few, materialize_grads=True)
    if len(few) > 1 and bool((gradient[1:].abs() > 0.0).any()):
        raise CoupledPointsError("a network in which an output depends on other points")


def _derivative(index: Index, known: dict[MultiIndex, Tensor], points: Tensor) -> Tensor:
    """Fills in ``known``: the derivatives by every coordinate come with the one that is asked for."""
    if isinstance(index, Combination) or index == LAPLACIAN:
        return torch.stack([weight * _derivative(term, known, points) for term, weight in terms_of(index, points.shape[1])]).sum(0)
    if index not in known:
        lower = _derivative(index[:-1], known, points)
        columns = lower.unbind(1) if lower.ndim == 2 else (lower,)
        gradients = torch.stack([_gradient(column, points) for column in columns], dim=1)
        for axis in range(points.shape[1]):
            known.setdefault(tuple(sorted((*index[:-1], axis))), gradients[:, :, axis].reshape(lower.shape))
    return known[index]


def _leaf(points: Tensor) -> Tensor:
    return (points.clone() if points.is_inference() else points.detach()).requires_grad_()


def _nodes(tensor: Tensor) -> set[Node]:
    """The graph behind a tensor."""
    found: set[Node] = set()
    waiting = [get_gradient_edge(tensor).node] if tensor.requires_grad else []
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(following for following, _ in node.next_functions if following is not None)
    return found


def _check_norms(outputs: Tensor) -> None:
    """Refuse what torch differentiates wrongly three times, where scripted code has kept it from being written out or hides whether it is there."""
    for node in _nodes(outputs):
        name = node.name().rpartition("::")[2]
        if "LayerNorm" in name or "DifferentiableGraph" in name or ("BatchNorm" in name and getattr(node, "_saved_training", True)):
            raise ValueError(
                f"Third and higher derivatives need a network in which layer norms can be written out, torch's own being wrong; got scripted code ({name}). "
                "Use the module from before torch.jit.script or torch.jit.trace."
            )


def _gradient(output: Tensor, points: Tensor) -> Tensor:
    if not output.requires_grad:
        return torch.zeros_like(points)
    (gradient,) = torch.autograd.grad(output.sum(), points, create_graph=True, materialize_grads=True)
    return gradient


@final
class _WrittenOut(TorchFunctionMode):
    """Replaces layers whose higher derivatives torch has wrong, and refuses what has none."""

    def __init__(self, points: Tensor, order: int) -> None:
        super().__init__()
        self._source = get_gradient_edge(points).node
        self._order = order

    def __torch_function__(self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "").rstrip("_")
        if name in KINKED and self._order > 1 and any(isinstance(arg, Tensor) and self._source in _nodes(arg) for arg in args):
            raise KinkError(name)
        if name == "batch_norm" and _by_position_or_name(args, options, 5, "training"):
            raise CoupledPointsError("batch_norm with the statistics of the batch")
        return _FORMS.get(func, func)(*args, **options)


def _by_position_or_name(args: tuple[Any, ...], options: Mapping[str, Any], position: int, name: str) -> Any:
    return args[position] if len(args) > position else options.get(name, False)


_FORMS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.nn.functional.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    torch.nn.functional.instance_norm: instance_norm,
}
