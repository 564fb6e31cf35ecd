"""What belongs to the loop itself and to no single method."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import secant
from conformance.cases import Case, Problem, every_pair, tanh_net
from conformance.cases import rosenbrock as chained_rosenbrock
from secant import Correction, Outcome
from secant.methods import METHODS
from secant.optimizer import Iteration

DOUBLE = torch.float64
WEIGHTS = torch.tensor([1.0, 10.0, 100.0], dtype=DOUBLE)


def start(dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.tensor([3.0, -2.0, 0.5], dtype=dtype, requires_grad=True)


def bowl(x: Tensor) -> Tensor:
    return (WEIGHTS.to(x.dtype) * (x - 1.0) ** 2).sum() + (x.sum() - 3.0) ** 4


def rosenbrock(x: Tensor) -> Tensor:
    return ((1.0 - x[:-1]) ** 2).sum() + 100.0 * ((x[1:] - x[:-1] ** 2) ** 2).sum()


def test_step_without_a_closure_says_what_is_needed() -> None:
    with pytest.raises(TypeError, match=r"SSBroyden.step needs a closure"):
        secant.SSBroyden([start()]).step()


@pytest.mark.parametrize("method", [secant.BFGS, secant.SSBroyden, secant.DFP, secant.Broyden, secant.SSBFGS])
def test_a_trust_region_needs_a_curvature_with_multiply(method: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"TrustRegion needs a curvature that offers multiply\(v\)"):
        method([start()], globalization=secant.TrustRegion())


def test_globalization_given_as_a_class_is_told_to_be_an_instance() -> None:
    with pytest.raises(TypeError, match=r"HagerZhang\(\)"):
        secant.BFGS([start()], globalization=secant.HagerZhang)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": -1.0}, "0 <= lr < inf, got lr=-1.0"),
        ({"lr": float("nan")}, "0 <= lr < inf"),
        ({"lr": float("inf")}, "0 <= lr < inf"),
        ({"lr": torch.ones(2)}, "a number or a tensor with one element"),
        ({"weight_decay": -0.1}, "0 <= weight_decay < inf"),
        ({"iterations_per_step": 0}, "iterations_per_step >= 1"),
        ({"gradient_tolerance": -1e-3}, "0 <= gradient_tolerance < 1"),
        ({"gradient_tolerance": 1.0}, "0 <= gradient_tolerance < 1"),
        ({"initial_scale": 0.0}, "'auto' or a positive number"),
        ({"initial_scale": "automatic"}, "'auto' or a positive number"),
        ({"reduction": "max"}, "'mean' or 'sum'"),
    ],
    ids=str,
)
def test_option_out_of_range_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        secant.BFGS([start()], **options)


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"lr": float("nan")}, {"weight_decay": -0.1}], ids=str)
def test_option_of_a_group_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Expected 0 <="):
        secant.BFGS([{"params": [start()], **options}])


def test_infinite_theta_is_refused() -> None:
    with pytest.raises(ValueError, match="finite theta"):
        secant.Broyden([start()], theta=float("nan"))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: secant.HagerZhang(decrease=0.5), "HagerZhang needs"),
        (lambda: secant.StrongWolfe(decrease=0.9, curvature=0.1), "StrongWolfe needs"),
        (lambda: secant.Armijo(decrease=1.0), "Armijo needs"),
        (lambda: secant.TrustRegion(accept=0.5), "TrustRegion needs"),
        (lambda: secant.TrustRegion(budget=0), "TrustRegion needs"),
        (lambda: secant.Armijo(budget=0), "budget of at least 1"),
    ],
)
def test_option_of_a_globalization_out_of_range_is_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_parameters_that_cannot_be_held_are_refused_with_bytes_and_the_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secant.memory.free_bytes", lambda device: 100_000)
    secant.BFGS([torch.zeros(10, requires_grad=True)])
    with pytest.raises(MemoryError, match=r"BFGS for 1000 parameters needs .*\(\d+ bytes\).*100.0 kB are free.*[Ll]imited-memory"):
        secant.BFGS([torch.zeros(1000, requires_grad=True)])


def test_group_that_cannot_be_held_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    x = start()
    optimizer = secant.BFGS([x])
    optimizer.step(lambda: bowl(x))
    with monkeypatch.context() as patch:
        patch.setattr("secant.memory.free_bytes", lambda device: 100_000)
        with pytest.raises(MemoryError):
            optimizer.add_param_group({"params": [torch.zeros(1000, requires_grad=True)]})
    optimizer.step(lambda: bowl(x))
    assert optimizer.size == 3


def test_one_globalization_given_to_two_optimizers_is_not_shared() -> None:
    for globalization in (secant.TrustRegion(), secant.HagerZhang()):
        expected, x, y = start(), start(), start()
        alone = secant.SR1([expected], globalization=copy.deepcopy(globalization))
        one, other = secant.SR1([x], globalization=globalization), secant.SR1([y], globalization=globalization)
        for _ in range(6):
            alone.step(lambda expected=expected: bowl(expected))
            one.step(lambda x=x: bowl(x))
            other.step(lambda y=y: 1e-3 * rosenbrock(y))
        assert torch.equal(x, expected)


def test_globalization_may_be_used_again_for_the_next_run() -> None:
    globalization = secant.TrustRegion()
    ends = []
    for _ in range(2):
        x = start()
        optimizer = secant.SR1([x], globalization=globalization)
        for _ in range(6):
            optimizer.step(lambda x=x: bowl(x))
        ends.append(x.detach())
    assert torch.equal(ends[0], ends[1])


def test_iterations_per_step_equal_as_many_steps() -> None:
    x, y = start(), start()
    one, other = secant.BFGS([x], iterations_per_step=7), secant.BFGS([y])
    many = lambda: bowl(y)  # noqa: E731
    one.step(lambda: bowl(x))
    for _ in range(7):
        other.step(many)
    assert torch.equal(x, y)
    assert one.iteration == other.iteration == 7
    assert one.counts == other.counts


def test_gradient_tolerance_stops_with_converged_and_stays_there() -> None:
    x = start()
    optimizer = secant.BFGS([x], iterations_per_step=1000, gradient_tolerance=1e-6)
    closure = lambda: bowl(x)  # noqa: E731
    optimizer.step(closure)
    assert optimizer.outcome is Outcome.CONVERGED
    assert optimizer.iteration < 100
    end, count = x.detach().clone(), optimizer.counts
    optimizer.step(closure)
    assert optimizer.outcome is Outcome.CONVERGED
    assert torch.equal(x, end)
    assert optimizer.counts == count


def test_start_at_the_minimum_has_converged() -> None:
    x = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    optimizer = secant.BFGS([x])
    assert optimizer.step(lambda: (WEIGHTS * (x - 1.0) ** 2).sum()).item() == 0.0
    assert optimizer.outcome is Outcome.CONVERGED


def test_callback_sees_every_iteration_and_may_stop() -> None:
    x, seen = start(), []

    def callback(iteration: Iteration) -> None:
        seen.append(iteration)
        if iteration.number == 4:
            raise StopIteration

    optimizer = secant.BFGS([x], iterations_per_step=100, callback=callback)
    optimizer.step(lambda: bowl(x))
    assert optimizer.outcome is Outcome.CALLBACK
    assert [i.number for i in seen] == [1, 2, 3, 4]
    assert torch.equal(seen[-1].x, x.detach())
    assert seen[-1].loss == bowl(x).item()
    assert seen[0].correction is Correction.INITIAL


def test_points_a_callback_kept_are_not_written_to_later() -> None:
    x, kept = start(), []
    optimizer = secant.BFGS([x], iterations_per_step=6, callback=lambda i: kept.append((i.x, i.x.clone())))
    optimizer.step(lambda: bowl(x))
    assert all(torch.equal(now, then) for now, then in kept)


def test_exception_in_the_callback_leaves_the_best_point() -> None:
    x = start()

    def callback(iteration: Iteration) -> None:
        if iteration.number == 3:
            raise RuntimeError("mine")

    optimizer = secant.BFGS([x], iterations_per_step=100, callback=callback)
    with pytest.raises(RuntimeError, match="mine"):
        optimizer.step(lambda: bowl(x))
    assert optimizer.point is not None
    assert torch.equal(optimizer.point.x, x.detach())
    optimizer.step(lambda: bowl(x))


def test_asked_for_reset_starts_from_the_initial_scale_and_says_so() -> None:
    x = start()
    optimizer = secant.BFGS([x], initial_scale=0.01)
    closure = lambda: bowl(x)  # noqa: E731
    for _ in range(3):
        optimizer.step(closure)
    optimizer.reset_curvature()
    optimizer.step(closure)
    assert optimizer.correction is Correction.RESET_REQUESTED
    assert torch.equal(optimizer.curvature.dense_inverse(), 0.01 * torch.eye(3, dtype=DOUBLE))


def test_two_failed_searches_reset_and_the_third_says_stuck() -> None:
    x = start()
    optimizer = secant.BFGS([x])
    wrong = lambda: bowl(x).detach() - (bowl(x) - bowl(x).detach())  # noqa: E731  # the gradient has the wrong sign
    outcomes = []
    for _ in range(2):
        optimizer.step(wrong)
        outcomes.append(optimizer.outcome)
    assert outcomes == [Outcome.NO_DECREASE, Outcome.STUCK]
    assert optimizer.correction is Correction.RESET_NO_DECREASE
    assert torch.equal(x, start())


def test_kink_ends_in_a_reason_and_not_in_a_loop() -> None:
    x = start()
    optimizer = secant.BFGS([x], iterations_per_step=500)
    optimizer.step(lambda: (x - 1.0).abs().sum())
    assert optimizer.outcome is not None
    assert optimizer.outcome.stops


def test_unbounded_loss_is_called_unbounded() -> None:
    for method in (secant.BFGS, secant.SSBroyden, secant.SR1):
        x = start()
        optimizer = method([x], iterations_per_step=200)
        optimizer.step(lambda x=x: -(x**2).sum())
        assert optimizer.outcome is Outcome.UNBOUNDED
        assert torch.isfinite(x).all()


def float32_warnings(make: Callable[..., Problem], case: Case, steps: int) -> list[warnings.WarningMessage]:
    problem = make(torch.float32)
    optimizer = case.build(problem.parameters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            optimizer.step(problem.loss)
    return caught


def test_float32_stall_is_warned_of_once() -> None:
    caught = float32_warnings(lambda dtype: tanh_net(dtype, ridge=1e-2), Case("ssbroyden"), 150)
    assert [str(w.message)[:7] for w in caught] == ["float32"]
    assert ".double()" in str(caught[0].message)


def test_float32_stall_is_warned_of_at_the_caller_s_line() -> None:
    x = start(torch.float32)
    optimizer = secant.SSBroyden([x], iterations_per_step=200)
    with pytest.warns(UserWarning, match="float32") as caught:
        optimizer.step(lambda: bowl(x) + torch.cosh(x).sum())
    assert caught[0].filename == __file__


@every_pair
def test_float32_is_not_warned_of_while_the_loss_still_falls(case: Case) -> None:
    assert not float32_warnings(tanh_net, case, 8)
    assert not float32_warnings(chained_rosenbrock, case, 8)


def test_half_precision_is_warned_of_at_the_caller_s_line() -> None:
    with pytest.warns(UserWarning, match="half precision") as caught:
        secant.BFGS([torch.zeros(2, dtype=torch.bfloat16, requires_grad=True)])
    assert caught[0].filename == __file__


def test_optimizer_prints_its_groups() -> None:
    assert "lr: 1.0" in repr(secant.SR1([start()]))


def test_zero_grad_and_state_are_those_of_torch() -> None:
    x = start()
    optimizer = secant.BFGS([x])
    optimizer.step(lambda: bowl(x))
    optimizer.zero_grad()
    assert x.grad is None
    assert isinstance(optimizer, torch.optim.Optimizer)


def test_one_optimizer_does_not_touch_the_gradients_of_others() -> None:
    mine, theirs = start(), start()
    theirs.grad = torch.full_like(theirs, 5.0)
    secant.BFGS([mine]).step(lambda: bowl(mine) + bowl(theirs))
    assert torch.equal(theirs.grad, torch.full_like(theirs, 5.0))


def test_model_in_train_mode_with_buffers_is_served() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    inputs, targets = torch.randn(16, 3, dtype=DOUBLE), torch.randn(16, 1, dtype=DOUBLE)
    optimizer = secant.SSBroyden(model.parameters(), iterations_per_step=40)
    closure = lambda: torch.nn.functional.mse_loss(model(inputs), targets)  # noqa: E731
    before = optimizer.step(closure)
    assert closure() < 0.3 * before


# Two processes with half the data each, against one process with all of it; one pair of processes runs every case, because starting them takes seconds.

FULL = torch.linspace(-1.0, 1.0, 8, dtype=DOUBLE)
RANK_CASES = [(method, reduction, poisoned) for method in ("ssbroyden", "sr1") for reduction in ("mean", "sum") for poisoned in (False, True)]


def fit_loss(x: Tensor, data: Tensor, reduction: str) -> Tensor:
    square = (torch.tanh(x[0] * data + x[1]) * x[2] - torch.sin(2.0 * data)).square()
    return square.mean() if reduction == "mean" else square.sum()


def run_case(rank: int, method: str, reduction: str, poisoned: bool) -> list[Any]:
    x = start()
    optimizer = METHODS[method]([x], process_group=dist.group.WORLD, reduction=reduction)
    half, count, rows = FULL[rank::2], [0], []

    def closure() -> Tensor:
        count[0] += 1
        loss = fit_loss(x, half, reduction)
        return loss * float("nan") if poisoned and rank == 1 and count[0] == 4 else loss

    for _ in range(12):
        loss = optimizer.step(closure)
        assert optimizer.outcome is not None
        rows.append([x.detach().clone(), loss, optimizer.outcome.name, optimizer.counts.losses])
    return rows


def run_rank(rank: int, folder: str) -> None:
    """One of two processes; its paths go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save([run_case(rank, *case) for case in RANK_CASES], f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[list[Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(RANK_CASES)), ids=[str(case) for case in RANK_CASES])
def test_two_processes_with_half_the_data_equal_one_with_all_and_each_other(two_ranks: list[list[list[Any]]], index: int) -> None:
    method, reduction, poisoned = RANK_CASES[index]
    x = start()
    optimizer = METHODS[method]([x])
    count = [0]

    def closure() -> Tensor:
        count[0] += 1
        loss = fit_loss(x, FULL, reduction)
        return loss * float("nan") if poisoned and count[0] == 4 else loss

    for row, other in zip(two_ranks[0][index], two_ranks[1][index], strict=True):
        loss = optimizer.step(closure)
        assert torch.equal(row[0], other[0])
        assert row[1:] == other[1:]
        torch.testing.assert_close(row[0], x.detach(), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(row[1], loss, rtol=1e-6, atol=1e-8)
        assert optimizer.outcome is not None
        assert row[2:] == [optimizer.outcome.name, optimizer.counts.losses]
