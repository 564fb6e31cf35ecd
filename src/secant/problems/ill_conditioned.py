"""Regression on inputs whose covariance is ill-conditioned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from secant.problems.initialization import glorot_uniform, initialized
from secant.problems.layers import Layers
from secant.problems.minibatch import Setting, minibatch_problem
from secant.problems.problem import Problem, Training, checksum

_WIDTH = 64
_CONDITION = 1e6
_TRAIN, _TEST = 8192, 1024
_DATA_SEED = 4321


def build_ill_conditioned(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``ill-conditioned``: mean squared error of a ``tanh`` network 64-64-64-1 (8,385 parameters) on inputs of condition number 1e6.

    The inputs are normal with mean 0; the eigenvalues of their covariance are spaced evenly in the logarithm from ``c`` to ``1e-6 c``, in the directions of a
    random orthogonal matrix, and ``c`` makes the mean variance 1. The targets are those of a fixed network of the same shape that sees the whitened inputs, so
    that every direction counts alike; they are scaled to variance 1 on the training data and carry no noise. The teacher is in the student's reach (its first
    weights times the whitening), so that the least loss is 0. Float32, 8,192 training samples, 1,024 held out, batches of 128, 600 steps.

    Args:
        seed: Of the initial network (Glorot uniform weights, zero biases).
        compile: Compile the model, see :func:`secant.problems.minibatch.minibatch_problem`.

    Returns:
        The problem; the loss itself is the measure.
    """
    inputs, targets = ill_conditioned_data()
    training = Training(
        model=initialized(_network, glorot_uniform, seed),
        loss=nn.functional.mse_loss,
        inputs=inputs[:_TRAIN],
        targets=targets[:_TRAIN],
        test_inputs=inputs[_TRAIN:],
        test_targets=targets[_TRAIN:],
        batch=128,
        steps=600,
        classes=False,
        measured=_TRAIN,
    )
    settings: dict[str, Setting] = {
        "network": f"tanh {_WIDTH}-{_WIDTH}-{_WIDTH}-1, Glorot uniform weights, zero biases",
        "loss": "mean squared error",
        "data": "normal inputs, covariance eigenvalues evenly spaced in the logarithm, random orthogonal directions, mean variance 1",
        "condition": _CONDITION,
        "teacher": "the same network on the whitened inputs, Glorot uniform weights, zero biases, outputs scaled to variance 1",
        "data_seed": _DATA_SEED,
        "data_sha256": checksum(inputs, targets),
    }
    return minibatch_problem("ill-conditioned", training, settings, seed=seed, compile=compile, reference=0.0)


def ill_conditioned_data() -> tuple[Tensor, Tensor]:
    """All inputs of shape ``(9216, 64)`` and targets of shape ``(9216, 1)``, float32, computed in float64."""
    generator = torch.Generator().manual_seed(_DATA_SEED)
    whitened = torch.randn(_TRAIN + _TEST, _WIDTH, generator=generator, dtype=torch.float64)
    directions = torch.linalg.qr(torch.randn(_WIDTH, _WIDTH, generator=generator, dtype=torch.float64)).Q
    variances = torch.logspace(0.0, -math.log10(_CONDITION), _WIDTH, dtype=torch.float64)
    variances *= _WIDTH / variances.sum()
    teacher = initialized(_network, glorot_uniform, _DATA_SEED, dtype=torch.float64)
    with torch.no_grad():
        targets = teacher(whitened)
    targets /= targets[:_TRAIN].std(correction=0)
    return ((whitened * variances.sqrt()) @ directions.T).float(), targets.float()


def _network() -> Layers:
    return Layers(
        {
            "hidden_1": nn.Linear(_WIDTH, _WIDTH),
            "activation_1": nn.Tanh(),
            "hidden_2": nn.Linear(_WIDTH, _WIDTH),
            "activation_2": nn.Tanh(),
            "output": nn.Linear(_WIDTH, 1),
        }
    )
