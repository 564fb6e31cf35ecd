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
