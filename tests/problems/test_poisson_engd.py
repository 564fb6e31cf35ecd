import math
from typing import Literal

import pytest
import torch
from torch import Tensor

import secant
from secant.problems import Problem
from secant.problems.networks import mlp, partial_derivatives
from secant.problems.poisson_engd import build_poisson_engd, square_boundary

Stream = Literal["torch", "numpy"]
STREAM_NAMES: tuple[Stream, ...] = ("torch", "numpy")
STREAMS = pytest.mark.parametrize("stream", STREAM_NAMES)


def start(problem: Problem) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in problem.parameters])


def published_grids() -> tuple[Tensor, Tensor]:
    """Interior and boundary points one by one, as the published code makes them."""
    interior = [[i / 29, j / 29] for i in range(1, 29) for j in range(1, 29)]
    ahead, back = [i / 29 for i in range(29)], [1 - i / 29 for i in range(29)]
    boundary = [[x, 0.0] for x in ahead] + [[1.0, y] for y in ahead] + [[x, 1.0] for x in back] + [[0.0, y] for y in back]
    return torch.tensor(interior, dtype=torch.float64), torch.tensor(boundary, dtype=torch.float64)


@STREAMS
def test_loss_is_that_of_the_published_code_by_nested_differentiation(stream: Stream) -> None:
    problem = build_poisson_engd(3, stream=stream)
    assert sum(p.numel() for p in problem.parameters) == 129
    interior, boundary = published_grids()
    interior.requires_grad_()
    slopes = partial_derivatives(mlp(problem.parameters, interior), interior)
    laplacian = partial_derivatives(slopes[:, 0], interior)[:, 0] + partial_derivatives(slopes[:, 1], interior)[:, 1]
    source = 2 * math.pi**2 * torch.sin(math.pi * interior).prod(1)
    # The integrators multiply the mean by the measure of the domain: 1 of the square, 4 of its boundary.
    expected = 1.0 * (laplacian + source).square().mean() + 4.0 * mlp(problem.parameters, boundary).square().mean()
    torch.testing.assert_close(problem.loss(), expected, rtol=1e-11, atol=0.0)


def test_loss_is_half_the_sum_of_squares_of_both_residuals_with_its_gradient() -> None:
    problem = build_poisson_engd(0)
    residuals = [residual() for residual in problem.residual]
    assert [r.shape for r in residuals] == [(784,), (116,)]
    half = 0.5 * torch.cat(residuals).square().sum()
    torch.testing.assert_close(problem.loss(), half, rtol=1e-13, atol=0.0)
    expected, actual = (torch.autograd.grad(value, problem.parameters) for value in (half, problem.loss()))
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_boundary_runs_once_around_the_square() -> None:
    points = square_boundary(torch.linspace(0.0, 1.0, 30, dtype=torch.float64))
    torch.testing.assert_close(points, published_grids()[1], rtol=0.0, atol=1e-15)
    following = points.roll(-1, dims=0)
    torch.testing.assert_close((following - points).norm(dim=1), torch.full((116,), 1 / 29, dtype=torch.float64), rtol=1e-12, atol=0.0)


def test_streams_differ_and_each_is_normal_with_standard_deviation_a_tenth() -> None:
    torch_numbers, numpy_numbers = (torch.cat([start(build_poisson_engd(seed, stream=stream)) for seed in range(20)]) for stream in STREAM_NAMES)
    assert not torch.equal(torch_numbers, numpy_numbers)
    for numbers in (torch_numbers, numpy_numbers):
        # 2,580 draws: five standard errors of mean and of standard deviation.
        assert abs(float(numbers.mean())) < 5 * 0.1 / math.sqrt(2580)
        assert abs(float(numbers.std()) - 0.1) < 5 * 0.1 / math.sqrt(2 * 2580)


@STREAMS
def test_the_same_seed_gives_the_same_start_and_leaves_the_global_streams_alone(stream: Stream) -> None:
    before = torch.get_rng_state()
    first, second = (build_poisson_engd(1, stream=stream) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.settings == second.settings
    assert first.settings["stream"] == stream
    assert first.settings["start_sha256"] != build_poisson_engd(2, stream=stream).settings["start_sha256"]


def test_zero_network_has_error_one() -> None:
    problem = build_poisson_engd(0)
    with torch.no_grad():
        for parameter in problem.parameters:
            parameter.zero_()
    assert problem.error is not None
    assert problem.error() == 1.0


@STREAMS
def test_sixty_iterations_of_levenberg_marquardt_solve_it_to_four_digits(stream: Stream) -> None:
    problem = build_poisson_engd(0, stream=stream)
    optimizer = secant.LevenbergMarquardt(problem.parameters, iterations_per_step=60)
    optimizer.step(list(problem.residual))
    assert problem.error is not None
    # Steps without corrections are at 5e-4 and 1.5e-3 there.
    assert problem.error() < 1e-4


def test_another_stream_is_refused() -> None:
    with pytest.raises(ValueError, match='stream "torch" or "numpy"'):
        build_poisson_engd(0, stream="jax")  # type: ignore[arg-type]
