"""A prototype that did not win: dense BFGS blocks of the layers, coupled by self-scaled Broyden corrections on top of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secant.curvature.broyden import rank_one_terms
from secant.curvature.curvature import Curvature, State
from secant.curvature.initial import initial_diagonal
from secant.curvature.pair import InverseProducts, SecantPair
from secant.curvature.scaling import self_scaled_broyden
from secant.curvature.symmetric import DeferredSymmetric
from secant.objective import Objective
from secant.space import LocalSpace
from secant.step import Correction, Point, Step


class Coupled:
    """``c blockdiag + sum_i w_i v_i v_i'`` with the blocks as they were when the last term was added to none."""

    def __init__(self, blocks: Sequence[DeferredSymmetric], layers: Sequence[int], terms: int) -> None:
        self._blocks = [block.dense() for block in blocks]
        self._kernels = [block._kernel for block in blocks]
        self._layers = list(layers)
        self._rows = self._blocks[0].new_zeros(terms, sum(layers))
        self._weights = torch.zeros(terms, dtype=torch.float64)
        self._scale = 1.0
        self.used = 0

    def times(self, v: Tensor) -> Tensor:
        parts = zip(self._kernels, self._blocks, v.split(self._layers), strict=True)
        product = torch.cat([kernel.times(block, part.contiguous()) for kernel, block, part in parts]) * self._scale
        rows = self._rows[: self.used]
        return product.addmv_(rows.T, (rows @ v) * self._weights[: self.used])

    def scale(self, factor: float) -> None:
        self._scale *= factor
        self._weights[: self.used] *= factor

    def add(self, weight: float, vector: Tensor) -> None:
        self._rows[self.used], self._weights[self.used] = vector, weight
        self.used += 1


class LayerBlocks(Curvature):
    """Each layer's block is corrected by BFGS with its own part of the pair; after ``memory`` coupled corrections these start from the blocks anew."""

    def __init__(self, layers: Sequence[int], *, memory: int) -> None:
        self._layers = list(layers)
        self._terms = 2 * memory
        self._space = LocalSpace()
        self.reset()

    def reset(self) -> None:
        self._products: InverseProducts | None = None
        self._blocks: list[DeferredSymmetric] = []
        self._corrections = 0

    def update(self, objective: Objective, point: Point, last: Step | None) -> Correction:
        if self._products is None:
            diagonal = initial_diagonal("auto", objective, point)
            self._blocks = [DeferredSymmetric(part) for part in diagonal.split(self._layers)]
            self._restart()
            return Correction.INITIAL
        pair = self._products.pair(last, objective.space)
        if pair is None:
            return Correction.NOTHING_NEW
        if not (pair.sy > 0.0 and pair.yHy > 0.0 and pair.sBs > 0.0):
            return Correction.SKIPPED_CURVATURE
        if self._corrections == 0:
            gain = 10.0 * pair.length
            pair = pair.with_inverse_times(gain)
            self._products.inverse.scale(gain)
            for block in self._blocks:
                block.scale(gain)
        self._corrections += 1
        self._couple(pair)
        for block, s, y in zip(self._blocks, pair.s.split(self._layers), pair.y.split(self._layers), strict=True):
            _correct_block(block, s, y)
        if self._products.inverse.used == self._terms:  # type: ignore[attr-defined]
            self._restart()
        return Correction.APPLIED

    def _couple(self, pair: SecantPair) -> None:
        assert self._products is not None
        member = self_scaled_broyden(pair.yHy / pair.sy, pair.sBs / pair.sy, pair.s.numel())
        terms = rank_one_terms(pair, member)
        assert terms is not None
        self._products.inverse.scale(1.0 / member.tau)
        product = pair.Hg / member.tau
        for weight, share_of_s, share_of_Hy in terms:
            vector = torch.add(pair.s * share_of_s, pair.Hy, alpha=share_of_Hy)
            self._products.inverse.add(weight, vector)
            product.add_(vector, alpha=weight * (share_of_s * pair.sg + share_of_Hy * pair.Hyg))
        self._products.remember(pair.gradient, product)

    def _restart(self) -> None:
        self._products = InverseProducts(Coupled(self._blocks, self._layers, self._terms))  # type: ignore[arg-type]

    def solve(self, v: Tensor) -> Tensor:
        assert self._products is not None
        return self._products.times(v)

    def dense_inverse(self) -> Tensor:
        raise NotImplementedError

    def bytes_needed(self, size: int, bytes_per_number: int) -> int:
        return bytes_per_number * (sum(2 * count * count for count in self._layers) + self._terms * size)

    def state(self) -> State:
        raise NotImplementedError

    def load(self, state: State, like: Tensor) -> None:
        raise NotImplementedError


def _correct_block(block: DeferredSymmetric, s: Tensor, y: Tensor) -> None:
    """BFGS as two rank-one terms: ``(1 + h) / s.y (s - w / (1 + h)) (.)' - w w' / ((1 + h) s.y)`` with ``w = H y``, ``h = y.w / s.y``."""
    sy = float(s @ y)
    if not sy > 1e-12 * float(s.norm() * y.norm()):
        return
    w = block.times(y.contiguous())
    h = float(y @ w) / sy
    block.add((1.0 + h) / sy, s - w / (1.0 + h))
    block.add(-1.0 / ((1.0 + h) * sy), w)
