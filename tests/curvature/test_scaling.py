"""The choice of theta and tau, as pure functions of three numbers."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from secant.curvature.scaling import FixedMember, Member, self_scaled_bfgs, self_scaled_broyden

sizes = st.sampled_from([1, 2, 3, 20, 10_000])
moderate = st.floats(-2.0, 2.0).map(lambda exponent: 10.0**exponent)
extreme = st.floats(-300.0, 300.0).map(lambda exponent: 10.0**exponent)
laws = settings(max_examples=120, deadline=None, derandomize=True)


def plain(h: float, b: float, n: int) -> Member:
    """The published rule, line by line; accurate where ``a`` is neither tiny nor huge."""
    a = h * b - 1.0
    c = math.sqrt(a / (1.0 + a))
    rho_minus = min(1.0, h * (1.0 - c))
    theta_minus, theta_plus = (rho_minus - 1.0) / a, 1.0 / rho_minus
    theta = max(theta_minus, min(theta_plus, (1.0 - b) / b))
    sigma = 1.0 + a * theta
    rho_plus = min(1.0, 1.0 / b)
    power = abs(sigma) ** (1.0 / (1.0 - n))
    tau = rho_plus * min(power, 1.0 / theta) if theta > 0.0 else min(rho_plus * power, sigma)
    return Member(theta, tau)


@laws
@given(h=moderate, b=moderate, n=sizes.filter(lambda n: n > 1))
def test_self_scaled_broyden_is_the_plain_formula(h: float, b: float, n: int) -> None:
    a = h * b - 1.0
    if a < 1e-6:
        return
    member, expected = self_scaled_broyden(h, b, n), plain(h, b, n)
    # 1 - c loses four digits at a = 1e4, and sigma at the lower end as many as rho_minus is small.
    assert member.theta == pytest.approx(expected.theta, rel=1e-9, abs=1e-11)
    assert member.tau == pytest.approx(expected.tau, rel=1e-9)


@laws
@given(b=extreme, n=sizes)
def test_self_scaled_bfgs_is_the_plain_formula(b: float, n: int) -> None:
    assert self_scaled_bfgs(1.0, b, n) == Member(0.0, min(1.0, 1.0 / b))


@laws
@given(h=moderate, b=moderate, n=sizes)
def test_member_lies_in_its_interval_and_never_raises_the_inverse_above_its_scale(h: float, b: float, n: int) -> None:
    a = h * b - 1.0
    if a < 0.0:
        return
    member = self_scaled_broyden(h, b, n)
    rho_minus = min(1.0, 1.0 / (b * (1.0 + math.sqrt(a / (1.0 + a)))))  # h (1 - c) in the form without cancellation: (1 - c)(1 + c) = 1 / (h b)
    sigma = 1.0 + a * member.theta
    assert sigma >= rho_minus * (1.0 - 1e-10) > 0.0
    assert member.theta <= max(1.0, 1.0 / rho_minus) * (1.0 + 1e-12)
    assert 0.0 < member.tau <= 1.0


@laws
@given(b=moderate, n=sizes, gap=st.floats(0.0, 1e-13), sign=st.sampled_from([-1.0, 1.0]))
def test_parallel_step_and_gradient_change_take_the_self_scaled_bfgs_member(b: float, n: int, gap: float, sign: float) -> None:
    """``h b`` is one in exact arithmetic and lands on either side of it."""
    h = (1.0 + sign * gap) / b
    assert self_scaled_broyden(h, b, n) == self_scaled_bfgs(h, b, n)


@laws
@given(h=extreme, b=extreme, n=sizes)
@example(h=1e-17, b=2e17, n=30)
@example(h=1e-300, b=2e300, n=2)
@example(h=1e300, b=1e300, n=30)
@example(h=1e300, b=1e-300, n=30)
@example(h=1e-300, b=1e300, n=30)
def test_extreme_ratios_give_finite_members(h: float, b: float, n: int) -> None:
    if h * b < 1.0 - 1e-12:
        return
    member = self_scaled_broyden(h, b, n)
    assert math.isfinite(member.theta)
    assert 0.0 < member.tau <= 1.0


@pytest.mark.parametrize("a", [1e14, 1e17, 1e30])
def test_lower_end_of_theta_keeps_its_digits_far_from_the_secant(a: float) -> None:
    """For ``a`` to infinity and ``b > 1/2`` the lower end is active: sigma = rho_minus = 1 / (2 b), and tau is the lesser of it and its power over b."""
    b, n = 4.0, 3
    member = self_scaled_broyden((1.0 + a) / b, b, n)
    assert member.theta == pytest.approx((1.0 / (2.0 * b) - 1.0) / a, rel=1e-9)
    assert member.tau == pytest.approx(min(math.sqrt(2.0 * b) / b, 1.0 / (2.0 * b)), rel=1e-4)


def test_inverse_that_is_too_small_along_the_step_is_not_scaled() -> None:
    """``b < 1``: the old curvature along the step is below the new one, so the old inverse is kept as it is or shrunk nowhere."""
    assert self_scaled_bfgs(3.0, 0.5, 10).tau == 1.0
    member = self_scaled_broyden(3.0, 0.5, 10_000)
    assert member.theta == pytest.approx(1.0)
    assert member.tau == pytest.approx(1.0, rel=1e-3)


def test_fixed_member_is_never_scaled() -> None:
    assert FixedMember(0.3)(5.0, 7.0, 4) == Member(0.3, 1.0)
