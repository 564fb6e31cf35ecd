"""What a benchmark problem is, and how its loss becomes a closure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """What methods that learn from batches need of a problem.

    The order of the data is the concatenation of fresh permutations, so that every batch is full and ``k`` batches of one size are one batch of ``k`` times it.

    Attributes:
        model: Its parameters are those of the problem, in the order of ``model.parameters()``.
        loss: ``loss(model(inputs), targets)``, the mean over the samples (and over the tokens of each), a scalar with a graph.
        inputs: Training data, samples first.
        targets: What belongs to them.
        test_inputs: Held-out data, never trained on; empty where there is none.
        test_targets: What belongs to them.
        batch: Samples per step, unless the user says otherwise.
        steps: Length of a run, unless the user says otherwise.
        classes: Whether the outputs are logits of classes along their last dimension, so that an accuracy can be counted.
        measured: How many of the first training samples the training loss of a trace is measured on, outside the clock.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    batch: int
    steps: int
    classes: bool
    measured: int


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One benchmark problem, ready to be minimized.

    Attributes:
        name: Its name in the registry.
        parameters: The leaf tensors to be trained, ordered, all with ``requires_grad``.
        loss: The scalar loss with a graph; takes nothing and never calls ``backward``.
        error: The distance to the reference at the current parameters, to be kept outside every clock; None where the loss itself is the measure.
        error_name: What ``error`` returns, in words.
        settings: Everything that is needed to build the problem again: sizes, points, seeds, dtype, checksums of the data.
        reference: The best known loss, where there is one.
        training: The same problem as model and data, for methods that learn from batches; ``loss`` is then the loss over all training data.
        residual: The same problem as least squares: ``loss() = 0.5 * sum(r^2)`` over the residuals that these functions return, each of shape ``(rows,)`` with
            a graph; empty where the loss is no sum of squares.
    """

    name: str
    parameters: tuple[Tensor, ...]
    loss: Callable[[], Tensor]
    error: Callable[[], float] | None
    error_name: str
    settings: dict[str, str | int | float | bool]
    reference: float | None = None
    training: Training | None = None
    residual: tuple[Callable[[], Tensor], ...] = ()


class Build(Protocol):
    """The signature that every builder of a problem offers."""

    def __call__(self, seed: int, *, compile: bool = False) -> Problem:
        """The problem whose initial parameters come from ``seed``; ``compile`` wraps its loss by ``torch.compile``."""


@dataclass(frozen=True, slots=True)
class ProblemSpec:
    """One line of the registry.

    Attributes:
        name: The name under which the problem is found.
        summary: The problem in one sentence.
        build: ``build(seed, compile=False)`` returns the problem; the data and the points are the same for every seed.
    """

    name: str
    summary: str
    build: Build


def closure(function: Callable[..., Tensor], parameters: tuple[Tensor, ...], constants: tuple[Tensor, ...], *, compile: bool) -> Callable[[], Tensor]:
    """The loss-only closure ``() -> function(parameters, *constants)``.

    The compiled form is specialized to the shapes and to ``torch.get_num_threads()`` at this moment: set the number of threads first. It is run once here,
    forward and backward, so that no compilation is left for the first step; a later change of the number of threads, or the first call under
    ``torch.no_grad``, compiles again. A compiled loss can be differentiated once, not twice.

    Args:
        function: A pure function of the parameters and the constants that returns a scalar.
        parameters: Leaf tensors with ``requires_grad``.
        constants: Tensors that never change: points, right-hand sides, data.
        compile: Whether to compile ``function``, which takes some ten seconds on a processor.

    Returns:
        A function of no arguments that returns the scalar loss with a graph.
    """
    evaluate = torch.compile(function, fullgraph=True, dynamic=False) if compile else function

    def loss() -> Tensor:
        return evaluate(parameters, *constants)

    if compile:
        with torch.enable_grad():
            torch.autograd.grad(loss(), parameters)
    return loss


def checksum(*tensors: Tensor) -> str:
    """The SHA-256 hex digest of the tensors' bytes, one after another, in row-major order and in their own dtype."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def relative_distance(actual: Tensor, expected: Tensor) -> float:
    """``|actual - expected| / |expected|`` in the Euclidean norm."""
    return float(torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected))
