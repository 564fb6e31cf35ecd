"""A run resumed from its saved state goes on bit for bit."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.cases import (
    FIT_PAIRS,
    METHOD_CASES,
    PAIRS,
    PROBLEMS,
    Case,
    Problem,
    drive,
    every_method,
    every_method_and_fit,
    flat,
    rosenbrock,
    rosenbrock_of,
)
from secant.methods import METHODS
from secant.optimizer import CurvatureOptimizer

CUTS = (1, 6, 20, 36)
"""Before and after the first fold: 32 terms wait, one or two per correction."""
STEPS = 44

pytestmark = pytest.mark.filterwarnings("ignore:float32 no longer resolves")


def through_a_file(value: Any) -> Any:
    """What ``torch.load`` gives back, in its safe mode."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def saved_run(case: Case, problem: Problem) -> tuple[list[Tensor], dict[int, dict[str, Any]]]:
    """The path of one run, and what was saved on the way."""
    optimizer = case.build(problem.parameters)
    path, saved = [], {}
    for number in range(1, STEPS + 1):
        optimizer.step(problem.closure)
        path.append(flat(problem.parameters))
        if number in CUTS:
            saved[number] = through_a_file({"parameters": [p.detach() for p in problem.parameters], "optimizer": optimizer.state_dict()})
    return path, saved


def resumed(case: Case, problem: Problem, saved: dict[str, Any]) -> CurvatureOptimizer[Any]:
    optimizer = case.build(problem.parameters)
    with torch.no_grad():
        for parameter, value in zip(problem.parameters, saved["parameters"], strict=True):
            parameter.copy_(value)
    optimizer.load_state_dict(saved["optimizer"])
    return optimizer


def assert_resumes(case: Case, make: Callable[[], Problem]) -> None:
    undisturbed = make()
    expected = drive(case.build(undisturbed.parameters), undisturbed, STEPS)
    path, saved = saved_run(case, make())
    assert all(torch.equal(a, b) for a, b in zip(expected, path, strict=True)), "saving changed the run"
    for cut in CUTS:
        again = make()
        rest = drive(resumed(case, again, saved[cut]), again, STEPS - cut)
        different = [cut + i + 1 for i, (a, b) in enumerate(zip(path[cut:], rest, strict=True)) if not torch.equal(a, b)]
        assert not different, f"resumed after {cut} steps, first different after {different[0]}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("problem", PROBLEMS)
@every_method_and_fit
def test_resumed_run_is_bit_identical_for_every_method(case: Case, problem: str, dtype: torch.dtype) -> None:
    assert_resumes(case, lambda: case.form(PROBLEMS[problem](dtype)))


@pytest.mark.parametrize("case", [case for case in PAIRS + FIT_PAIRS if case.method in ("ssbroyden", "sr1", "lm")], ids=str)
def test_resumed_run_is_bit_identical_for_every_globalization(case: Case) -> None:
    assert_resumes(case, lambda: case.form(rosenbrock()))


@every_method
def test_resume_restores_counts_outcomes_and_types(case: Case) -> None:
    problem = rosenbrock()
    optimizer = case.build(problem.parameters, lr=torch.tensor(0.5))
    drive(optimizer, problem, 20)
    again = rosenbrock()
    restored = resumed(case, again, through_a_file({"parameters": [p.detach() for p in problem.parameters], "optimizer": optimizer.state_dict()}))
    assert restored.counts == optimizer.counts
    assert restored.iteration == optimizer.iteration == 20
    assert (restored.outcome, restored.correction) == (optimizer.outcome, optimizer.correction)
    assert restored.curvature.dense_inverse().dtype == torch.float64
    assert torch.equal(restored.curvature.dense_inverse(), optimizer.curvature.dense_inverse())
    assert float(restored.param_groups[0]["lr"]) == 0.5
    assert restored.last_step is not None
    assert optimizer.last_step is not None
    assert restored.last_step.kept.loss == optimizer.last_step.kept.loss


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["deepcopy", "pickle"])
@every_method_and_fit
def test_copy_goes_on_like_the_original_and_shares_nothing_with_it(case: Case, how: Callable[[Any], Any], cut: int) -> None:
    problem = case.form(rosenbrock())
    optimizer = case.build(problem.parameters)
    drive(optimizer, problem, cut)
    (x_copy,), optimizer_copy = how((problem.parameters, optimizer))
    expected = drive(optimizer, problem, 10)
    assert optimizer_copy.param_groups[0]["params"][0] is x_copy
    found = drive(optimizer_copy, case.form(rosenbrock_of(x_copy)), 10)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert optimizer_copy.counts.losses >= optimizer.counts.losses


@pytest.mark.parametrize("saver", METHOD_CASES, ids=str)
def test_state_of_another_kind_of_optimizer_is_refused_and_changes_nothing(saver: Case) -> None:
    problem = rosenbrock()
    optimizer = saver.build(problem.parameters)
    drive(optimizer, problem, 3)
    for other in METHODS:
        if other == saver.method:
            continue
        fresh = rosenbrock()
        receiver = Case(other).build(fresh.parameters)
        expected = drive(Case(other).build((twin := rosenbrock()).parameters), twin, 5)
        with pytest.raises(ValueError, match=type(optimizer).__name__):
            receiver.load_state_dict(optimizer.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(expected, drive(receiver, fresh, 5), strict=True))


@every_method_and_fit
def test_state_for_another_size_is_refused_and_changes_nothing(case: Case) -> None:
    for steps in (1, 3):
        problem, smaller, twin = case.form(rosenbrock(n=12)), case.form(rosenbrock(n=4)), case.form(rosenbrock(n=4))
        optimizer = case.build(problem.parameters)
        drive(optimizer, problem, steps)
        optimizer._unused = None  # as after an interrupted search
        receiver, expected = case.build(smaller.parameters), case.build(twin.parameters)
        with pytest.raises(ValueError, match=r"4 trainable numbers.*got one for 12"):
            receiver.load_state_dict(optimizer.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(drive(expected, twin, 5), drive(receiver, smaller, 5), strict=True))


@every_method_and_fit
def test_float32_state_for_a_float64_model_is_refused_in_a_sentence(case: Case) -> None:
    problem, wider = case.form(rosenbrock(torch.float32)), case.form(rosenbrock(torch.float64))
    optimizer = case.build(problem.parameters)
    drive(optimizer, problem, 3)
    with pytest.raises(ValueError, match="float32"):
        case.build(wider.parameters).load_state_dict(optimizer.state_dict())


@every_method_and_fit
def test_state_of_a_torch_optimizer_is_refused(case: Case) -> None:
    problem = case.form(rosenbrock())
    adam = torch.optim.Adam(problem.parameters)
    with pytest.raises(ValueError, match="state_dict saved by"):
        case.build(problem.parameters).load_state_dict(adam.state_dict())


@every_method_and_fit
def test_state_saved_before_the_first_step_is_a_fresh_start(case: Case) -> None:
    problem, again = case.form(rosenbrock()), case.form(rosenbrock())
    saved = through_a_file(case.build(problem.parameters).state_dict())
    optimizer = case.build(again.parameters)
    optimizer.load_state_dict(saved)
    expected = drive(case.build(problem.parameters), problem, 5)
    assert all(torch.equal(a, b) for a, b in zip(expected, drive(optimizer, again, 5), strict=True))


@every_method_and_fit
def test_after_a_rollback_in_place_the_optimizer_goes_on_from_the_saved_point(case: Case) -> None:
    problem = case.form(rosenbrock())
    optimizer = case.build(problem.parameters)
    drive(optimizer, problem, 7)
    saved = through_a_file({"parameters": [p.detach() for p in problem.parameters], "optimizer": optimizer.state_dict()})
    expected = drive(optimizer, problem, 6)
    with torch.no_grad():
        problem.parameters[0].copy_(saved["parameters"][0])
    optimizer.load_state_dict(saved["optimizer"])
    assert optimizer.point is None or torch.equal(optimizer.point.x, flat(problem.parameters))
    assert all(torch.equal(a, b) for a, b in zip(expected, drive(optimizer, problem, 6), strict=True))


@pytest.mark.parametrize(("saved", "receiving"), [("TrustRegion", "HagerZhang"), ("HagerZhang", "TrustRegion")])
def test_state_of_the_same_method_with_another_kind_of_globalization_is_refused_and_changes_nothing(saved: str, receiving: str) -> None:
    problem, fresh, twin = rosenbrock(), rosenbrock(), rosenbrock()
    optimizer = Case("sr1", saved).build(problem.parameters)
    drive(optimizer, problem, 3)
    receiver = Case("sr1", receiving).build(fresh.parameters)
    expected = drive(Case("sr1", receiving).build(twin.parameters), twin, 5)
    with pytest.raises(ValueError, match=f"{receiving}.*{saved}"):
        receiver.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(expected, drive(receiver, fresh, 5), strict=True))
