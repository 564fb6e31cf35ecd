"""What a step of training by batches does, on a tiny classifier in float64."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from race.blobs import SAMPLES, adamw, blobs, momentum_sgd
from secant.problems import Problem
from secant.race.batch_course import BatchCourse
from secant.race.batch_method import batch_method
from secant.race.budget import Budget, BudgetExhausted
from secant.race.errors import UsageError
from secant.race.gauge import Reading, read
from secant.race.health_log import HealthLog, HealthRequest
from secant.race.method import BatchVariant, Method, Origin
from secant.race.records import TracePoint
from secant.race.techniques import Decay, Hyperparameters, Schedule, Techniques
from secant.race.tracer import Tracer

METHODS = {"adamw": adamw, "sgd": momentum_sgd}


def ignore(point: TracePoint, share: float) -> None:
    """A watch for tests that look elsewhere."""


def variant_of(method: Method) -> BatchVariant:
    (variant,) = method.variants
    assert isinstance(variant, BatchVariant)
    return variant


def trained(method: Method, problem: Problem, *, steps: int = 10, health: int | None = None, **options: Any) -> BatchCourse:
    """A finished run of so many steps."""
    assert problem.training is not None
    tracer = Tracer(Budget(steps=steps), lambda held_out: read(problem, held_out=held_out), ignore, spacing=1.5, even_moments=60)
    log = None if health is None else HealthLog(problem.training.model, HealthRequest(health), steps)
    course = BatchCourse(problem, tracer, Techniques(**options), seed=3, steps=steps, health=log)
    with pytest.raises(BudgetExhausted):
        course.train(variant_of(method))
    course.finish()
    return course


def flat(problem: Problem) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in problem.parameters])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("accumulate", [2, 3, 8])
@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.2}, {"clip_value": 0.02, "weight_decay": 0.1}, {"schedule": Schedule.COSINE, "warmup": 3}])
def test_k_micro_batches_give_the_result_of_a_batch_k_times_as_large(method: str, accumulate: int, more: dict[str, Any]) -> None:
    small, large = blobs(0), blobs(0)
    trained(METHODS[method](), small, batch=4, accumulate=accumulate, **more)
    trained(METHODS[method](), large, batch=4 * accumulate, **more)
    torch.testing.assert_close(flat(small), flat(large), rtol=1e-12, atol=1e-14)
    assert not torch.equal(flat(small), flat(blobs(0)))


def test_the_steps_are_those_of_the_optimizer_in_a_plain_loop() -> None:
    problem, same = blobs(0), blobs(0)
    trained(adamw(0.02), problem, steps=7)
    assert same.training is not None
    optimizer = torch.optim.AdamW(same.parameters, lr=0.02, weight_decay=0.0)
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(3))
    for rows in order[: 7 * same.training.batch].view(7, -1):
        optimizer.zero_grad()
        same.training.loss(same.training.model(same.training.inputs[rows]), same.training.targets[rows]).backward()
        optimizer.step()
    assert torch.equal(flat(problem), flat(same))


def test_an_evaluation_is_one_micro_batch_and_a_budget_never_ends_inside_a_step() -> None:
    problem = blobs(0)
    tracer = Tracer(Budget(evaluations=11), lambda held_out: read(problem, held_out=held_out), ignore, spacing=1.5)
    course = BatchCourse(problem, tracer, Techniques(accumulate=4), seed=0, steps=2)
    with pytest.raises(BudgetExhausted):
        course.train(variant_of(adamw()))
    assert (tracer.steps, tracer.evaluations) == (2, 8)
    assert course.details({}).samples == 64


@pytest.mark.parametrize("schedule", Schedule)
def test_a_schedule_really_moves_the_learning_rate(schedule: Schedule) -> None:
    rates: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        return Watched(model.parameters(), lr=wanted.lr)

    method = batch_method("watched", "", Origin.PEER, build, (1e-9,), settings={}, takes_momentum=False, decay=Decay.NONE)
    trained(method, blobs(0), steps=100, schedule=schedule)
    assert (len(set(rates)) > 1) == (schedule is not Schedule.CONSTANT)
    assert rates[0] == 1e-9


def test_clipped_steps_are_counted_for_a_limit_in_norm_and_in_value() -> None:
    assert trained(adamw(), blobs(0), clip_norm=1e-6).details({}).clipped_steps == 10
    assert trained(adamw(), blobs(0), clip_norm=1e6).details({}).clipped_steps == 0
    assert trained(adamw(), blobs(0), clip_value=1e-6, clip_norm=1e-6).details({}).clipped_steps == 10
    assert trained(adamw(), blobs(0), clip_value=1e6).details({}).clipped_steps == 0
    moments = trained(momentum_sgd(1e-12), blobs(0), health=1).details({}).health
    norms = [math.hypot(*(layer.gradient or 0.0 for layer in moment.layers)) for moment in moments]
    limit = statistics.median(norms)
    assert trained(momentum_sgd(1e-12), blobs(0), clip_norm=limit).details({}).clipped_steps == sum(norm > limit for norm in norms) == 5


def test_a_clipped_step_of_plain_descent_is_as_long_as_the_limit_allows() -> None:
    problem = blobs(0)
    before = flat(problem)
    trained(momentum_sgd(1.0), problem, steps=1, clip_norm=0.01)
    assert float((flat(problem) - before).norm()) == pytest.approx(0.01, rel=1e-4)  # torch adds 1e-6 to the norm it divides by


def test_momentum_and_weight_decay_reach_the_optimizer() -> None:
    seen: list[Hyperparameters] = []

    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        seen.append(wanted)
        return torch.optim.SGD(model.parameters(), lr=wanted.lr)

    method = batch_method("seeing", "", Origin.PEER, build, (0.1,), settings={}, takes_momentum=True, decay=Decay.COUPLED)
    trained(method, blobs(0), steps=1, momentum=0.7, weight_decay=0.01)
    trained(method, blobs(0), steps=1)
    assert seen == [Hyperparameters(0.1, 0.7, 0.01), Hyperparameters(0.1, None, None)]


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))


def test_measuring_touches_neither_random_numbers_nor_modes_nor_running_statistics() -> None:
    problem = blobs(0, network=normalized)
    assert problem.training is not None
    model = problem.training.model
    model[2].eval()  # type: ignore[index]
    buffers = [buffer.clone() for buffer in model.buffers()]
    state = torch.random.get_rng_state()
    first = read(problem)
    assert first == read(problem)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in model] == [True, True, False, True]  # type: ignore[union-attr]
    assert all(torch.equal(buffer, kept) for buffer, kept in zip(model.buffers(), buffers, strict=True))
    model.eval()
    assert first.loss == pytest.approx(problem.loss().item(), rel=1e-12)


def test_more_measured_moments_do_not_change_what_a_dropout_net_learns() -> None:
    often, never = blobs(0, network=normalized), blobs(0, network=normalized)
    torch.manual_seed(1)
    trained(adamw(), often, health=1)
    torch.manual_seed(1)
    silent = Tracer(Budget(steps=10), lambda held_out: Reading(0.0), ignore, spacing=1e9)
    with pytest.raises(BudgetExhausted):
        BatchCourse(never, silent, Techniques(), seed=3, steps=10).train(variant_of(adamw()))
    assert len(silent.trace) <= 2
    assert torch.equal(flat(often), flat(never))
    assert often.training is not None
    assert never.training is not None
    for ours, theirs in zip(often.training.model.buffers(), never.training.model.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_reading_is_loss_test_loss_and_accuracy_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = blobs(0)
    training = problem.training
    assert training is not None
    monkeypatch.setattr("secant.race.gauge._CHUNK", 7)  # uneven chunks must not change a mean
    reading = read(dataclasses.replace(problem, training=dataclasses.replace(training, measured=50)))
    with torch.no_grad():
        outputs, test_outputs = training.model(training.inputs[:50]), training.model(training.test_inputs)
    assert reading.loss == pytest.approx(float(training.loss(outputs, training.targets[:50])), rel=1e-12)
    assert reading.test_loss == pytest.approx(float(training.loss(test_outputs, training.test_targets)), rel=1e-12)
    assert reading.accuracy == pytest.approx(float((test_outputs.argmax(1) == training.test_targets).double().mean()))


def test_without_held_out_data_there_is_no_test_loss() -> None:
    problem = blobs(0)
    training = problem.training
    assert training is not None
    bare = dataclasses.replace(training, test_inputs=training.inputs[:0], test_targets=training.targets[:0])
    reading = read(dataclasses.replace(problem, training=bare))
    assert (reading.test_loss, reading.accuracy) == (None, None)
    assert math.isfinite(reading.loss)


def test_a_run_is_traced_at_sixty_even_moments_and_densely_at_its_beginning() -> None:
    course = trained(adamw(), blobs(0), steps=600)
    steps = [point.steps for point in course.tracer.trace]
    assert steps[:4] == [0, 1, 2, 3]
    assert set(range(10, 601, 10)) <= {10 * round(step / 10) for step in steps}
    assert steps[-1] == 600
    assert len(steps) < 90
    held_out = [moment for moment, point in enumerate(course.tracer.trace) if point.test_loss is not None]
    assert held_out == sorted({*range(0, len(steps), 3), len(steps) - 1})
    assert [point.evaluations for point in course.tracer.trace] == steps


def vanishing() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(6, 8)]
    for _ in range(12):
        layers += [nn.Sigmoid(), nn.Linear(8, 8)]
    return nn.Sequential(*layers, nn.Sigmoid(), nn.Linear(8, 3))


def test_a_vanishing_net_is_diagnosed_by_layer_with_the_remedy() -> None:
    course = trained(momentum_sgd(0.01), blobs(0, network=vanishing), health=5)
    details = course.details({})
    assert [moment.step for moment in details.health] == [1, 6]
    first = details.health[0]
    assert len(first.layers) == 14
    assert "learns more than 1,000 times more slowly" in first.problems["0"]
    assert first.problems["0"].startswith("Layer 0 ")
    assert "residual connections" in first.problems["0"]
    assert details.first_layer_learned_at is None


def test_the_norms_of_a_layer_are_those_of_its_gradient_update_and_weights() -> None:
    problem, same = blobs(0), blobs(0)
    course = trained(momentum_sgd(0.1), problem, steps=1, health=1, clip_norm=1e-3)
    (moment,) = course.details({}).health
    training = same.training
    assert training is not None
    rows = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(3))[: training.batch]
    training.loss(training.model(training.inputs[rows]), training.targets[rows]).backward()
    assert [layer.name for layer in moment.layers] == ["0", "2"]
    for layer, module, end in zip(moment.layers, (training.model[0], training.model[2]), (problem.parameters[:2], problem.parameters[2:]), strict=True):  # type: ignore[index]
        gradient = torch.cat([parameter.grad.reshape(-1) for parameter in module.parameters()])
        weight = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
        after = torch.cat([parameter.detach().reshape(-1) for parameter in end])
        assert layer.gradient == pytest.approx(float(gradient.norm()))
        assert layer.weight == pytest.approx(float(weight.norm()))
        assert layer.update == pytest.approx(float((after - weight).norm()))
        assert (layer.zeros, layer.not_finite) == (0.0, 0.0)


@pytest.mark.parametrize("options", [{"batch": 48}, {"batch": 12, "accumulate": 4}], ids=["halves", "micro-batches"])
def test_the_noise_scale_is_that_of_the_parts_of_the_step(options: dict[str, int]) -> None:
    """Unbiased estimates from n gradients of b samples: trace = b (sum|g|^2 - n|mean|^2) / (n - 1), signal = |mean|^2 - trace / (n b)."""
    (moment,) = trained(momentum_sgd(), blobs(0), steps=1, health=1, **options).details({}).health
    problem = blobs(0)
    training = problem.training
    assert training is not None
    rows = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(3))[:48]
    parts = rows.view(options.get("accumulate", 2), -1)
    gradients = []
    for part in parts:
        pieces = torch.autograd.grad(training.loss(training.model(training.inputs[part]), training.targets[part]), problem.parameters)
        gradients.append(torch.cat([piece.reshape(-1) for piece in pieces]))
    G = torch.stack(gradients)
    n, b = parts.shape
    mean_square = float(G.mean(0).square().sum())
    trace = b * (float(G.square().sum()) - n * mean_square) / (n - 1)
    assert moment.noise_scale == pytest.approx(trace / (mean_square - trace / (n * b)), rel=1e-6)


def test_a_single_sample_has_no_noise_scale() -> None:
    (moment,) = trained(adamw(), blobs(0), steps=1, health=1, batch=1).details({}).health
    assert moment.noise_scale is None


def test_about_twenty_moments_are_looked_at_unless_the_user_says_otherwise() -> None:
    problem = blobs(0)
    assert problem.training is not None
    log = HealthLog(problem.training.model, HealthRequest(), 1000)
    seen = []
    for step in range(1, 1001):
        if log.is_due(step):
            for parameter in problem.parameters:
                parameter.grad = torch.ones_like(parameter)
            log.before_step(problem.training.loss, ())
            log.after_step(step)
            seen.append(step)
    assert seen[:3] == [1, 2, 3]
    assert 15 <= len(seen) <= 20
    assert seen[-1] > 600


def test_the_first_layer_has_learned_when_it_moved_by_more_than_one_percent() -> None:
    problem = blobs(0)
    norm = float(torch.cat([parameter.detach().reshape(-1) for parameter in problem.parameters[:2]]).norm())
    seen: list[float] = []
    start = [parameter.detach().clone() for parameter in problem.parameters[:2]]

    class Seen(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            seen.append(float(torch.cat([(p.detach() - q).reshape(-1) for p, q in zip(problem.parameters[:2], start, strict=True)]).norm()))

    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        return Seen(model.parameters(), lr=wanted.lr)

    method = batch_method("seen", "", Origin.PEER, build, (0.02,), settings={}, takes_momentum=False, decay=Decay.NONE)
    learned_at = trained(method, problem, steps=60).details({}).first_layer_learned_at
    assert learned_at == next(step for step, moved in enumerate(seen, start=1) if moved > 0.01 * norm)
    assert learned_at > 1


def test_the_state_of_the_optimizer_is_counted_per_parameter() -> None:
    count = sum(parameter.numel() for parameter in blobs(0).parameters)
    assert trained(adamw(), blobs(0)).details({}).state_numbers == pytest.approx((2 * count + 4) / count)  # two moments, and a step count per tensor
    assert trained(momentum_sgd(), blobs(0)).details({}).state_numbers == pytest.approx(1.0)


def test_the_share_of_the_step_is_a_positive_number_and_skipped_steps_are_read_off_the_optimizer() -> None:
    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), lr=wanted.lr)
        optimizer.skipped_steps = 5  # type: ignore[attr-defined]
        return optimizer

    method = batch_method("skipping", "", Origin.PEER, build, (0.1,), settings={}, takes_momentum=False, decay=Decay.NONE)
    details = trained(method, blobs(0)).details({})
    assert details.skipped_steps == 5
    assert details.step_share is not None
    assert details.step_share > 0.0


def poisoned(problem: Problem, is_bad: Callable[[int], bool]) -> Problem:
    """The same problem with a training loss that is NaN at some of its evaluations with gradient."""
    training = problem.training
    assert training is not None
    calls = iter(range(10**6))
    inner = training.loss

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        value = inner(outputs, targets)
        return value * math.nan if value.requires_grad and is_bad(next(calls)) else value

    return dataclasses.replace(problem, training=dataclasses.replace(training, loss=loss))


def skipping_sgd() -> Method:
    """SGD that leaves out a step whose gradient is not finite."""

    class Skipping(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]
            return super().step(closure) if all(bool(gradient.isfinite().all()) for gradient in gradients) else None

    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        return Skipping(model.parameters(), lr=wanted.lr)

    return batch_method("skipping", "", Origin.PEER, build, (0.1,), settings={}, takes_momentum=False, decay=Decay.NONE)


def test_a_batch_whose_loss_is_not_a_number_does_not_end_the_run() -> None:
    problem = poisoned(blobs(0), lambda call: call == 4)
    course = trained(skipping_sgd(), problem)
    assert course.tracer.steps == 10
    assert course.tracer.trace[-1].loss is not None


def test_parameters_that_are_not_finite_end_the_run_with_the_reason() -> None:
    problem = poisoned(blobs(0), lambda call: call == 4)
    with pytest.raises(ArithmeticError, match=r"The parameters are not finite after \d+ steps\."):
        trained(adamw(), problem)


def test_three_measured_moments_without_a_finite_loss_end_the_run_and_two_do_not() -> None:
    def run(losses: Iterator[float]) -> Tracer:
        tracer = Tracer(Budget(steps=8), lambda held_out: Reading(next(losses)), ignore, spacing=1.0)
        course = BatchCourse(blobs(0), tracer, Techniques(), seed=0, steps=8)
        course.train(variant_of(adamw()))
        raise AssertionError("a run ends by an exception")

    bad = math.nan
    with pytest.raises(BudgetExhausted):
        run(iter([1.0, bad, bad, 1.0, bad, bad, 1.0, 1.0, 1.0, 1.0]))
    with pytest.raises(ArithmeticError, match="at 3 measured moments in a row, the last after 4 steps"):
        run(iter([1.0, 1.0, bad, math.inf, bad, 1.0]))


def test_a_problem_without_training_data_is_refused(problem: Problem) -> None:
    tracer = Tracer(Budget(steps=1), lambda held_out: Reading(0.0), ignore, spacing=1.5)
    with pytest.raises(UsageError, match="no training data to take batches from"):
        BatchCourse(problem, tracer, Techniques(), seed=0, steps=1)


def test_parameters_that_are_not_the_models_are_refused() -> None:
    problem = dataclasses.replace(blobs(0), parameters=blobs(0).parameters)
    tracer = Tracer(Budget(steps=1), lambda held_out: Reading(0.0), ignore, spacing=1.5)
    with pytest.raises(UsageError, match="are not those of its model"):
        BatchCourse(problem, tracer, Techniques(), seed=0, steps=1)


@pytest.mark.parametrize("rates", [(), (0.0,), (0.1, -1.0)])
def test_a_grid_without_positive_rates_is_refused(rates: tuple[float, ...]) -> None:
    def build(model: nn.Module, wanted: Hyperparameters) -> torch.optim.Optimizer:
        raise AssertionError("never built")

    with pytest.raises(ValueError, match="needs a grid of positive learning rates"):
        batch_method("bad", "", Origin.PEER, build, rates, settings={}, takes_momentum=False, decay=Decay.NONE)
