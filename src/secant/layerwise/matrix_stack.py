"""Equal matrices trained together: one kernel for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, final

import torch
from torch import Tensor

from secant.layerwise.factors import Power, correct, identities, largest_entries, window_kappa
from secant.layerwise.routing import matrix_shape

_SMALLEST_RANK = 4
_RANK_SHARE = 32
"""One sketch column per so many rows: the cost of a correction is then a fixed, small part of the cost of a step."""
_UPDATE_RMS = 0.1
"""Root mean square of an update per unit of the learning rate."""
_FIRST_POWER_ITERATIONS = 5
_SMALLEST_NORM = 2.0**-60
"""Below every norm of an update that is not zero, once its average is scaled to entries around one."""
_LARGE_PRODUCT = 2**22
"""Multiplications from which on a product in half precision saves more than the conversions cost."""


class Sides(Enum):
    """Which sides of a matrix get a factor, among those that are not too large."""

    ALL = "all"
    SMALLER = "smaller"


@dataclass(frozen=True, slots=True)
class FactorOptions:
    """What is the same for all matrices of an optimizer.

    Attributes:
        sides: Which sides get a factor.
        largest_side: No factor above this dimension.
        every: Steps of a matrix from one correction of its factors to the next; its first step corrects.
        window: Corrections over which a factor forgets.
        kappa: Fixed share of a sketch that one correction takes out; None for the rule of the window.
        largest_kappa: Largest share of a sketch that one correction takes out.
        power: Whitening or full inverse.
        stretch: Largest singular value of an update, in units of its root mean square at full length times the root of the smaller side. A young factor
            leaves the gradient nearly of rank one, and its root mean square alone then allows steps along that one direction that saturate a wide layer.
        multiply_dtype: In which the factors are applied; None for :func:`fast_dtype`.
    """

    sides: Sides
    largest_side: int
    every: int
    window: int
    kappa: float | None
    largest_kappa: float
    power: Power
    stretch: float
    multiply_dtype: torch.dtype | None


@dataclass(frozen=True, slots=True)
class Movement:
    """How the matrices of one group move at one step.

    Attributes:
        lr: Learning rate.
        momentum: Weight of the past in the averaged gradient.
        nesterov: Whether the step looks one average ahead.
        weight_decay: Decoupled.
    """

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float


def kept_sides(rows: int, columns: int, sides: Sides, largest_side: int) -> tuple[bool, bool]:
    """Whether a matrix gets a left and a right factor: where a side's square does not exceed the number of elements, and the side not the limit.

    Factors then take at most as much memory as the matrix each, and only a square matrix has two.
    """
    left = rows <= columns and rows <= largest_side
    right = columns <= rows and columns <= largest_side
    return left, right and not (left and sides is Sides.SMALLER)


def fast_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type in which factors are applied to a gradient: ``bfloat16`` for single precision where the device multiplies it natively, else ``dtype``.

    Its relative error of 0.4 percent changes the direction of a step far less than the noise of a batch does; averages and factors keep their own type.
    """
    if dtype != torch.float32:
        return dtype
    if device.type == "cpu":
        known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return torch.bfloat16 if known.get("avx512_bf16") or known.get("amx_bf16") else dtype
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else dtype


def load_matrix_state(parameter: Tensor, entry: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a saved entry of ``state`` for this matrix: averages and factors where it is and in at least single precision, the count on the host."""
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return {
        name: value.detach().to(device="cpu", copy=True) if name == "step" else value.detach().to(device=parameter.device, dtype=dtype, copy=True)
        for name, value in entry.items()
    }


@final
class MatrixStack:
    """Momentum and factors of equal matrices, stacked; what ``state`` of the optimizer holds are views of it.

    Args:
        parameters: Of one shape, dtype and device, from one group.
        states: Their entries of the optimizer's ``state``; empty for new ones. The entries are made views of the stack.
        options: Of the optimizer.
    """

    def __init__(self, parameters: Sequence[Tensor], states: Sequence[dict[str, Any]], options: FactorOptions) -> None:
        self.parameters = list(parameters)
        self._options = options
        first = self.parameters[0]
        self.rows, self.columns = matrix_shape(first)
        self._dtype = torch.promote_types(first.dtype, torch.float32)
        left, right = kept_sides(self.rows, self.columns, options.sides, options.largest_side)
        is_large = self.rows * self.columns * min(self.rows, self.columns) >= _LARGE_PRODUCT
        self._multiply_dtype = options.multiply_dtype or (fast_dtype(self._dtype, first.device) if is_large else self._dtype)
        self._momentum = self._stacked(states, "momentum", (self.rows, self.columns))
        self._left = self._stacked(states, "left", (self.rows, self.rows)) if left else None
        self._right = self._stacked(states, "right", (self.columns, self.columns)) if right else None
        self._stretched = self._stacked(states, "stretched", (min(self.rows, self.columns),))
        self._stretch = self._stacked(states, "stretch", ())
        self._scale: Tensor | None = None
        self._step = states[0]["step"] if states[0] else torch.zeros((), dtype=torch.float32)
        self._publish(states)

    def signs_needed(self) -> int:
        """Random signs that the next step takes; none where it does not correct the factors."""
        if int(self._step) % self._options.every != 0:
            return 0
        start = self._stretched.numel() if self._step == 0 else 0
        return start + len(self.parameters) * sum(sketched * self._rank(side) for _, sketched, side in self._factors())

    @torch.no_grad()
    def advance(self, gradients: Sequence[Tensor], movement: Movement, signs: Tensor) -> None:
        """One step of all matrices.

        Args:
            gradients: One per matrix, shaped like it, finite.
            movement: Rates.
            signs: Random signs, as many as ``signs_needed`` says.
        """
        gradient = (gradients[0].unsqueeze(0) if len(gradients) == 1 else torch.stack(list(gradients))).reshape(-1, self.rows, self.columns).to(self._dtype)
        corrects, iterations = signs.numel() > 0, 1
        if self._step == 0:
            iterations = _FIRST_POWER_ITERATIONS
            self._stretched.copy_(signs[: self._stretched.numel()].view_as(self._stretched))
            signs = signs[self._stretched.numel() :]
        self._step += 1
        self._momentum.lerp_(gradient, 1.0 - movement.momentum)
        average = gradient.lerp(self._momentum, movement.momentum) if movement.nesterov else self._momentum
        # by the averaged gradient, not by the batch's: its covariance is that of what is stepped along, with far less of the noise in it
        if corrects:
            self._correct(average, signs)
        if corrects or self._scale is None:  # a power of two changes no bit of the step, so an old one serves, and none is saved
            size = largest_entries(average)
            bounded = size.clamp(2.0**-100, 2.0**100)
            self._scale = torch.where(size > 0, torch.frexp(bounded).mantissa / bounded, 1.0)  # of zeros none follows: the next ones may have any size
        update = self._precondition(average, self._scale)
        norm = torch.linalg.vector_norm(update, dim=(-2, -1)).clamp_min(_SMALLEST_NORM)
        if corrects:
            self._measure_stretch(update, norm, iterations)
        length = (-_UPDATE_RMS * math.sqrt(self.rows * self.columns) * movement.lr) / (norm * self._stretch.clamp_min(1.0))
        if movement.weight_decay != 0.0:
            torch._foreach_mul_(self.parameters, 1.0 - movement.lr * movement.weight_decay)
        update = (update * length[:, None, None]).view(-1, *self.parameters[0].shape)
        torch._foreach_add_(self.parameters, list(update.unbind(0)))

    def _correct(self, average: Tensor, signs: Tensor) -> None:
        """Correct both factors by sketches of the averaged gradient, each preconditioned by the other side."""
        count, layers = -(-int(self._step) // self._options.every), len(self.parameters)
        start, options = 0, self._options
        for factor, sketched, side in self._factors():
            rank = self._rank(side)
            random = signs[start : start + layers * rank * sketched].view(layers, rank, sketched).to(self._dtype)
            start += random.numel()
            is_left = factor is self._left
            other = self._right if is_left else self._left
            sketch = (random if other is None else random @ other) @ (average.mT if is_left else average)
            kappa = window_kappa(side, rank, count, options.window, options.largest_kappa) if options.kappa is None else options.kappa
            correct(factor, sketch, kappa, options.power)

    def _precondition(self, average: Tensor, scale: Tensor) -> Tensor:
        """The average between its factors, times a power of two that keeps the squares of the update in range at every size of gradients."""
        dtype = self._multiply_dtype
        product = average.to(dtype)
        if self._left is not None:
            product = (self._left * scale).to(dtype) @ product
        if self._right is not None:
            product = product @ (self._right if self._left is not None else self._right * scale).to(dtype)
        return product.to(self._dtype)

    def _measure_stretch(self, update: Tensor, norm: Tensor, iterations: int) -> None:
        """How many times the largest singular value of each update exceeds what is allowed at its root mean square.

        A power iteration that goes on from step to step, one multiplication from both sides at a time, at the steps that correct the factors.
        """
        across = update if self.columns <= self.rows else update.mT
        for _ in range(iterations):
            image = across @ self._stretched.unsqueeze(-1)
            back = (across.mT @ image).squeeze(-1)
            size = torch.linalg.vector_norm(back, dim=-1)
            largest = size / torch.linalg.vector_norm(image, dim=(-2, -1)).clamp_min(_SMALLEST_NORM)
            self._stretched.copy_(torch.where((size > 0)[:, None], back / size[:, None], self._stretched))
        allowed = self._options.stretch * math.sqrt(min(self.rows, self.columns) / (self.rows * self.columns))
        torch.div(largest, norm * allowed, out=self._stretch)

    def _factors(self) -> list[tuple[Tensor, int, int]]:
        """Each factor, the dimension that its sketches sum over, and its own."""
        pairs = ((self._left, self.columns, self.rows), (self._right, self.rows, self.columns))
        return [(factor, sketched, side) for factor, sketched, side in pairs if factor is not None]

    def _rank(self, side: int) -> int:
        return min(side, max(_SMALLEST_RANK, -(-side // _RANK_SHARE)))

    def _stacked(self, states: Sequence[dict[str, Any]], name: str, shape: tuple[int, ...]) -> Tensor:
        if states[0]:
            return torch.stack([state[name].reshape(shape) for state in states])
        first = self.parameters[0]
        if name in ("left", "right"):
            return identities(len(states), shape[0], torch.empty(0, dtype=self._dtype, device=first.device))
        return torch.zeros((len(states), *shape), dtype=self._dtype, device=first.device)

    def _publish(self, states: Sequence[dict[str, Any]]) -> None:
        """Make the entries of the optimizer's state views of the stack."""
        shape = self.parameters[0].shape
        for index, state in enumerate(states):
            state["step"] = self._step
            state["momentum"] = self._momentum[index].view(shape)
            state["stretched"] = self._stretched[index]
            state["stretch"] = self._stretch[index]
            for name, factor in (("left", self._left), ("right", self._right)):
                if factor is not None:
                    state[name] = factor[index]
