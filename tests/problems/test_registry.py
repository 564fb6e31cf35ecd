import json
import subprocess
import sys

import pytest
import torch

from secant.problems import PROBLEMS


@pytest.fixture(params=list(PROBLEMS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_loss_is_a_finite_scalar_with_a_graph_to_every_parameter(name: str) -> None:
    problem = PROBLEMS[name].build(0)
    assert problem.name == PROBLEMS[name].name == name
    loss = problem.loss()
    assert loss.shape == ()
    assert torch.isfinite(loss)
    gradients = torch.autograd.grad(loss, problem.parameters)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(p.is_leaf and p.requires_grad and p.grad is None for p in problem.parameters)


def test_the_same_seed_builds_the_same_problem_bit_for_bit(name: str) -> None:
    first, second = PROBLEMS[name].build(3), PROBLEMS[name].build(3)
    assert first.settings == second.settings
    assert torch.equal(first.loss(), second.loss())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters, second.parameters, strict=True))


def test_building_leaves_the_global_random_stream_alone(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    PROBLEMS[name].build(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_error_is_a_finite_number_and_leaves_no_gradient(name: str) -> None:
    problem = PROBLEMS[name].build(0)
    if problem.error is not None:
        error = problem.error()
        assert isinstance(error, float)
        assert 0.0 < error < 100.0
    assert all(p.grad is None for p in problem.parameters)


def test_settings_are_plain_and_say_seed_and_dtype(name: str) -> None:
    settings = PROBLEMS[name].build(5).settings
    assert json.loads(json.dumps(settings)) == settings
    assert settings["seed"] == 5
    assert settings["dtype"] == "float64"
    assert settings["compiled"] is False


def test_the_registry_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PROBLEMS["burgers"] = PROBLEMS["quadratic"]  # type: ignore[index]


def test_importing_the_problems_loads_no_optional_dependency() -> None:
    program = "import sys, secant.problems; print(sorted({'sklearn', 'mlxtend', 'matplotlib'} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
