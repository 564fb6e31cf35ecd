"""What a least-squares method is given: residuals, whole or one block of rows at a time, and their Jacobian."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor

from secant.closures import is_same, refuse_inference_mode
from secant.jacobians import BLOCK_BYTES, jacobian_of

ResidualClosure = Callable[[], Any]
"""Returns the residuals, shape ``(N,)``, or a tuple of such blocks."""


class Residual(ABC):
    """A residual vector ``r`` of known length whose rows can be evaluated apart, so that memory is bounded by a block of rows.

    It can be called without arguments, and then is the whole residual.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """``N``, the number of residuals."""

    @abstractmethod
    def rows(self, rows: slice) -> Tensor:
        """The residuals ``r[rows]``, shape ``(rows,)``, with a graph to the parameters."""

    @abstractmethod
    def values(self, rows: slice) -> Tensor:
        """The same numbers without a graph."""

    @abstractmethod
    def linearize(self, rows: slice, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The residuals ``r[rows]`` of shape ``(rows,)`` and their Jacobian of shape ``(rows, n)``, both without a graph.

        Args:
            rows: Which residuals.
            parameters: What to differentiate by. The columns follow their order, each flattened row by row; a parameter that plays no part has zeros, and a
                complex one counts as pairs of real numbers.
        """

    def __call__(self) -> Tensor:
        """The whole residual, shape ``(N,)``, with a graph."""
        return self.rows(slice(0, self.size))


@final
class RowResidual(Residual):
    """A residual given as a function of its rows.

    Args:
        function: ``function(rows: slice)`` returns ``r[rows]``, shape ``(rows,)``, with a graph to the parameters.
        size: ``N``.

    Raises:
        ValueError: ``size`` is negative.

    Example:
        >>> import torch
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> data = torch.arange(6.0)
        >>> line = RowResidual(lambda rows: x[0] + x[1] * data[rows] - 3.0, size=6)
        >>> residual, jacobian = line.linearize(slice(0, 2), [x])
        >>> jacobian
        tensor([[1., 0.],
                [1., 1.]])
    """

    def __init__(self, function: Callable[[slice], Tensor], size: int) -> None:
        if size < 0:
            raise ValueError(f"Expected size >= 0, got {size}.")
        self._function = function
        self._size = size

    @property
    def size(self) -> int:
        """``N``, the number of residuals."""
        return self._size

    def rows(self, rows: slice) -> Tensor:
        """The residuals ``r[rows]``; see :class:`Residual`."""
        count = len(range(*rows.indices(self._size)))
        block = checked_block(self._function(rows))
        if block.numel() != count:
            raise ValueError(f"Expected {count} residuals for {rows}, got {block.numel()}. Return one number for each row asked for.")
        return block

    def values(self, rows: slice) -> Tensor:
        """The same without a graph; the function runs with one, since it may differentiate inside."""
        with torch.enable_grad():
            return self.rows(rows).detach()

    def linearize(self, rows: slice, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Residuals and Jacobian by automatic differentiation of the block; see :class:`Residual`."""
        with torch.enable_grad():
            block = self.rows(rows)
        return block.detach(), jacobian_of(block, parameters)


@final
class SumOfSquares:
    """The closure ``0.5 * sum(r^2)`` of residuals, which also knows their Jacobian.

    As a closure it calls ``backward`` itself, one block after another, so that the memory is that of one block.

    Args:
        residual: A function that returns the residuals or a tuple of blocks of them, a :class:`Residual`, or a list of either.

    Raises:
        TypeError: There is nothing to call.
        ValueError: The list is empty.
    """

    def __init__(self, residual: ResidualClosure | Sequence[ResidualClosure]) -> None:
        parts = tuple(residual) if isinstance(residual, (list, tuple)) else (residual,)
        if not parts:
            raise ValueError("Expected at least one residual function, got an empty list.")
        for part in parts:
            if not callable(part):
                raise TypeError(f"Expected a function that returns the residuals, got {type(part).__name__}. Pass it without calling it: step(residual).")
        self.parts = parts
        self._size: int | None = None
        self._kept: list[Tensor] | None = None
        self._parameters: Sequence[Tensor] | None = None

    def differentiate_by(self, parameters: Sequence[Tensor]) -> None:
        """Add gradients to these tensors alone from now on."""
        self._parameters = parameters

    def is_of(self, residual: object) -> bool:
        """Whether this was made of the same objects."""
        parts = tuple(residual) if isinstance(residual, (list, tuple)) else (residual,)
        return len(parts) == len(self.parts) and all(is_same(one, other) for one, other in zip(parts, self.parts, strict=True))

    def __call__(self) -> Tensor:
        """The loss, detached, with its gradient added to ``.grad``.

        Raises:
            RuntimeError: None of the tensors to differentiate by is reached.
        """
        refuse_inference_mode()
        values = []
        kept, self._kept = self._kept, None
        for block in kept or self._blocks():
            if block.requires_grad:
                torch.autograd.backward(0.5 * torch.dot(block, block), inputs=self._parameters)
            values.append(block.detach())
        self._check(sum(block.numel() for block in values))
        if self._parameters is not None and all(parameter.grad is None for parameter in self._parameters):
            raise RuntimeError("No trainable parameter is reached by the residuals. Check that they are computed from the parameters given to the optimizer.")
        return half_sum_of_squares(values)

    def values(self) -> Tensor:
        """The residuals, shape ``(N,)``, without a graph. Those of a closure keep theirs for the call that may follow, which then is a backward pass alone."""
        self._kept = None
        keeps = not any(isinstance(part, Residual) for part in self.parts)
        blocks = list(self._blocks(with_graph=keeps))
        r = torch.cat([block.detach() for block in blocks])
        self._check(r.numel())
        self._kept = blocks if keeps else None
        return r

    @property
    def size(self) -> int:
        """``N``, known after the first evaluation; 0 before."""
        return self._size or 0

    @property
    def is_kept(self) -> bool:
        """Whether a call would use the residuals of the last ``values``."""
        return self._kept is not None

    def renew(self) -> None:
        """Allow another number of residuals: the data changed."""
        self._size = None
        self.forget()

    def forget(self) -> None:
        """Drop the residuals that wait for a call."""
        self._kept = None

    def linearized(self, parameters: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of residuals, shape ``(rows,)``, and of their Jacobian, shape ``(rows, n)``, in order, without a graph.

        Args:
            parameters: What to differentiate by.
            size: ``n``.
        """
        count = 0
        kept, self._kept = None if self._kept is None else iter(self._kept), None
        for part in self.parts:
            if isinstance(part, Residual):
                for rows in _cut(part.size, size):
                    r, J = part.linearize(rows, parameters)
                    expected = rows.stop - rows.start
                    if r.shape != (expected,) or J.shape != (expected, size):
                        raise ValueError(
                            f"Expected linearize to return shapes ({expected},) and ({expected}, {size}) for {rows}, got {tuple(r.shape)} and {tuple(J.shape)}."
                        )
                    count += expected
                    yield r.detach(), J.detach()
                continue
            if kept is None:
                with torch.enable_grad():
                    r = torch.cat(_checked(part()))
            else:
                r = next(kept)
            count += r.numel()
            yield r.detach(), jacobian_of(r, parameters)
        self._check(count)

    def graphs(self) -> Iterator[Tensor]:
        """The residuals with their graphs, block after block."""
        return self._blocks()

    def _blocks(self, *, with_graph: bool = True) -> Iterator[Tensor]:
        for part in self.parts:
            if isinstance(part, Residual):
                for rows in _cut(part.size, 1):
                    if with_graph:
                        with torch.enable_grad():
                            block = checked_block(part.rows(rows))
                    else:
                        block = checked_block(part.values(rows))
                    yield block
            else:
                with torch.enable_grad():
                    block = torch.cat(_checked(part()))
                yield block

    def _check(self, size: int) -> None:
        if size == 0:
            raise ValueError("Expected at least one residual, got none.")
        if self._size is not None and size != self._size:
            raise ValueError(f"Expected {self._size} residuals as before, got {size}. Pass a new function where the data change, or pad with zeros.")
        self._size = size


def half_sum_of_squares(blocks: Sequence[Tensor]) -> Tensor:
    """The loss of residuals in blocks; the same to the last bit however they are cut."""
    r = torch.cat(list(blocks))
    return 0.5 * torch.dot(r, r)


def checked_block(block: object) -> Tensor:
    """``block`` itself.

    Raises:
        TypeError: It is no tensor of real floating-point numbers.
        ValueError: It has not one dimension.
    """
    if not isinstance(block, Tensor):
        raise TypeError(f"Expected the residuals as a tensor of shape (N,), got {type(block).__name__}. Return them, not their sum of squares.")
    if not block.is_floating_point():
        raise TypeError(f"Expected real floating-point residuals, got {block.dtype}. Return torch.view_as_real(r).flatten() of complex ones.")
    if block.dim() != 1:
        raise ValueError(f"Expected residuals of shape (N,), got {tuple(block.shape)}. Return r.flatten(), not their mean or sum of squares.")
    return block


def _checked(blocks: object) -> tuple[Tensor, ...]:
    return tuple(checked_block(block) for block in (blocks if isinstance(blocks, (tuple, list)) and blocks else (blocks,)))


def _cut(size: int, width: int) -> Iterator[slice]:
    """Blocks of rows whose Jacobian of ``width`` columns stays within the limit."""
    rows = max(1, BLOCK_BYTES // (8 * max(width, 64)))
    for start in range(0, size, rows):
        yield slice(start, min(start + rows, size))
