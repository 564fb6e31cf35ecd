from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secant.problems.cutest_best import BestValues
from secant.race.cutest_records import CutestRecord, Ending
from secant.race.cutest_standings import TAU, data_profile, judge, performance_profile, places, solved_after
from secant.race.records import Machine

NOTHING_KNOWN = BestValues(0, {}, {}, frozenset())


def record(method: str, problem: str, *descent: tuple[float, float], ending: Ending = Ending.STOPPED, lost: bool = False) -> CutestRecord:
    pairs = descent or ((0.0, 1.0),)
    return CutestRecord(
        problem=problem,
        parameter_count=2,
        method=method,
        method_settings={},
        evaluations=100,
        product_price=2.0,
        ending=ending,
        outcome="",
        spent=100.0,
        products=0,
        steps=10,
        start_value=pairs[0][1],
        value=pairs[-1][1],
        lost=lost,
        descent=pairs,
        cpu_seconds=0.0,
        versions={},
        machine=Machine(cpu="", system="", threads=1),
    )


def solves(method: str, problem: str, after: float) -> CutestRecord:
    return record(method, problem, (0.0, 1.0), (after, 0.0)) if math.isfinite(after) else record(method, problem, (0.0, 1.0), (5.0, 0.5))


def test_a_problem_is_solved_at_the_first_value_within_the_tolerance() -> None:
    run = record("m", "p", (0.0, 101.0), (3.0, 1.0 + 2e-6), (7.0, 1.0 + 0.9e-6), (9.0, 1.0))
    assert solved_after(run, 1.0) == 7.0
    assert solved_after(run, 1.0, tau=1e-7) == 3.0
    assert solved_after(run, 0.5) == math.inf


def test_the_best_value_is_the_lower_of_known_and_found() -> None:
    runs = [record("a", "p", (0.0, 1.0), (4.0, 0.25)), record("b", "p", (0.0, 1.0), (2.0, 0.5))]
    assert judge(runs, NOTHING_KNOWN).best["p"] == 0.25
    known = BestValues(2000, {"p": 0.2}, {"p": "c"}, frozenset())
    judged = judge(runs, known)
    assert judged.best["p"] == 0.2
    assert judged.improved == ()
    assert all(math.isinf(spent) for spent in judged.solved_at.values())
    assert judge(runs, BestValues(2000, {"p": 0.3}, {"p": "c"}, frozenset())).improved == ("p",)


def test_rounding_below_the_known_value_is_no_improvement() -> None:
    runs = [record("a", "p", (0.0, 1.0), (4.0, 0.25))]
    assert judge(runs, BestValues(2000, {"p": 0.25 + 0.5 * TAU}, {"p": "c"}, frozenset())).improved == ()


def test_unbounded_problems_are_listed_apart() -> None:
    runs = [record("a", "p", (0.0, 1.0), (4.0, -1e20), ending=Ending.UNBOUNDED), record("b", "p"), solves("a", "q", 2), solves("b", "q", 3)]
    judged = judge(runs, BestValues(2000, {}, {}, frozenset({"r"})))
    assert judged.problems == ("q",)
    assert judged.unbounded == ("p",)


def test_a_problem_that_some_method_has_not_run_is_left_out() -> None:
    judged = judge([solves("a", "p", 2), solves("b", "p", 3), solves("a", "q", 2)], NOTHING_KNOWN)
    assert judged.problems == ("p",)


def three() -> list[CutestRecord]:
    spent = {"torch-lbfgs": (10, 20, 40, math.inf), "a": (5, 40, 20, 8), "b": (10, math.inf, 80, math.inf)}
    return [solves(method, problem, after) for method, row in spent.items() for problem, after in zip("pqrs", row, strict=True)]


def test_the_data_profile_counts_the_problems_solved_so_far() -> None:
    judged = judge(three(), NOTHING_KNOWN)
    assert data_profile(judged, "a") == ((1.0, 0.0), (5.0, 0.25), (8.0, 0.5), (20.0, 0.75), (40.0, 1.0))
    assert data_profile(judged, "b") == ((1.0, 0.0), (10.0, 0.25), (80.0, 0.5))


def test_the_performance_profile_divides_by_the_fastest() -> None:
    judged = judge(three(), NOTHING_KNOWN)
    assert performance_profile(judged, "a") == ((1.0, 0.75), (2.0, 1.0))
    assert performance_profile(judged, "torch-lbfgs") == ((1.0, 0.25), (2.0, 0.75))
    assert performance_profile(judged, "b") == ((1.0, 0.0), (2.0, 0.25), (4.0, 0.5))


def test_places_are_by_problems_solved_with_medians_on_what_is_shared() -> None:
    first, second, third = places(judge(three(), NOTHING_KNOWN))
    assert [first.method, second.method, third.method] == ["a", "torch-lbfgs", "b"]
    assert (first.solved, first.share, first.median_common, first.shared) == (4, 1.0, 12.5, 3)
    assert first.against == 20 / 20
    assert second.against == 1.0
    assert third.against == 45 / 25


def test_exceptions_and_nan_parameters_are_counted_on_unbounded_problems_too() -> None:
    runs = [record("a", "p", (0.0, 1.0), (2.0, -1e20), ending=Ending.UNBOUNDED), record("b", "p", ending=Ending.FAILED)]
    runs += [record("a", "q", lost=True), record("b", "q")]
    by_name = {place.method: place for place in places(judge(runs, NOTHING_KNOWN))}
    assert (by_name["a"].raised, by_name["a"].lost) == (0, 1)
    assert (by_name["b"].raised, by_name["b"].lost) == (1, 0)


def test_nothing_solved_is_no_error() -> None:
    known = BestValues(2000, {"p": 0.0}, {"p": "c"}, frozenset())
    judged = judge([record("a", "p", (0.0, 1.0), (2.0, 0.5))], known)
    assert places(judged)[0].solved == 0
    assert performance_profile(judged, "a") == ((1.0, 0.0),)


outcomes = st.dictionaries(st.sampled_from("abc"), st.lists(st.one_of(st.integers(1, 1000), st.just(math.inf)), min_size=6, max_size=6), min_size=1)


@given(outcomes)
def test_profiles_rise_from_zero_to_the_share_solved(spent: Mapping[str, list[float]]) -> None:
    judged = judge([solves(method, str(number), after) for method, row in spent.items() for number, after in enumerate(row)], NOTHING_KNOWN)
    shares = {place.method: place.share for place in places(judged)}
    for method in spent:
        for profile in (performance_profile(judged, method), data_profile(judged, method)):
            at, share = zip(*profile, strict=True)
            assert list(at) == sorted(at)
            assert at[0] >= 1.0
            assert list(share) == sorted(share)
            assert share[-1] == pytest.approx(shares[method])
    solved_by_some = sum(any(math.isfinite(judged.solved_at[method, problem]) for method in judged.methods) for problem in judged.problems)
    assert sum(performance_profile(judged, method)[0][1] for method in spent) >= solved_by_some / 6 - 1e-12
