from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from secant.race.plan import Plan, race
from secant.race.records import RunRecord, Status
from secant.race.standings import standings


@pytest.fixture
def record(plan: Callable[..., Plan]) -> Callable[..., RunRecord]:
    (template,) = race(plan("torch-lbfgs", evaluations=3))

    def make(**changes: object) -> RunRecord:
        return template.model_copy(update=changes)

    return make


def test_the_lowest_median_error_comes_first(record: Callable[..., RunRecord]) -> None:
    runs = [
        record(method=name, seed=seed, error=error)
        for name, errors in {"a": (1.0, 5.0, 9.0), "b": (4.0, 4.0, 40.0)}.items()
        for seed, error in enumerate(errors)
    ]
    places = standings(runs)
    assert [place.method for place in places] == ["b", "a"]
    assert (places[0].score.median, places[0].score.lowest, places[0].score.highest) == (4.0, 4.0, 40.0)


def test_the_best_member_of_a_grid_counts_and_the_others_are_kept(record: Callable[..., RunRecord]) -> None:
    (place,) = standings([record(method="adam", variant=f"lr={rate}", error=rate) for rate in (3.0, 1.0, 2.0)])
    assert place.variant == "lr=1.0"
    assert [other.variant for other in place.others] == ["lr=2.0", "lr=3.0"]


def test_a_run_without_a_number_counts_as_infinitely_bad(record: Callable[..., RunRecord]) -> None:
    places = standings([record(method="lost", error=None, loss=None, status=Status.FAILED), record(method="poor", error=1e6)])
    assert [place.method for place in places] == ["poor", "lost"]
    assert places[1].score.median == math.inf
    assert places[1].failures == 1


def test_two_seeds_of_which_one_is_lost_have_no_finite_median(record: Callable[..., RunRecord]) -> None:
    (place,) = standings([record(seed=0, error=1.0), record(seed=1, error=None)])
    assert place.score.median == math.inf
    assert place.score.lowest == 1.0


def test_without_an_error_the_loss_counts(record: Callable[..., RunRecord]) -> None:
    places = standings([record(method="a", error=None, error_name=None, loss=2.0), record(method="b", error=None, error_name=None, loss=1.0)])
    assert [place.method for place in places] == ["b", "a"]
