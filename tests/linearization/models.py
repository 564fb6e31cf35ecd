"""Linear models over one dense Jacobian, and the dense float64 reference for their steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secant.linearization.cholesky import NormalEquations
from secant.linearization.conjugate_gradients import GaussNewtonProducts
from secant.linearization.linear_model import LinearModel
from secant.linearization.orthogonal import OrthogonalFactors
from secant.linearization.rows import StoredRows
from secant.linearization.sketch import SketchedRows
from secant.linearization.woodbury import ResidualKernel
from secant.space import LocalSpace

DOUBLE = torch.float64


@dataclass(frozen=True)
class Linear:
    """Residuals and Jacobian."""

    r: Tensor
    J: Tensor

    def blocks(self, *sizes: int) -> list[tuple[Tensor, Tensor]]:
        """Cut into blocks of so many rows; the last takes the rest."""
        rest = len(self.r) - sum(sizes)
        return list(zip(torch.split(self.r, [*sizes, rest]), torch.split(self.J, [*sizes, rest]), strict=True))

    @property
    def g(self) -> Tensor:
        return self.J.T @ self.r


def random_linear(rows: int, size: int, *, seed: int = 0, condition: float = 30.0, rank: int | None = None) -> Linear:
    """``J`` with singular values from 1 to ``1 / condition``, of full rank unless told."""
    generator = torch.Generator().manual_seed(seed)
    U, _ = torch.linalg.qr(torch.randn(rows, min(rows, size), generator=generator, dtype=DOUBLE))
    V, _ = torch.linalg.qr(torch.randn(size, min(rows, size), generator=generator, dtype=DOUBLE))
    values = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), min(rows, size), dtype=DOUBLE)
    if rank is not None:
        values[rank:] = 0.0
    return Linear(torch.randn(rows, generator=generator, dtype=DOUBLE), U @ torch.diag(values) @ V.T)


def reference(linear: Linear, damping: float, scale: Tensor, v: Tensor | None = None) -> Tensor:
    """The shortest minimizer of ``|r + J p|^2 + damping p' D p``, by SciPy's way: least squares of the stacked matrix."""
    J, r = linear.J.double(), linear.r.double()
    stacked = torch.cat([J, torch.diag((damping * scale.double()).sqrt())])
    if v is not None:
        return torch.linalg.pinv(stacked.T @ stacked, hermitian=True) @ v
    return torch.linalg.lstsq(stacked, torch.cat([-r, r.new_zeros(J.shape[1])])[:, None], driver="gelsd").solution[:, 0]


def by_products(blocks: Sequence[tuple[Tensor, Tensor]]) -> LinearModel:
    rows = StoredRows(blocks)
    return GaussNewtonProducts(rows.transposed_times(rows.residuals()), rows.gram_times, LocalSpace(), tolerance=1e-15, limit=2000)


def by_whole_sketch(blocks: Sequence[tuple[Tensor, Tensor]]) -> LinearModel:
    rows = StoredRows(blocks)
    r = rows.residuals()
    return SketchedRows(rows, rows.transposed_times(r), rows=len(r), residuals=len(r), seed=0)


DIRECT: dict[str, Callable[[Sequence[tuple[Tensor, Tensor]]], LinearModel]] = {
    "cholesky": lambda blocks: NormalEquations(blocks, blocks[0][1].shape[1]),
    "qr": lambda blocks: OrthogonalFactors(blocks, blocks[0][1].shape[1]),
    "woodbury": ResidualKernel,
    "sketch of all rows": by_whole_sketch,
}
MODELS = DIRECT | {"cg": by_products}
