from __future__ import annotations

from typing import Any

import pytest

from race.blobs import adamw, blobs, momentum_sgd
from secant.race.batch_method import batch_method
from secant.race.budget import Budget
from secant.race.errors import UsageError
from secant.race.method import Feed, Method, Origin
from secant.race.registry import select_methods
from secant.race.technique_rules import recorded, refuse_misfits, with_batch_of
from secant.race.techniques import Decay, Schedule, Techniques

STEPS = Budget(steps=100)


def full(name: str = "ssbroyden") -> Method:
    (method,) = select_methods([name])
    assert method.feed is Feed.FULL_BATCH
    return method


def without_decay() -> Method:
    (variant,) = adamw().variants
    return batch_method("no-decay", "", Origin.PEER, variant.build, (0.1,), settings={}, takes_momentum=False, decay=Decay.NONE)  # type: ignore[union-attr]


def refuse(*methods: Method, budget: Budget = STEPS, samples: int | None = 96, **options: Any) -> None:
    techniques = Techniques(**options)
    batch = None if samples is None else techniques.batch or 8
    refuse_misfits(methods, techniques, budget, samples=samples, batch=batch)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch": 8}, "it evaluates all samples in each step"),
        ({"momentum": 0.9}, "its direction comes from curvature"),
        ({"clip_value": 1.0}, "would corrupt its curvature; see --clip-norm"),
    ],
)
def test_what_makes_no_sense_on_the_full_batch_is_refused_with_the_reason(options: dict[str, Any], reason: str) -> None:
    (name,) = options
    for others in ((), (momentum_sgd(),)):
        with pytest.raises(UsageError, match=reason) as caught:
            refuse(*others, full(), **options)
        assert str(caught.value).startswith(f"--{name.replace('_', '-')} is not for ssbroyden, which takes the full batch")
        assert caught.value.hint.endswith("or ssbroyden")


@pytest.mark.parametrize("options", [{"schedule": Schedule.COSINE}, {"warmup": 3}, {"clip_norm": 1.0}, {"weight_decay": 0.1}])
def test_other_libraries_take_no_such_technique_on_the_full_batch_and_ours_do(options: dict[str, Any]) -> None:
    refuse(full(), adamw(), momentum_sgd(), **options)
    with pytest.raises(UsageError, match="is not for torch-lbfgs: on the full batch, only the methods of this library take it"):
        refuse(full("torch-lbfgs"), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": Schedule.PLATEAU, "warmup": 5},
        {"clip_norm": 1.0, "clip_value": 0.1},
        {"accumulate": 4},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"batch": 32},
    ],
)
def test_every_technique_goes_with_methods_that_learn_from_batches(options: dict[str, Any]) -> None:
    refuse(adamw(), momentum_sgd(), **options)


def test_a_momentum_that_no_method_takes_is_refused() -> None:
    with pytest.raises(UsageError, match="none of the methods takes another one"):
        refuse(adamw(), momentum=0.5)


def test_a_method_without_weight_decay_is_refused_where_it_is_asked_for() -> None:
    refuse(without_decay(), weight_decay=0.0)
    with pytest.raises(UsageError, match="'no-decay' offers no weight decay"):
        refuse(without_decay(), weight_decay=0.1)


@pytest.mark.parametrize("option", ["batch", "accumulate"])
def test_without_training_data_there_is_nothing_to_divide(option: str) -> None:
    with pytest.raises(UsageError, match=f"--{option} divides training data, and this problem has none"):
        refuse(full(), samples=None, **{option: 2})


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 96 samples, all there are, got 97"):
        refuse(adamw(), batch=97)
    refuse(adamw(), batch=96)


def test_a_schedule_needs_a_run_whose_length_is_known() -> None:
    cosine = {"schedule": Schedule.COSINE}
    for budget in (STEPS, Budget(epochs=2), Budget(evaluations=40)):
        refuse(adamw(), budget=budget, **cosine)
    with pytest.raises(UsageError, match="a run of test-adamw under a budget of 3 s of CPU time ends after a number of steps that nobody knows"):
        refuse(adamw(), budget=Budget(seconds=3), **cosine)
    refuse(full(), budget=STEPS, **cosine)
    with pytest.raises(UsageError, match="needs the length of the run"):
        refuse(full(), budget=Budget(epochs=2), **cosine)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(UsageError, match="--warmup needs fewer steps than the run has, 12, got 12"):
        refuse(adamw(), budget=Budget(epochs=1), schedule=Schedule.STEP, warmup=12)
    refuse(adamw(), budget=Budget(epochs=1), schedule=Schedule.STEP, warmup=11)


def test_a_budget_of_less_than_one_step_is_refused() -> None:
    with pytest.raises(UsageError, match="less than one step of 8 micro-batches"):
        refuse(adamw(), budget=Budget(evaluations=7), accumulate=8)


@pytest.mark.parametrize(
    "options",
    [
        {"warmup": -1},
        {"clip_norm": 0.0},
        {"clip_norm": float("nan")},
        {"clip_value": float("inf")},
        {"accumulate": 0},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"weight_decay": -1.0},
        {"batch": 0},
    ],
)
def test_a_number_out_of_range_is_refused_by_the_name_of_its_option(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} needs .*, got {value}"):
        Techniques(**options)


def test_the_record_says_which_weight_decay_and_what_the_method_is_fed() -> None:
    techniques = with_batch_of(Techniques(weight_decay=0.1, momentum=0.5, clip_norm=2.0), blobs(0).training)
    decoupled = recorded(adamw(), techniques, trains=True)
    assert decoupled | {"feed": "batches", "batch": 8, "weight_decay": 0.1, "weight_decay_kind": "decoupled", "clip_norm": 2.0} == decoupled
    assert "momentum" not in decoupled
    assert recorded(momentum_sgd(), techniques, trains=True)["momentum"] == 0.5
    assert recorded(momentum_sgd(), techniques, trains=True)["weight_decay_kind"] == "coupled"
    coupled = recorded(full(), techniques, trains=True)
    assert coupled == {"feed": "full batch", "weight_decay": 0.1, "weight_decay_kind": "coupled", "max_step_length": 2.0}


def test_a_plain_run_of_a_problem_without_training_data_records_nothing() -> None:
    assert recorded(full(), Techniques(), trains=False) == {}
    assert recorded(full(), Techniques(), trains=True) == {"feed": "full batch"}


def test_every_technique_that_is_heeded_is_in_the_record() -> None:
    plain = recorded(momentum_sgd(), Techniques(batch=8), trains=True)
    changes = (
        {"schedule": Schedule.COSINE},
        {"warmup": 2},
        {"clip_norm": 1.0},
        {"clip_value": 1.0},
        {"accumulate": 2},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"batch": 9},
    )
    for change in changes:
        options: dict[str, Any] = {"batch": 8, **change}
        assert recorded(momentum_sgd(), Techniques(**options), trains=True) != plain, change
