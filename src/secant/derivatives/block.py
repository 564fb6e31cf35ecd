"""Blocks of points: what is fixed at them, and how points are cut into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What is fixed at a block of points.

    Attributes:
        points: Shape ``(points, d)``.
        inputs: The channels of the network's inputs, shape ``(channels, points, inputs)``; None where they are trained, or are the points themselves.
        scale: Multiplies the residuals: a number, or shape ``(points, 1)``.
    """

    points: Tensor
    inputs: Tensor | None
    scale: float | Tensor


def blocks(size: int, largest: int) -> Iterator[slice]:
    """Slices of about equal length that cover ``size`` points; an empty one for none."""
    count = max(1, -(-size // largest))
    for block in range(count):
        yield slice(block * size // count, (block + 1) * size // count)


def equal_blocks(block_at: Callable[[slice], Block], total: int, most: int) -> Iterator[Block]:
    """Blocks of equally many points, each with one scale per point; none for no points. Short ones repeat their last point with a scale of zero."""
    longest = max(part.stop - part.start for part in blocks(total, most))
    for part in blocks(total, most) if total else ():
        yield filled(block_at(part), longest)


def filled(block: Block, size: int) -> Block:
    """The block with so many points: its last one is repeated with a scale of zero."""
    count = len(block.points)
    scale = block.scale.expand(count, 1) if isinstance(block.scale, Tensor) else block.points.new_full((count, 1), block.scale)
    rows = torch.arange(size, device=scale.device).clamp_max(count - 1)
    scale = torch.where(torch.arange(size, device=scale.device)[:, None] < count, scale[rows], 0.0)
    return Block(block.points[rows], None if block.inputs is None else _features_first(block.inputs[:, rows]), scale)


def packed(block: Block) -> list[Tensor]:
    """The tensors of a block with one scale per point."""
    return [tensor for tensor in (block.points, block.scale, block.inputs) if isinstance(tensor, Tensor)]


def _features_first(inputs: Tensor) -> Tensor:
    """The same tensor of channels, features first in memory, where matrix products are fastest."""
    return inputs.movedim(-1, 0).contiguous().movedim(0, -1)
