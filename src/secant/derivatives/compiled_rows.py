"""What the Jacobian of residuals at points is made of, as one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from secant.derivatives.block import Block, blocks, filled, packed
from secant.derivatives.taps import Copied, Linear, Taps, jacobian_of_adjoints
from secant.derivatives.tracing import traced
from secant.notice import warn_user

_POINTS = 2500
"""Points of a block, at most: a call of the program costs as much as some hundred points."""

Tapped = Callable[[Block], tuple[Tensor, Taps]]


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Program:
    """A compiled program, and what its results belong to.

    Attributes:
        run: From the tensors of a block and the parameters to the residuals, the inputs of the linear layers, and the adjoints.
        linear: The linear layers, in the order of their inputs.
        adjoints: For each adjoint the residual's component and the number of its tap, linear layers first.
        copied: The tensors that enter elementwise.
        size: Points of a block.
        parameters: Ids of the trained tensors.
    """

    run: Callable[..., Sequence[Tensor]]
    linear: tuple[Linear, ...]
    copied: tuple[Copied, ...]
    adjoints: tuple[tuple[int, int], ...]
    size: int
    parameters: tuple[int, ...]


@final
class CompiledRows:
    """Residuals and the adjoints of all layers, compiled. The products that make the Jacobian of them stay matrix arithmetic of torch: a compiler's are slower.

    Args:
        tapped: Gives the residuals of a block and what was tapped.
        block_at: What is fixed at some of the points.
        total: Number of points now.
        trained: What the residuals are differentiated by.

    Raises:
        ValueError: Some trained tensor takes part in a way that leaves no tap.
    """

    def __init__(self, tapped: Tapped, block_at: Callable[[slice], Block], total: int, trained: Sequence[Tensor]) -> None:
        self._tapped = tapped
        self._block_at = block_at
        size = max(part.stop - part.start for part in blocks(total, _POINTS))
        self._program = None if total == 0 else _compiled(tapped, filled(block_at(slice(0, size)), size), trained)

    def linearized(self, points: slice, parameters: Sequence[Tensor], trained: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Residuals and Jacobian at some of the points; see :meth:`secant.derivatives.PointResidual.linearize`."""
        count = points.stop - points.start
        program = self._program
        if program is None or program.parameters != tuple(id(tensor) for tensor in trained):
            if program is not None:
                warn_user(f"The Jacobian is compiled again, for {len(trained)} trained tensors. Freeze and unfreeze before you build the residual.")
            size = min(max(count, 1), _POINTS)
            program = self._program = _compiled(self._tapped, filled(self._block_at(slice(points.start, points.start + size)), size), trained)
        pieces = []
        for start in range(points.start, points.stop, program.size):
            part = slice(start, min(start + program.size, points.stop))
            r, J = _run(program, filled(self._block_at(part), program.size), parameters, trained)
            rows = (part.stop - part.start) * (len(r) // program.size)
            pieces.append((r[:rows], J[:rows]))
        if len(pieces) == 1:
            return pieces[0]
        width = sum(parameter.numel() for parameter in parameters)
        empty = [(program.linear[0].weight.new_zeros(0), program.linear[0].weight.new_zeros(0, width))] if not pieces else []
        residuals, rows_of = zip(*(pieces or empty), strict=True)
        return torch.cat(residuals), torch.cat([J.T for J in rows_of], dim=1).T


def _run(program: _Program, block: Block, parameters: Sequence[Tensor], trained: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        values, *rest = program.run(*packed(block), *(tensor.detach() for tensor in trained))
        inputs, adjoints = rest[: len(program.linear)], rest[len(program.linear) :]
        taps: list[Linear | Copied] = [*(replace(tap, inputs=x) for tap, x in zip(program.linear, inputs, strict=True)), *program.copied]
        found = [(taps[number], adjoint, component) for (component, number), adjoint in zip(program.adjoints, adjoints, strict=True)]
        return jacobian_of_adjoints(values, found, parameters)


def _compiled(tapped: Tapped, example: Block, trained: Sequence[Tensor]) -> _Program:
    with torch.enable_grad():
        values, taps = tapped(example)  # once aside: which adjoints there are
        _, noted = _adjoints(values, taps, trained)

    def adjoints(*tensors: Tensor) -> Sequence[Tensor]:
        block = Block(tensors[0], None if example.inputs is None else tensors[2], tensors[1])
        values, taps = tapped(block)
        found, _ = _adjoints(values, taps, trained)
        return [values.detach(), *(tap.inputs for tap in taps.linear), *found]

    run = traced(adjoints, *packed(example), *trained)
    small = values.new_zeros(0)
    linear = tuple(replace(tap, inputs=small, outputs=small) for tap in taps.linear)
    copied = tuple(replace(tap, copies=small) for tap in taps.copied)
    program = _Program(run, linear, copied, tuple(noted), len(example.points), tuple(id(tensor) for tensor in trained))
    _run(program, example, trained, trained)
    return program


def _adjoints(values: Tensor, taps: Taps, trained: Sequence[Tensor]) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """The adjoints that are not zero throughout, with component and number of the tap."""
    tensors = [tensor for tap in taps.linear for tensor in (tap.weight, tap.bias) if tensor is not None] + [tap.source for tap in taps.copied]
    ends = [*(tap.outputs for tap in taps.linear), *(tap.copies for tap in taps.copied)]
    found, noted = [], []
    for component, value in enumerate(values.unbind(1)):
        gradients = torch.autograd.grad(value.sum(), [*ends, *trained], retain_graph=True, allow_unused=True) if value.requires_grad else ()
        if not all(tensor.is_leaf for tensor in tensors) or any(gradient is not None for gradient in gradients[len(ends) :]):
            raise ValueError(
                "Expected trained tensors that are weights of linear layers or enter elementwise, with compile=True; some are computed from others or enter in "
                "another way. Leave compile=True out: the Jacobian is then made without a compiler."
            )
        for number, adjoint in enumerate(gradients[: len(ends)]):
            if adjoint is not None:
                found.append(adjoint)
                noted.append((component, number))
    return found, noted
