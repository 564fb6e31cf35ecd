"""No threshold knows the scale of the loss, and none the order or units of the parameters beyond what H0 says."""

from __future__ import annotations

import pytest
import torch

from conformance.cases import PROBLEMS, Case, Problem, drive, every_method_and_fit, every_pair, every_pair_and_fit, flat, rosenbrock, tanh_net

STEPS = 30

pytestmark = pytest.mark.filterwarnings("ignore:float32 no longer resolves")


@pytest.mark.parametrize("exponent", [-26, 26])
@pytest.mark.parametrize("name", PROBLEMS)
@every_pair_and_fit
def test_a_power_of_two_times_the_loss_changes_no_bit(case: Case, name: str, exponent: int) -> None:
    problem, scaled = case.form(PROBLEMS[name]()), case.form(PROBLEMS[name]())
    factor = 2.0**exponent
    expected = drive(case.build(problem.parameters), problem, STEPS)
    optimizer = case.build(scaled.parameters)
    found = drive(optimizer, scaled.times(factor), STEPS)
    different = [i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if not torch.equal(a, b)]
    assert not different, f"first different after step {different[0] + 1}: {optimizer.outcome}"


@pytest.mark.parametrize("factor", [1e-7, 3.0, 1e9])
@every_pair_and_fit
def test_any_other_factor_changes_the_first_iterates_within_rounding(case: Case, factor: float) -> None:
    if case.amplifies_rounding:
        pytest.skip("its path depends on the last digit")
    problem, scaled = case.form(tanh_net()), case.form(tanh_net())
    expected = drive(case.build(problem.parameters), problem, 6)
    found = drive(case.build(scaled.parameters), scaled.times(factor), 6)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("exponent", [-26, 26])
@every_pair_and_fit
def test_a_power_of_two_times_a_float32_loss_changes_no_bit(case: Case, exponent: int) -> None:
    problem, scaled = case.form(tanh_net(torch.float32)), case.form(tanh_net(torch.float32))
    factor = 2.0**exponent
    expected = drive(case.build(problem.parameters), problem, 6)
    found = drive(case.build(scaled.parameters), scaled.times(factor), 6)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@every_pair_and_fit
def test_permuting_the_parameters_permutes_the_result(case: Case) -> None:
    if case.amplifies_rounding:
        pytest.skip("its path depends on the last digit")
    problem, permuted = case.form(tanh_net()), case.form(tanh_net())
    order = [2, 0, 3, 1]
    drive(case.build(problem.parameters), problem, 6)
    drive(case.build([permuted.parameters[i] for i in order]), permuted, 6)
    torch.testing.assert_close(flat(permuted.parameters), flat(problem.parameters), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("unit", [2.0**-12, 2.0**12])
@every_pair
def test_parameters_in_other_units_take_the_same_path_when_the_initial_scale_follows(case: Case, unit: float) -> None:
    problem = rosenbrock()
    expected = drive(case.build(problem.parameters, initial_scale=2.0**-8), problem, 25)
    z = (rosenbrock().parameters[0].detach() * unit).requires_grad_()
    loss = lambda: ((1.0 - z[:-1] / unit) ** 2).sum() + 100.0 * ((z[1:] / unit - (z[:-1] / unit) ** 2) ** 2).sum()  # noqa: E731
    found = drive(case.build([z], initial_scale=2.0**-8 * unit**2), Problem([z], loss), 25)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b / unit)


@every_method_and_fit
def test_permuting_equal_groups_changes_nothing_but_the_order(case: Case) -> None:
    problem, grouped = case.form(tanh_net()), case.form(tanh_net())
    drive(case.build(problem.parameters), problem, 8)
    drive(case.build([{"params": [p]} for p in grouped.parameters]), grouped, 8)
    assert torch.equal(flat(problem.parameters), flat(grouped.parameters))
