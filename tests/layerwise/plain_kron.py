"""``RankOneKron`` on matrices only, as one would write it down: one matrix at a time, inverses of whole matrices, double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

DOUBLE = torch.float64


def noise(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def kron_parameters(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    return [noise(shape, seed=1000 + index).requires_grad_() for index, shape in enumerate(shapes)]


@dataclass
class Matrix:
    """What is remembered of one matrix."""

    momentum: Tensor
    factors: dict[str, Tensor]
    vector: Tensor | None = None
    excess: float = 0.0
    step: int = 0
    signs: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class PlainKron:
    """The truth that the optimizer is compared with; its options have the same names and defaults."""

    parameters: Sequence[Tensor]
    lr: float = 0.01
    momentum: float = 0.95
    weight_decay: float = 0.0
    nesterov: bool = True
    every: int = 2
    window: int = 60
    kappa: float | None = None
    power: int = 1
    sides: str = "all"
    largest_side: int = 8192
    stretch: float = 4.0
    maximize: bool = False
    matrices: dict[int, Matrix] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def step(self) -> None:
        active = [(index, p) for index, p in enumerate(self.parameters) if p.grad is not None and self.kept(p)]
        self.draw([index for index, _ in active])
        for index, parameter in active:
            self.move(self.matrices[index], parameter)

    def kept(self, parameter: Tensor) -> list[str]:
        rows, columns = parameter.shape[0], parameter[0].numel()
        kept = [name for name, side in (("left", rows), ("right", columns)) if side**2 <= rows * columns and side <= self.largest_side]
        return kept[:1] if self.sides == "smaller" else kept

    def draw(self, active: Sequence[int]) -> None:
        """Signs in the order of the optimizer: equal shapes of equal age together; first the start vectors, then all left sketches, then all right ones."""
        stacks: dict[tuple[object, int | None], list[int]] = {}
        for index in active:
            shape = self.parameters[index].shape
            stacks.setdefault((shape, self.matrices[index].step if index in self.matrices else None), []).append(index)
        for (_, age), indices in stacks.items():
            parameter = self.parameters[indices[0]]
            rows, columns = parameter.shape[0], parameter[0].numel()
            sides = {"left": (rows, columns), "right": (columns, rows)}
            if age is None:
                for index in indices:
                    factors = {name: torch.eye(sides[name][0], dtype=DOUBLE) for name in self.kept(parameter)}
                    self.matrices[index] = Matrix(torch.zeros(rows, columns, dtype=DOUBLE), factors, self.signs(min(rows, columns)))
            if (age or 0) % self.every == 0:
                for name in self.kept(parameter):
                    side, sketched = sides[name]
                    for index in indices:
                        self.matrices[index].signs[name] = self.signs(min(side, max(4, math.ceil(side / 32))) * sketched).view(-1, sketched)

    def signs(self, count: int) -> Tensor:
        return torch.randint(0, 2, (count,), generator=self.generator, dtype=torch.int8).to(DOUBLE) * 2 - 1

    def move(self, matrix: Matrix, parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.reshape(matrix.momentum.shape) * (-1 if self.maximize else 1)
        corrects = matrix.step % self.every == 0
        matrix.momentum = self.momentum * matrix.momentum + (1 - self.momentum) * gradient
        average = (1 - self.momentum) * gradient + self.momentum * matrix.momentum if self.nesterov else matrix.momentum
        if corrects:
            self.correct(matrix, average)
        update = matrix.factors.get("left", torch.eye(len(average), dtype=DOUBLE)) @ average
        update = update @ matrix.factors.get("right", torch.eye(average.shape[1], dtype=DOUBLE))
        update = 0.1 * update / update.square().mean().sqrt()
        if corrects:
            matrix.excess = self.measure(matrix, update)
        matrix.step += 1
        with torch.no_grad():
            parameter.mul_(1 - self.lr * self.weight_decay)
            parameter.sub_(self.lr * (update / max(1.0, matrix.excess)).view(parameter.shape))

    def correct(self, matrix: Matrix, average: Tensor) -> None:
        for name, factor in matrix.factors.items():
            other = matrix.factors.get("right" if name == "left" else "left")
            across = average if name == "left" else average.T
            signs = matrix.signs[name].T
            sketch = across @ (signs if other is None else other @ signs)
            sketch = sketch / sketch.abs().max()
            side, rank = sketch.shape
            kappa = self.kappa or min(0.9, side / (rank * min(matrix.step // self.every + 1, self.window)))
            gram = sketch.T @ factor @ sketch
            gram += 1e-6 * gram.diagonal().max() * torch.eye(rank, dtype=DOUBLE)
            shrunk = (1 - 1e-4) * factor - kappa * factor @ sketch @ torch.linalg.inv(gram) @ sketch.T @ factor
            identity = torch.eye(side, dtype=DOUBLE)
            mixed = shrunk + 1e-4 * identity
            matrix.factors[name] = shrunk + (1 - shrunk.trace() / side) * identity if self.power == 1 else mixed * side / mixed.trace()

    def measure(self, matrix: Matrix, update: Tensor) -> float:
        """The largest singular value by power iterations, over the allowed one."""
        assert matrix.vector is not None
        across = update if update.shape[1] <= update.shape[0] else update.T
        largest = 0.0
        for _ in range(5 if matrix.step == 0 else 1):
            image = across @ matrix.vector
            back = across.T @ image
            largest = float(back.norm() / image.norm())
            matrix.vector = back / back.norm()
        return largest / (self.stretch * 0.1 * math.sqrt(min(update.shape)))
