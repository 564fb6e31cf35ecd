"""First-order optimizers of torch on batches, each in its fastest form on a processor.

Measured on the shapes of ``mnist-mlp`` and of ``char-transformer``, one thread: the fused steps of SGD, Adam and AdamW take 0.7 to 0.85 and 0.45 to 0.5 of the
time of their loops over the parameters, ``foreach`` takes longer than the loops. RMSprop has no fused form; its default on a processor is the loop.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from secant.race.batch_method import batch_method
from secant.race.method import Origin
from secant.race.techniques import Decay, Hyperparameters

ADAPTIVE_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_PLAIN_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
BETAS = (0.9, 0.999)


def _sgd(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    return _sgd_with(model, wanted, momentum=0.0)


def _sgd_momentum(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    return _sgd_with(model, wanted, momentum=0.9)


def _sgd_with(model: nn.Module, wanted: Hyperparameters, *, momentum: float) -> Optimizer:
    momentum = momentum if wanted.momentum is None else wanted.momentum
    return torch.optim.SGD(model.parameters(), wanted.lr, momentum=momentum, weight_decay=wanted.weight_decay or 0.0, fused=True)


def _rmsprop(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    return torch.optim.RMSprop(model.parameters(), wanted.lr, momentum=wanted.momentum or 0.0, weight_decay=wanted.weight_decay or 0.0)


def _adam(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    return torch.optim.Adam(model.parameters(), wanted.lr, with_momentum(BETAS, wanted), weight_decay=wanted.weight_decay or 0.0, fused=True)


def _adamw(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), wanted.lr, with_momentum(BETAS, wanted), weight_decay=wanted.weight_decay or 0.0, fused=True)


def with_momentum(betas: tuple[float, float], wanted: Hyperparameters) -> tuple[float, float]:
    """The decay rates of the two moments, the first replaced by the momentum asked for."""
    return (betas[0] if wanted.momentum is None else wanted.momentum, betas[1])


METHODS = (
    batch_method(
        "sgd",
        "torch.optim.SGD.",
        Origin.PEER,
        _sgd,
        _PLAIN_RATES,
        settings={"class": "torch.optim.SGD", "momentum": 0.0, "fused": True},
        takes_momentum=True,
        decay=Decay.COUPLED,
    ),
    batch_method(
        "sgd-momentum",
        "torch.optim.SGD, momentum 0.9.",
        Origin.PEER,
        _sgd_momentum,
        _PLAIN_RATES,
        settings={"class": "torch.optim.SGD", "momentum": 0.9, "nesterov": False, "fused": True},
        takes_momentum=True,
        decay=Decay.COUPLED,
    ),
    batch_method(
        "rmsprop",
        "torch.optim.RMSprop.",
        Origin.PEER,
        _rmsprop,
        ADAPTIVE_RATES,
        settings={"class": "torch.optim.RMSprop", "momentum": 0.0, "alpha": 0.99, "eps": 1e-8},
        takes_momentum=True,
        decay=Decay.COUPLED,
    ),
    batch_method(
        "adam",
        "torch.optim.Adam.",
        Origin.PEER,
        _adam,
        ADAPTIVE_RATES,
        settings={"class": "torch.optim.Adam", "betas": "0.9, 0.999", "momentum": "betas[0]", "eps": 1e-8, "fused": True},
        takes_momentum=True,
        decay=Decay.COUPLED,
    ),
    batch_method(
        "adamw",
        "torch.optim.AdamW.",
        Origin.PEER,
        _adamw,
        ADAPTIVE_RATES,
        settings={"class": "torch.optim.AdamW", "betas": "0.9, 0.999", "momentum": "betas[0]", "eps": 1e-8, "fused": True},
        takes_momentum=True,
        decay=Decay.DECOUPLED,
    ),
)
