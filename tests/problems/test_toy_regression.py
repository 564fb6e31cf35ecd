import torch

from secant.problems import build_toy_regression
from secant.problems.networks import glorot_parameters


def test_the_teacher_itself_has_loss_zero() -> None:
    problem = build_toy_regression(0)
    assert sum(p.numel() for p in problem.parameters) == 241
    generator = torch.Generator().manual_seed(1234)
    teacher = glorot_parameters((10, 20, 1), generator)
    biases = [torch.rand(bias.shape, generator=generator, dtype=torch.float64) - 0.5 for bias in teacher[1::2]]
    with torch.no_grad():
        for parameter, weight in zip(problem.parameters[::2], teacher[::2], strict=True):
            parameter.copy_(weight)
        for parameter, bias in zip(problem.parameters[1::2], biases, strict=True):
            parameter.copy_(bias)
    assert problem.loss().item() == problem.reference == 0.0


def test_seed_changes_the_network_and_not_the_data() -> None:
    first, second = build_toy_regression(0), build_toy_regression(1)
    assert first.settings["data_sha256"] == second.settings["data_sha256"]
    assert first.loss().item() != second.loss().item()


def test_batches_and_full_batch_train_the_same_network_on_the_same_data() -> None:
    problem = build_toy_regression(0)
    training = problem.training
    assert training is not None
    outputs = training.model(training.inputs)
    torch.testing.assert_close(training.loss(outputs, training.targets), problem.loss(), rtol=1e-14, atol=0.0)
    with torch.no_grad():
        training.model.get_parameter("output.bias").fill_(7.0)
    assert problem.loss().item() > 10.0


def test_start_and_data_are_those_from_before_there_were_batches() -> None:
    problem = build_toy_regression(0)
    expected = glorot_parameters((10, 20, 1), torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(problem.parameters, expected, strict=True))
    assert problem.settings["data_sha256"] == "28b52861b0446ed8093cbbc5c2e8c75e7c239846c32a4aac1274b6aae47b682e"


def test_held_out_samples_come_from_the_same_teacher() -> None:
    training = build_toy_regression(0).training
    assert training is not None
    assert training.test_inputs.shape == (250, 10)
    assert not (training.test_inputs[:, None] == training.inputs[None]).all(-1).any()
    # Same distribution: 250 samples resolve the deviation of the targets to about 5 percent.
    torch.testing.assert_close(training.test_targets.std(), training.targets.std(), rtol=0.2, atol=0.0)
