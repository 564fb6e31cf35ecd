"""What a traced moment says of the present parameters, measured aside: no gradient, mode, buffer or random number of the run is touched."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from secant.problems import Problem, Training

_CHUNK = 500
"""Samples measured at once, so that a measurement needs no more memory than a few batches."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How good the parameters are.

    Attributes:
        loss: Over the full batch; of a problem with training data, over its first ``measured`` training samples in evaluation mode.
        error: What the problem measures beside it; None where it measures nothing or the loss is not finite.
        test_loss: On the held-out samples; None without any.
        accuracy: Share of the held-out targets that are predicted right; None where nothing is classified.
    """

    loss: float
    error: float | None = None
    test_loss: float | None = None
    accuracy: float | None = None


def read(problem: Problem, *, held_out: bool = True) -> Reading:
    """The reading at the present parameters.

    Args:
        problem: What is read.
        held_out: Whether to take the held-out samples, too, where there are any.

    Returns:
        The reading. Cost: one loss, or a forward pass over the measured and the held-out samples.
    """
    training = problem.training
    if training is None:
        loss = _loss_aside(problem)
        return Reading(loss, _error(problem) if math.isfinite(loss) else None)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(training.model):
        loss, _ = _pass(training, training.inputs[: training.measured], training.targets[: training.measured])
        error = _error(problem) if math.isfinite(loss) else None
        if not held_out or not len(training.test_inputs):
            return Reading(loss, error)
        test_loss, accuracy = _pass(training, training.test_inputs, training.test_targets)
        return Reading(loss, error, test_loss, accuracy)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and uncompiled inside the block, in its own modes after it.

    A compiled model would be compiled again for every shape that is measured, and stops at a handful of them.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Whatever runs inside the block leaves buffers (running statistics) and the global random state as they were; the model runs uncompiled."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
        yield
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)


def _pass(training: Training, inputs: Tensor, targets: Tensor) -> tuple[float, float | None]:
    """Mean loss and share of right predictions."""
    losses, right = [], []
    for some_inputs, some_targets in zip(torch.split(inputs, _CHUNK), torch.split(targets, _CHUNK), strict=True):
        outputs = training.model(some_inputs)
        losses.append(training.loss(outputs, some_targets).double() * (len(some_inputs) / len(inputs)))
        if training.classes:
            right.append((outputs.argmax(-1) == some_targets).sum())
    return float(torch.stack(losses).sum()), float(torch.stack(right).sum()) / targets.numel() if right else None


def _error(problem: Problem) -> float | None:
    error = None if problem.error is None else problem.error()
    return float(error.detach()) if isinstance(error, Tensor) else error


def _loss_aside(problem: Problem) -> float:
    """The loss of the full batch, whose closure may call ``backward``."""
    gradients = [parameter.grad for parameter in problem.parameters]
    for parameter in problem.parameters:
        parameter.grad = None
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        loss = float(problem.loss().detach())
    for parameter, gradient in zip(problem.parameters, gradients, strict=True):
        parameter.grad = gradient
    return loss
