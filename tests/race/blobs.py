"""A small problem with training data, and two entrants that learn from batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from secant.problems import Problem, Training
from secant.race.batch_method import batch_method
from secant.race.method import Method, Origin
from secant.race.techniques import Decay, Hyperparameters

SAMPLES, TEST_SAMPLES = 96, 30


def blobs(seed: int, compile_loss: bool = False, *, network: Callable[[], nn.Module] | None = None) -> Problem:
    """Three clouds of points in six dimensions and a small classifier, float64."""
    data = torch.Generator().manual_seed(5)
    centers = torch.randn(3, 6, generator=data, dtype=torch.float64)
    labels = torch.arange(SAMPLES + TEST_SAMPLES) % 3
    points = centers[labels] + 0.7 * torch.randn(len(labels), 6, generator=data, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (network or _classifier)().double()
    inputs, targets = points[:SAMPLES], labels[:SAMPLES]
    training = Training(
        model=model,
        loss=nn.functional.cross_entropy,
        inputs=inputs,
        targets=targets,
        test_inputs=points[SAMPLES:],
        test_targets=labels[SAMPLES:],
        batch=8,
        steps=24,
        classes=True,
        measured=SAMPLES,
    )
    return Problem(
        name="blobs",
        parameters=tuple(model.parameters()),
        loss=lambda: nn.functional.cross_entropy(model(inputs), targets),
        error=None,
        error_name="loss",
        settings={"samples": SAMPLES},
        training=training,
    )


def _classifier() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def adamw(*rates: float, name: str = "test-adamw") -> Method:
    """AdamW as an entrant."""

    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=wanted.lr, weight_decay=wanted.weight_decay or 0.0)

    return batch_method(name, "AdamW.", Origin.PEER, build, rates or (0.01,), settings={"class": "AdamW"}, takes_momentum=False, decay=Decay.DECOUPLED)


def momentum_sgd(*rates: float) -> Method:
    """SGD with momentum as an entrant."""

    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        momentum = 0.9 if wanted.momentum is None else wanted.momentum
        return torch.optim.SGD(model.parameters(), lr=wanted.lr, momentum=momentum, weight_decay=wanted.weight_decay or 0.0)

    settings = {"class": "SGD", "momentum": 0.9}
    return batch_method("test-sgd", "SGD.", Origin.PEER, build, rates or (0.1,), settings=settings, takes_momentum=True, decay=Decay.COUPLED)
