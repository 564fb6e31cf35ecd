"""A small net, its losses and its training, for the tests of ``RankOneKron``."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from secant.layerwise import RankOneKron

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def net(dtype: torch.dtype = DOUBLE, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def loss_of(model: nn.Module, step: int = 0, samples: int = 12) -> Tensor:
    dtype = next(model.parameters()).dtype
    return (model(random(samples, 6, seed=step).to(dtype)) - random(samples, 3, seed=step + 1000).to(dtype)).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def everything(optimizer: RankOneKron) -> Any:
    """A copy of all there is to resume from."""
    return copy.deepcopy(optimizer.state_dict())


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)
