"""A tiny problem with a known minimum, for tests that race on it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from race.blobs import adamw, blobs
from secant.problems import Problem
from secant.race.budget import Budget
from secant.race.method import Drive, Keeps, Method, Origin, Variant
from secant.race.plan import Plan
from secant.race.registry import select_methods
from secant.race.source import Source

MINIMIZER = 1.0


def bowl(seed: int, compile_loss: bool = False) -> Problem:
    """A quadratic in two tensors, five numbers, with its minimum at all ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (weights * (x - MINIMIZER) ** 2).sum() + 3 * ((y - MINIMIZER) ** 2).sum()

    def error() -> float:
        return float((x.detach() - MINIMIZER).abs().max() + (y.detach() - MINIMIZER).abs().max())

    def residual() -> torch.Tensor:
        return math.sqrt(2.0) * torch.cat([weights.sqrt() * (x - MINIMIZER), math.sqrt(3.0) * (y - MINIMIZER).flatten()])

    return Problem(name="bowl", parameters=(x, y), loss=loss, error=error, error_name="largest distance", settings={"n": 5}, residual=(residual,))


@pytest.fixture
def training_plan() -> Callable[..., Plan]:
    """Makes a plan on the blobs."""

    def make(*methods: Method, budget: Budget | None = None, network: Callable[[], nn.Module] | None = None, **options: Any) -> Plan:
        source = Source("blobs", functools.partial(blobs, network=network))
        return Plan(source, methods or (adamw(),), options.pop("seeds", (0,)), budget or Budget(steps=12), **options)

    return make


@pytest.fixture
def problem() -> Problem:
    """The bowl from seed 0."""
    return bowl(0)


@pytest.fixture
def plan() -> Callable[..., Plan]:
    """Makes a plan on the bowl from names of methods."""

    def make(*names: str, evaluations: int = 60, seeds: tuple[int, ...] = (0,)) -> Plan:
        return Plan(Source("bowl", bowl), tuple(select_methods(names)), seeds, Budget(evaluations=evaluations))

    return make


@pytest.fixture
def entrant() -> Callable[[Drive], Method]:
    """Makes a method out of one function."""

    def make(drive: Drive, keeps: Keeps = Keeps.LAST) -> Method:
        return Method("made-up", "For a test.", Origin.PEER, (Variant("", {"class": "made-up"}, drive),), keeps)

    return make
