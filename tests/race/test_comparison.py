from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from race.blobs import SAMPLES, adamw, momentum_sgd
from secant.race.budget import Budget
from secant.race.comparison import Compared, Comparison, compare, lr_grid
from secant.race.errors import UsageError
from secant.race.method import Method
from secant.race.plan import Plan, race_all
from secant.race.registry import select_methods
from secant.race.techniques import Schedule, Techniques

Planner = Callable[..., Plan]


def made(technique: Compared, plan: Plan) -> Comparison:
    return compare(technique, plan, samples=SAMPLES, batch=8)


def ssbroyden() -> Method:
    (method,) = select_methods(["ssbroyden"], trains=True)
    return method


def names(comparison: Comparison) -> list[str]:
    return [setting.name for setting in comparison.settings]


def test_every_schedule_is_compared_with_a_constant_rate(training_plan: Planner) -> None:
    comparison = made(Compared.SCHEDULE, training_plan())
    assert [setting.plan.techniques.schedule for setting in comparison.settings] == list(Schedule)
    assert comparison.default == "constant schedule"


def test_clipping_is_compared_with_none_and_a_full_batch_has_no_clipped_elements(training_plan: Planner) -> None:
    assert names(made(Compared.CLIP, training_plan())) == ["no clipping", "clip-norm 0.1", "clip-norm 1", "clip-norm 10", "clip-value 0.01"]
    assert names(made(Compared.CLIP, training_plan(ssbroyden()))) == ["no clipping", "clip-norm 0.1", "clip-norm 1", "clip-norm 10"]


@pytest.mark.parametrize("budget", [Budget(steps=21), Budget(evaluations=21), Budget(epochs=21 / 12)])
def test_accumulation_is_compared_at_equal_samples(budget: Budget, training_plan: Planner) -> None:
    records = list(race_all(made(Compared.ACCUMULATE, training_plan(budget=budget)).plans))
    assert [record.steps for record in records] == [16, 8, 4, 2]
    assert {record.training.samples for record in records if record.training} == {16 * 8}


def test_a_momentum_of_the_method_s_own_is_among_the_compared_ones(training_plan: Planner) -> None:
    own = momentum_sgd()
    (variant,) = own.variants
    rare = dataclasses.replace(own, variants=(dataclasses.replace(variant, settings={**variant.settings, "momentum": 0.7}),))
    comparison = made(Compared.MOMENTUM, training_plan(rare))
    assert [setting.value for setting in comparison.settings] == ["0", "0.5", "0.7", "0.9", "0.95", "0.99"]
    assert comparison.default == "momentum 0.7"


def test_a_momentum_that_is_not_known_leaves_no_default(training_plan: Planner) -> None:
    own = momentum_sgd()
    (variant,) = own.variants
    silent = dataclasses.replace(own, variants=(dataclasses.replace(variant, settings={"class": "SGD"}),))
    assert made(Compared.MOMENTUM, training_plan(silent)).default is None


def test_learning_rates_span_four_decades_around_the_method_s_own(training_plan: Planner) -> None:
    comparison = made(Compared.LR, training_plan(adamw(0.01)))
    assert [setting.value for setting in comparison.settings] == ["0.0001", "0.0003", "0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1"]
    assert (comparison.default, comparison.against_default) == ("lr 0.01", "at its default 0.01")
    records = list(race_all([dataclasses.replace(plan, budget=Budget(steps=1)) for plan in comparison.plans]))
    assert [record.variant for record in records] == [f"lr={setting.value}" for setting in comparison.settings]
    assert {record.grid for record in records} == {tuple(record.variant for record in records)}


def test_of_a_grid_the_middle_one_is_the_center(training_plan: Planner) -> None:
    comparison = made(Compared.LR, training_plan(adamw(0.1, 0.001, 0.01)))
    assert (comparison.settings[4].value, comparison.against_default) == ("0.01", "in the middle of its grid, 0.01")


@given(st.floats(1e-6, 10.0))
def test_a_grid_of_rates_has_its_center_in_the_middle_and_half_a_decade_between_neighbors(center: float) -> None:
    grid = lr_grid(center)
    assert len(grid) == 9
    assert grid[4] == pytest.approx(center, rel=1e-5)
    assert all(2.9 < high / low < 3.4 for low, high in itertools.pairwise(grid))


def test_every_setting_gets_the_whole_grid_of_rates(training_plan: Planner) -> None:
    comparison = made(Compared.SCHEDULE, training_plan(adamw(0.1, 0.01)))
    assert [plan.run_count for plan in comparison.plans] == [2] * 5


def test_runs_of_a_comparison_are_distinct_and_finished_ones_are_left_out(training_plan: Planner) -> None:
    plans = made(Compared.CLIP, training_plan(budget=Budget(steps=2), seeds=(0, 1))).plans
    records = list(race_all(plans))
    assert len({record.key for record in records}) == 10
    assert [record.seed for record in records] == [0] * 5 + [1] * 5
    assert list(race_all(plans, [record.key for record in records])) == []


@pytest.mark.parametrize(
    ("technique", "techniques"),
    [
        (Compared.SCHEDULE, Techniques(schedule=Schedule.COSINE)),
        (Compared.CLIP, Techniques(clip_value=1.0)),
        (Compared.ACCUMULATE, Techniques(accumulate=2)),
        (Compared.MOMENTUM, Techniques(momentum=0.5)),
    ],
)
def test_a_technique_that_is_compared_is_not_given_as_well(technique: Compared, techniques: Techniques, training_plan: Planner) -> None:
    with pytest.raises(UsageError, match=f"--compare {technique.value} sets --"):
        made(technique, training_plan(momentum_sgd(), techniques=techniques))


@pytest.mark.parametrize("technique", [Compared.ACCUMULATE, Compared.MOMENTUM, Compared.LR])
def test_what_a_full_batch_does_not_take_is_refused(technique: Compared, training_plan: Planner) -> None:
    with pytest.raises(UsageError, match="is not for ssbroyden, which takes the full batch"):
        made(technique, training_plan(ssbroyden()))


def test_several_methods_are_refused_by_name(training_plan: Planner) -> None:
    with pytest.raises(UsageError, match="got 2: test-adamw, test-sgd"):
        made(Compared.CLIP, training_plan(adamw(), momentum_sgd()))


def test_momentum_of_a_method_without_is_refused(training_plan: Planner) -> None:
    with pytest.raises(UsageError, match="takes no other momentum than its own"):
        made(Compared.MOMENTUM, training_plan(adamw()))


@pytest.mark.parametrize(("budget", "reason"), [(Budget(seconds=1.0), "at equal samples"), (Budget(steps=7), "8 micro-batches or more")])
def test_equal_samples_need_a_budget_that_divides(budget: Budget, reason: str, training_plan: Planner) -> None:
    with pytest.raises(UsageError, match=reason):
        made(Compared.ACCUMULATE, training_plan(budget=budget))
