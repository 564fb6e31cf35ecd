"""Every line search on functions of one number: the condition it names holds, and it never exceeds its budget."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from globalization.lines import AWKWARD, SOLVABLE, Search, endless, flat_to_rounding, kink, parabola, quartic, wall_of_nan, wrong_gradient
from secant.globalization.armijo import Armijo
from secant.globalization.fixed_step import FixedStep
from secant.globalization.hager_zhang import HagerZhang
from secant.globalization.line import LineSearch
from secant.globalization.strong_wolfe import StrongWolfe
from secant.step import Outcome

EPS = 2.0**-52
SEARCHES: dict[str, type[Armijo | HagerZhang | StrongWolfe]] = {"armijo": Armijo, "hager-zhang": HagerZhang, "strong wolfe": StrongWolfe}
CURVES = SOLVABLE | AWKWARD
FIRST = [1e-8, 1e-3, 1.0, 37.0, 1e8]


def assert_named_condition(search: Search) -> None:
    """The kept point meets what its outcome says, with the defaults of each method."""
    rise, length, slope, end = search.rise, search.length, search.slope, search.end_slope
    rounding = 8.0 * EPS * abs(search.step.start.loss)
    # The parameter itself rounds: the length is known to its last digits only.
    slack = 1e-12 * abs(length * slope) + EPS * abs(search.step.start.loss)
    match search.step.outcome:
        case Outcome.WOLFE:
            assert rise <= 0.1 * length * slope + slack
            assert end >= 0.9 * slope
        case Outcome.APPROXIMATE_WOLFE:
            assert rise <= rounding
            assert 0.9 * slope <= end <= -0.8 * slope
        case Outcome.STRONG_WOLFE:
            assert rise <= 1e-4 * length * slope + slack
            assert abs(end) <= -0.9 * slope
        case Outcome.ARMIJO:
            assert rise <= 1e-4 * length * slope + slack
        case Outcome.DECREASE:
            assert rise < -rounding
        case Outcome.NO_DECREASE | Outcome.ROUNDING_FLOOR | Outcome.NOT_FINITE | Outcome.NO_DESCENT:
            assert search.step.kept is search.step.start
        case outcome:
            pytest.fail(f"unexpected {outcome}")


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
@pytest.mark.parametrize("method", SEARCHES.values(), ids=SEARCHES)
def test_kept_point_meets_the_condition_it_is_named_after(method: type[LineSearch], curve: tuple, first: float) -> None:
    search = Search(curve[0], method(), curve[1], lr=first)  # type: ignore[call-arg]
    assert_named_condition(search)
    assert search.evaluations <= 40
    assert search.step.kept.is_finite


@pytest.mark.parametrize("first", [1e-3, 1.0, 37.0])
@pytest.mark.parametrize("curve", SOLVABLE.values(), ids=SOLVABLE)
@pytest.mark.parametrize("method", SEARCHES.values(), ids=SEARCHES)
def test_smooth_functions_are_solved_by_the_conditions_themselves(method: type[LineSearch], curve: tuple, first: float) -> None:
    search = Search(curve[0], method(), curve[1], lr=first)  # type: ignore[call-arg]
    assert search.step.outcome in (Outcome.WOLFE, Outcome.APPROXIMATE_WOLFE, Outcome.STRONG_WOLFE, Outcome.ARMIJO)
    assert search.evaluations <= 25  # the most: from the far plateau with a first length of 1e-3, ten orders of magnitude too short


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    method=st.sampled_from(list(SEARCHES.values())),
    curve=st.sampled_from(list(CURVES.values())),
    log_first=st.floats(-12.0, 12.0),
    budget=st.integers(1, 12),
)
def test_no_search_exceeds_its_budget(method: type[Armijo | HagerZhang | StrongWolfe], curve: tuple, log_first: float, budget: int) -> None:
    search = Search(curve[0], method(budget=budget), curve[1], lr=10.0**log_first)
    assert 1 <= search.evaluations <= budget
    assert_named_condition(search)


@pytest.mark.parametrize("method", SEARCHES.values(), ids=SEARCHES)
def test_budget_of_one_keeps_the_first_point_when_it_is_lower(method: type[Armijo | HagerZhang | StrongWolfe]) -> None:
    search = Search(endless, method(budget=1), 0.0)
    assert search.length == 1.0
    assert search.step.outcome.is_accepted


@pytest.mark.parametrize("method", SEARCHES.values(), ids=SEARCHES)
def test_gradient_that_contradicts_the_loss_is_reported(method: type[LineSearch]) -> None:
    search = Search(wrong_gradient, method(), 0.0)  # type: ignore[call-arg]
    assert search.step.outcome in (Outcome.NO_DECREASE, Outcome.ROUNDING_FLOOR)


@pytest.mark.parametrize(
    "method",
    [
        Armijo(),
        HagerZhang(),
        StrongWolfe(),
    ],
)
def test_rounding_floor_is_told_from_a_wrong_gradient(method: LineSearch) -> None:
    """The slope promises 1e-18 where the loss has a rounding of 2e-15; away from the start it is one digit higher."""
    search = Search(lambda x: (1.0 + (1e-15 if x != 1e-9 else 0.0), 1e-9), method, 1e-9)
    assert search.step.outcome is Outcome.ROUNDING_FLOOR
    assert search.step.kept is search.step.start


def test_hager_zhang_decides_where_the_loss_is_flat_to_rounding() -> None:
    search = Search(flat_to_rounding, HagerZhang(), 1e-9, lr=0.9)
    assert search.step.outcome is Outcome.APPROXIMATE_WOLFE
    assert abs(search.end_slope) <= 0.9 * abs(search.slope)
    assert search.evaluations == 1


def test_hager_zhang_accepts_exactly_what_the_reference_conditions_accept() -> None:
    """Hager & Zhang (2005), eq. 4.1 to 4.3 on a parabola, where ``phi(a) = a (a/2 - 1)`` and ``phi'(a) = a - 1`` for unit slope."""
    for length in (0.05, 0.0999, 0.1001, 0.5, 1.0, 1.5, 1.7999, 1.8001, 1.95):
        search = Search(parabola, HagerZhang(budget=1), 1.0, lr=length)
        wolfe = length * (0.5 * length - 1.0) <= -0.1 * length and length - 1.0 >= -0.9
        assert (search.step.outcome is Outcome.WOLFE) == wolfe


def test_expansion_grows_by_the_stated_factor() -> None:
    assert Search(endless, HagerZhang(budget=4), 0.0).lengths == [1.0, 5.0, 25.0, 125.0]


def test_values_that_are_not_finite_are_left_at_once_and_for_good() -> None:
    for method in (Armijo(), HagerZhang(), StrongWolfe()):
        search = Search(wall_of_nan, method, 4.0, lr=10.0)
        assert search.step.outcome.is_accepted
        assert search.lengths[1] == pytest.approx(1.0, rel=0.01)
        assert float(search.step.kept.x) > 0.3


@pytest.mark.parametrize("method", [Armijo(), HagerZhang(), StrongWolfe(), FixedStep()])
def test_search_without_any_finite_value_stays_where_it_began(method: LineSearch) -> None:
    search = Search(lambda x: (1.0, 1.0) if x == 0.0 else (math.nan, math.nan), method, 0.0)
    assert search.step.outcome is Outcome.NOT_FINITE
    assert search.step.kept is search.step.start
    assert search.step.trial is None


def test_kink_is_survived() -> None:
    for method in (Armijo(), HagerZhang(), StrongWolfe()):
        search = Search(kink, method, 0.3)
        assert search.step.kept.loss < 0.3
        assert search.evaluations <= 40


def test_backtracking_takes_the_minimizer_of_the_parabola() -> None:
    """From a length of 3 on ``x^2/2`` the parabola's minimizer is 1 (Nocedal & Wright, eq. 3.58)."""
    assert Search(parabola, Armijo(), 2.0, lr=3.0).lengths == pytest.approx([3.0, 1.0])


def test_backtracking_stays_between_a_tenth_and_a_half() -> None:
    assert Search(quartic, Armijo(), 1.0, lr=10.0).lengths[1] == pytest.approx(1.0)
    search = Search(parabola, Armijo(decrease=0.9), 1.0, lr=1.0)
    assert search.lengths == pytest.approx([1.0, 0.5, 0.25, 0.125])


def test_fixed_step_takes_what_comes() -> None:
    search = Search(parabola, FixedStep(), 1.0, lr=5.0)
    assert search.step.outcome is Outcome.FIXED
    assert search.length == pytest.approx(5.0)
    assert search.rise > 0.0
    assert search.evaluations == 1


def test_first_length_repeats_the_last_decrease() -> None:
    """``lr min(1, 2.02 (f - f_previous) / g.d)`` (Nocedal & Wright, eq. 3.60 and the line below it)."""
    method = HagerZhang()
    assert Search(parabola, method, 1.0, lr=0.5).lengths[0] == 0.5
    decrease = method.memory()["last_decrease"]
    assert decrease == pytest.approx(0.5 - 0.125)
    assert Search(parabola, method, 3.0, lr=1.0).lengths[0] == pytest.approx(2.02 * 0.375 / 9.0)
    method.recall({"last_decrease": 100.0})
    assert Search(parabola, method, 3.0, lr=0.25).lengths[0] == pytest.approx(0.25)
    method.forget()
    assert Search(parabola, method, 3.0, lr=0.7).lengths[0] == pytest.approx(0.7)


def test_decrease_below_rounding_does_not_shorten_the_next_step() -> None:
    method = HagerZhang()
    method.recall({"last_decrease": 1e-16})
    assert Search(flat_to_rounding, method, 1e-3).lengths[0] == pytest.approx(1.0)


@pytest.mark.parametrize("method", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("first", [1e150, 1e300])
def test_absurd_first_length_is_not_an_exception(method: type[LineSearch], first: float) -> None:
    search = Search(parabola, method(), 1e-3, lr=first)  # type: ignore[call-arg]
    assert search.step.kept.loss <= search.step.start.loss
