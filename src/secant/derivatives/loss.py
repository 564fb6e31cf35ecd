"""Half the sum of squares of residuals at points, as a closure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor

from secant.derivatives.block import blocks
from secant.derivatives.compiled import CompiledGradient
from secant.derivatives.pointwise import PointResidual

_POINTS = 2500
"""Points evaluated together: enough to hide what a call of torch costs, few enough for their channels to stay in cache."""


def loss_closure(residuals: PointResidual | Sequence[PointResidual], *, compile: bool = False) -> Callable[[], Tensor]:
    """The closure ``0.5 * sum(r^2)`` over the residuals, for any optimizer that takes one.

    The closure is one object for the whole run: it follows :meth:`PointResidual.replace_points`. Loss and gradient are computed together, a block of points
    after the other, so that what a block leaves for its backward pass stays in cache; ``backward`` only hands the gradient out.

    Args:
        residuals: One or several.
        compile: Compile loss and gradient, here and now: some twenty seconds on a processor, or a few where the cache on disk has the same program. It is for
            the present ``torch.get_num_threads()``. Another number of points, and parameters that are frozen or unfrozen, compile again, with a warning. What
            the network and the equation compute from constants alone stays what it is now.

    Returns:
        A function of no arguments that returns the scalar loss with a graph. It can be differentiated twice, at the cost of another, uncompiled evaluation.

    Raises:
        TypeError: For anything but point residuals.
        ValueError: For none, and for residuals that depend on nothing that is trained.
    """
    parts = tuple(residuals) if isinstance(residuals, Sequence) else (residuals,)
    for part in parts:
        if not isinstance(part, PointResidual):
            raise TypeError(f"loss_closure needs PointResidual objects, got {type(part).__name__}. Wrap the equation and its points in one.")
    if not parts:
        raise ValueError("loss_closure needs at least one residual, got none.")
    return _Loss(parts, compile=compile)


@final
class _Loss:
    """See :func:`loss_closure`."""

    def __init__(self, residuals: Sequence[PointResidual], *, compile: bool) -> None:
        known = {id(tensor): tensor for residual in residuals for tensor in (*residual.parameters(), *_leaves(residual))}
        self._residuals = residuals
        self._parameters = tuple(known.values())
        if not any(parameter.requires_grad for parameter in self._parameters):
            raise ValueError("loss_closure needs residuals of something that is trained, got none. Let the network's parameters require a gradient.")
        self._compiled = [CompiledGradient(residual, self._trained()) for residual in residuals] if compile else []

    def __call__(self) -> Tensor:
        """The loss, with a graph where gradients are recorded."""
        trained = self._trained()
        if torch.is_grad_enabled() and trained:
            result: Tensor = _LossWithGradient.apply(self, trained, *trained)  # type: ignore[no-untyped-call]
            return result
        return self.plain()

    def plain(self) -> Tensor:
        """The loss by ordinary evaluation of all blocks."""
        return torch.stack([0.5 * torch.dot(r, r) for r in self._blocks()]).sum()

    def value_and_gradient(self, parameters: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The loss and its gradient, without a graph."""
        total: Tensor | None = None
        gradient: list[Tensor] = []
        for loss, part in self._compiled_parts(parameters) if self._compiled else self._parts(parameters):
            total = loss if total is None else total + loss
            gradient = list(torch._foreach_add(gradient, part)) if gradient else part
        assert total is not None
        return total, gradient

    def _parts(self, parameters: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        with torch.enable_grad():
            for r in self._blocks():
                loss = 0.5 * torch.dot(r, r)
                if loss.requires_grad:
                    yield loss.detach(), list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
                else:
                    yield loss, [torch.zeros_like(parameter) for parameter in parameters]

    def _compiled_parts(self, parameters: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        for compiled in self._compiled:
            yield from compiled.parts(parameters)

    def _blocks(self) -> Iterator[Tensor]:
        for residual in self._residuals:
            for points in blocks(len(residual.points), _POINTS):
                yield residual.at(points).reshape(-1)

    def _trained(self) -> list[Tensor]:
        return [parameter for parameter in self._parameters if parameter.requires_grad]


@final
class _LossWithGradient(torch.autograd.Function):
    """The loss, whose gradient was computed with it; differentiable again by evaluating anew."""

    @staticmethod
    def forward(ctx: Any, loss: _Loss, parameters: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        """The loss; ``inputs`` are the parameters once more, where autograd looks for them."""
        value, ctx.gradient = loss.value_and_gradient(parameters)
        ctx.loss, ctx.parameters = loss, parameters
        return value

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient times the cotangent; with a graph of its own where one is asked for."""
        gradient = ctx.gradient
        if torch.is_grad_enabled():
            gradient = torch.autograd.grad(ctx.loss.plain(), ctx.parameters, create_graph=True, allow_unused=True, materialize_grads=True)
        return None, None, *(cotangent * part for part in gradient)


def _leaves(residual: PointResidual) -> Iterator[Tensor]:
    """The trained leaves that the residual of one point depends on, whoever holds them."""
    with torch.enable_grad():
        pending: list[Any] = [residual.at(slice(0, 1)).grad_fn]
    seen = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        pending.extend(following for following, _ in node.next_functions)
