"""The loss and gradient of residuals at points as one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from secant.derivatives.block import Block, equal_blocks, packed
from secant.derivatives.pointwise import PointResidual
from secant.derivatives.tracing import traced
from secant.notice import warn_user

_POINTS = 2500
"""Points of a block, at most: a call of the program costs as much as some hundred points."""

Program = Callable[[Block], Sequence[Tensor]]
"""From a block to the loss and its gradient."""


@final
class CompiledGradient:
    """``0.5 * sum(r^2)`` of one residual and its gradient, compiled.

    Everything that Python does on the way, derivatives of the network and automatic differentiation included, is traced once and leaves a program of plain
    operations. All blocks have one size, so that one program serves them all: short ones repeat their last point with a scale of zero.

    Args:
        residual: Whose squares.
        parameters: What to differentiate by.
    """

    def __init__(self, residual: PointResidual, parameters: Sequence[Tensor]) -> None:
        self._residual = residual
        self._parameters: Sequence[Tensor] = ()
        self._revision: tuple[int, ...] = ()
        self._blocks: list[Block] = []
        self._program: Program | None = None
        self._size = -1
        self._prepare(parameters)

    def parts(self, parameters: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """The loss and its gradient, block after block."""
        same = len(parameters) == len(self._parameters) and all(one is other for one, other in zip(parameters, self._parameters, strict=True))
        if not same or self._residual.revision != self._revision:
            self._prepare(parameters)
        if self._program is None:
            yield self._residual.points.new_zeros(()), [torch.zeros_like(parameter) for parameter in parameters]
            return
        for block in self._blocks:
            loss, *gradient = self._program(block)
            yield loss, gradient

    def _prepare(self, parameters: Sequence[Tensor]) -> None:
        """Cut the points into blocks, and compile where the program at hand is for another size or other parameters."""
        self._blocks = list(equal_blocks(self._residual.block, len(self._residual.points), _POINTS))
        self._revision = self._residual.revision
        size = len(self._blocks[0].points) if self._blocks else 0
        is_new = size != self._size or [id(parameter) for parameter in parameters] != [id(parameter) for parameter in self._parameters]
        if not is_new:
            return
        if self._program is not None:
            warn_user(f"The loss is compiled again, for blocks of {size} points and {len(parameters)} parameter tensors. Keep both to save that time.")
        self._size, self._parameters = size, list(parameters)
        self._program = _compiled(self._residual, self._parameters, self._blocks[0]) if self._blocks else None


def _compiled(residual: PointResidual, parameters: Sequence[Tensor], example: Block) -> Program:
    def value_and_gradient(*tensors: Tensor) -> Sequence[Tensor]:
        inputs = None if example.inputs is None else tensors[2]
        r = residual.evaluate(Block(tensors[0], inputs, tensors[1])).reshape(-1)
        loss = 0.5 * torch.dot(r, r)
        if not loss.requires_grad:
            return loss, *(torch.zeros_like(parameter) for parameter in parameters)
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return loss.detach(), *gradient

    # The parameters come last: the residual uses these same tensors, and the tracer knows them by their identity.
    program = traced(value_and_gradient, *packed(example), *parameters)

    def run(block: Block) -> Sequence[Tensor]:
        with torch.no_grad():
            return program(*packed(block), *(parameter.detach() for parameter in parameters))

    run(example)
    return run
