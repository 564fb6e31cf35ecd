"""From a model and data to a benchmark problem, for methods that learn from batches and for those that see all data at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from secant.problems.problem import Problem, Training, checksum

Setting: TypeAlias = str | int | float | bool


def minibatch_problem(
    name: str, training: Training, settings: Mapping[str, Setting], *, seed: int, compile: bool, reference: float | None = None, chunk: int | None = None
) -> Problem:
    """The problem whose loss is that of all training data.

    With ``compile`` the model is compiled in place (``model.compile``), so that batches, measurements and the full loss all run it compiled, under the names
    it has uncompiled; the loss of its outputs is not. Each shape of inputs is compiled by itself: a batch is run here once, forward and backward, so that
    nothing is left for the first step; the full loss and measurements compile at their first call. Set the number of threads first.

    Args:
        name: Of the problem.
        training: Model and data.
        settings: What the model, its initial weights, the data and the loss are, in words; sizes, seeds and checksums of the start are added here.
        seed: Of the initial weights.
        compile: Whether to compile the model.
        reference: The least loss, where it is known.
        chunk: Samples whose activations fit into memory at once; None when all do. The full loss then recomputes each chunk in its backward pass.

    Returns:
        The problem, the loss itself being its measure.
    """
    parameters = tuple(training.model.parameters())
    if compile:
        compile_model(training)
    return Problem(
        name=name,
        parameters=parameters,
        loss=_loss_of_all(training, chunk or len(training.inputs)),
        error=None,
        error_name="loss",
        settings={
            **settings,
            "train_samples": len(training.inputs),
            "test_samples": len(training.test_inputs),
            "batch": training.batch,
            "steps": training.steps,
            "measured": training.measured,
            "dtype": str(parameters[0].dtype).removeprefix("torch."),
            "seed": seed,
            "start_sha256": checksum(*parameters),
            "compiled": compile,
        },
        reference=reference,
        training=training,
    )


def compile_model(training: Training) -> None:
    """Compile the model in place, and run one batch forward and backward."""
    training.model.compile(fullgraph=True, dynamic=False)
    with torch.enable_grad():
        loss = training.loss(training.model(training.inputs[: training.batch]), training.targets[: training.batch])
        torch.autograd.grad(loss, tuple(training.model.parameters()))


def _loss_of_all(training: Training, chunk: int) -> Callable[[], Tensor]:
    def chunk_loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return training.loss(training.model(inputs), targets)

    def loss() -> Tensor:
        samples = len(training.inputs)
        if samples <= chunk:
            return chunk_loss(training.inputs, training.targets)
        chunks = zip(torch.split(training.inputs, chunk), torch.split(training.targets, chunk), strict=True)
        parts = [len(inputs) / samples * checkpoint(chunk_loss, inputs, targets, use_reentrant=False, preserve_rng_state=False) for inputs, targets in chunks]
        return torch.stack(parts).sum()

    return loss
