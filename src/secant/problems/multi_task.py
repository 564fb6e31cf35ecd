"""One network for three tasks on the digits data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, linear

from secant.problems.datasets import digits
from secant.problems.networks import glorot_parameters
from secant.problems.problem import Problem, checksum, closure

_HIDDEN = 16
_WEIGHTS = (1.0, 0.5, 4.0)
_PENALTY = 1e-3


def build_multi_task(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``multi-task``: a shared tanh layer of 16 on scikit-learn's digits with a head and a loss per task, 2,315 parameters.

    The tasks are the digit (cross entropy of 10 classes), whether it is odd (logistic loss) and the picture itself (mean squared error of 64 pixels,
    reconstructed from the shared layer). Their losses have different scales and curvatures and pull at the same trunk; the loss is their weighted sum
    ``1 * digit + 0.5 * parity + 4 * picture + 5e-4 |weights|^2``, biases not penalized. 1,797 rows, pixels in [0, 1].

    Args:
        seed: Of the initial network (Glorot uniform weights, zero biases).
        compile: Compile the loss.

    Returns:
        The problem; the loss itself is the measure.

    Raises:
        ModuleNotFoundError: Without scikit-learn.
    """
    pixels, labels = digits(problem="multi-task")
    features = pixels / 16.0
    generator = torch.Generator().manual_seed(seed)
    layers = [glorot_parameters(widths, generator) for widths in ((64, _HIDDEN), (_HIDDEN, 10), (_HIDDEN, 1), (_HIDDEN, 64))]
    parameters = tuple(parameter for layer in layers for parameter in layer)
    return Problem(
        name="multi-task",
        parameters=parameters,
        loss=closure(multi_task_loss, parameters, (features, labels), compile=compile),
        error=None,
        error_name="loss",
        settings={
            "data": "scikit-learn digits, pixels / 16",
            "rows": features.shape[0],
            "data_sha256": checksum(pixels, labels),
            "network": "tanh 64-16, linear heads of 10, 1 and 64; Glorot uniform weights, zero biases",
            "loss": "{} digit + {} parity + {} picture".format(*_WEIGHTS) + f" + {_PENALTY} |weights|^2 / 2",
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(*parameters),
            "compiled": compile,
        },
    )


def task_losses(parameters: tuple[Tensor, ...], features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The losses of the digit, its parity and the picture, each a mean over the rows."""
    trunk, bias, *heads = parameters
    shared = torch.tanh(linear(features, trunk, bias))
    digit, parity, picture = (linear(shared, weight, offset) for weight, offset in zip(heads[::2], heads[1::2], strict=True))
    odd = (labels % 2).to(features.dtype)
    return cross_entropy(digit, labels), binary_cross_entropy_with_logits(parity[:, 0], odd), (picture - features).square().mean()


def multi_task_loss(parameters: tuple[Tensor, ...], features: Tensor, labels: Tensor) -> Tensor:
    """The weighted sum of the three losses and the penalty of the weights."""
    digit, parity, picture = task_losses(parameters, features, labels)
    penalty = torch.stack([weight.square().sum() for weight in parameters[::2]]).sum()
    return _WEIGHTS[0] * digit + _WEIGHTS[1] * parity + _WEIGHTS[2] * picture + 0.5 * _PENALTY * penalty
