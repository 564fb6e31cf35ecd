"""Small models and runs that the tests of tapped methods share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from secant.layerwise.eva import Eva, EvaPreconditioner
from secant.layerwise.foof import Foof, FoofPreconditioner
from secant.layerwise.mkor import Mkor, MkorPreconditioner
from secant.layerwise.preconditioner import Preconditioner
from secant.layerwise.tapped_optimizer import TappedOptimizer
from secant.layerwise.taps import Capture, Taps

DOUBLE = torch.float64
PRECONDITIONERS: dict[str, Callable[..., Preconditioner]] = {"foof": FoofPreconditioner, "mkor": MkorPreconditioner, "eva": EvaPreconditioner}
OPTIMIZERS: dict[str, Callable[..., TappedOptimizer]] = {"foof": Foof, "mkor": Mkor, "eva": Eva}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense_net(dtype: torch.dtype = DOUBLE, *, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)


def conv_net(dtype: torch.dtype = DOUBLE) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.Flatten(), nn.Linear(27, 5), nn.Linear(5, 2)).to(dtype)


class SharedNet(nn.Module):
    """Two layers with one weight, one of them applied twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 6, dtype=DOUBLE), nn.Linear(6, 6, dtype=DOUBLE), nn.Linear(6, 2, dtype=DOUBLE)
        self.second.weight = self.first.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(torch.tanh(self.first(inputs)))))))


class DenseInverse:
    """The formula of :class:`MovingInverse` written out: a dense average, its damping, and an inverse from scratch."""

    def __init__(self, size: int, decay: float, damping: float) -> None:
        self.average, self.identity = torch.zeros(size, size, dtype=DOUBLE), torch.eye(size, dtype=DOUBLE)
        self.decay, self.wanted, self.damping, self.count = decay, damping, 0.0, 0

    def correct(self, vectors: Tensor) -> None:
        self.count += 1
        weight = max(1.0 - self.decay, 1.0 / self.count)
        self.average = (1.0 - weight) * self.average + weight * vectors @ vectors.T
        self.damping *= 1.0 - weight
        full = self.wanted * float(self.average.trace()) / len(self.average)
        self.damping = full if self.damping < 0.5 * full else self.damping

    def solve(self, rows: Tensor) -> Tensor:
        return rows @ torch.linalg.inv(self.average + self.damping * self.identity)


def captures(taps: Taps) -> dict[str, Capture]:
    return taps.captures(taps.norms().tolist())


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def train(model: nn.Module, optimizer: TappedOptimizer, batches: list[Tensor], *, micro_batches: int = 1, run: nn.Module | None = None) -> Tensor:
    """The parameters after one step per batch on the mean square of the outputs."""
    for batch in batches:
        optimizer.zero_grad()
        for part in batch.chunk(micro_batches):
            ((run or model)(part).square().mean() / micro_batches).backward()
        optimizer.step()
    return flat(model)
