"""A small ReLU network that learns from a teacher of its own shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secant.problems.layers import Layers
from secant.problems.minibatch import compile_model
from secant.problems.networks import glorot_parameters, mlp
from secant.problems.problem import Problem, Training, checksum, closure

_WIDTHS = (10, 20, 1)
_SAMPLES, _TEST_SAMPLES = 1000, 250
_BATCH, _STEPS = 50, 500
_TEACHER_SEED = 1234


def build_toy_regression(seed: int, *, compile: bool = False) -> Problem:
    """The problem ``toy-regression``: mean squared error of a ReLU network 10-20-1 (241 parameters) on a fixed teacher, float64.

    The teacher has the same shape, Glorot uniform weights and biases uniform in [-0.5, 0.5] (seed 1234). The inputs are 1,000 standard normal vectors from
    the same stream, and the targets carry no noise: the smallest loss is 0. The next 250 of the
    stream are held out. Methods that learn from batches take 50 samples per step and 500 steps (25 epochs).

    Args:
        seed: Of the initial network (Glorot uniform weights, zero biases).
        compile: Compile the loss, and the model in place.

    Returns:
        The problem; the loss itself is the measure.
    """
    generator = torch.Generator().manual_seed(_TEACHER_SEED)
    teacher = [parameter.detach() for parameter in glorot_parameters(_WIDTHS, generator)]
    teacher[1::2] = [torch.rand(bias.shape, generator=generator, dtype=bias.dtype) - 0.5 for bias in teacher[1::2]]
    inputs = torch.randn(_SAMPLES, _WIDTHS[0], generator=generator, dtype=torch.float64)
    targets = mlp(teacher, inputs, activation=torch.relu)
    test_inputs = torch.randn(_TEST_SAMPLES, _WIDTHS[0], generator=generator, dtype=torch.float64)
    test_targets = mlp(teacher, test_inputs, activation=torch.relu)
    model = _network(glorot_parameters(_WIDTHS, torch.Generator().manual_seed(seed)))
    parameters = tuple(model.parameters())
    training = Training(
        model=model,
        loss=nn.functional.mse_loss,
        inputs=inputs,
        targets=targets[:, None],
        test_inputs=test_inputs,
        test_targets=test_targets[:, None],
        batch=_BATCH,
        steps=_STEPS,
        classes=False,
        measured=_SAMPLES,
    )
    if compile:
        compile_model(training)
    return Problem(
        name="toy-regression",
        parameters=parameters,
        loss=closure(toy_loss, parameters, (inputs, targets), compile=compile),
        error=None,
        error_name="loss",
        settings={
            "network": "ReLU 10-20-1, Glorot uniform weights, zero biases",
            "teacher": "ReLU 10-20-1, Glorot uniform weights, biases uniform in [-0.5, 0.5]",
            "teacher_seed": _TEACHER_SEED,
            "samples": _SAMPLES,
            "test_samples": _TEST_SAMPLES,
            "batch": _BATCH,
            "steps": _STEPS,
            "loss": "mean squared error",
            "data_sha256": checksum(inputs, targets),
            "dtype": "float64",
            "seed": seed,
            "start_sha256": checksum(*parameters),
            "compiled": compile,
        },
        reference=0.0,
        training=training,
    )


def toy_loss(parameters: tuple[Tensor, ...], inputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared error of the ReLU network."""
    return (mlp(parameters, inputs, activation=torch.relu) - targets).square().mean()


def _network(parameters: tuple[Tensor, ...]) -> Layers:
    """The network as a module that owns these tensors."""
    inputs, hidden, outputs = _WIDTHS
    with torch.device("meta"):
        model = Layers({"hidden": nn.Linear(inputs, hidden), "activation": nn.ReLU(), "output": nn.Linear(hidden, outputs)})
    names = [name for name, _ in model.named_parameters()]
    model.load_state_dict({name: value.detach() for name, value in zip(names, parameters, strict=True)}, assign=True)
    return model
