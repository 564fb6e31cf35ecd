"""Levenberg-Marquardt and Gauss-Newton where least squares are hard, and as torch optimizers."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor, nn

import secant
from secant import Correction, Outcome
from secant.globalization.globalization import Globalization
from secant.optimizer import CurvatureOptimizer
from secant.residual_methods import RESIDUAL_METHODS

DOUBLE = torch.float64
T = torch.linspace(-1.0, 1.0, 15, dtype=DOUBLE)
GLOBALIZATIONS: dict[str, type[Globalization[Any]]] = {
    "Damping": secant.Damping,
    "TrustRegion": secant.TrustRegion,
    "HagerZhang": secant.HagerZhang,
    "StrongWolfe": secant.StrongWolfe,
    "Armijo": secant.Armijo,
}
ENDS = (Outcome.ROUNDING_FLOOR, Outcome.CONVERGED)

Make = Callable[..., CurvatureOptimizer[Any]]
every_method = pytest.mark.parametrize("make", [secant.LevenbergMarquardt, secant.GaussNewton], ids=["lm", "gauss-newton"])
every_pair = pytest.mark.parametrize("globalization", GLOBALIZATIONS)


def leaf(*values: float, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def run(optimizer: CurvatureOptimizer[Any], residual: Any, steps: int = 200) -> Outcome:
    for _ in range(steps):
        optimizer.step(residual)
        assert optimizer.outcome is not None
        if optimizer.outcome.stops:
            break
    assert optimizer.outcome is not None
    return optimizer.outcome


def decay(x: Tensor) -> Tensor:
    """A curved fit with residuals left over, from ``(1, 1)`` mild for undamped steps."""
    return x[0] * torch.exp(-x[1] * (T + 1.0)) - torch.cos(T + 0.5)


@every_pair
@every_method
def test_every_globalization_finds_the_fit_of_scipy(make: Make, globalization: str) -> None:
    x = leaf(1.0, 1.0)
    optimizer = make([x], globalization=GLOBALIZATIONS[globalization]())
    assert run(optimizer, lambda: decay(x)) in ENDS
    expected = scipy.optimize.least_squares(lambda p: decay(torch.tensor(p)).numpy(), [1.0, 1.0], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    np.testing.assert_allclose(x.detach().numpy(), expected.x, rtol=1e-7)
    assert optimizer.iteration < 40


@every_pair
@every_method
def test_rosenbrocks_valley_is_followed_to_its_end(make: Make, globalization: str) -> None:
    x = leaf(-1.2, 1.0)
    optimizer = make([x], globalization=GLOBALIZATIONS[globalization]())
    assert run(optimizer, lambda: torch.stack((10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]))) in ENDS
    torch.testing.assert_close(x.detach(), torch.ones(2, dtype=DOUBLE), rtol=1e-10, atol=1e-10)


@every_method
def test_near_a_perfect_fit_digits_double_with_every_step(make: Make) -> None:
    x = leaf(1.3, 0.8)
    data = 1.0 * torch.exp(-1.2 * (T + 1.0))
    optimizer = make([x])
    losses = [float(optimizer.step(lambda: x[0] * torch.exp(-x[1] * (T + 1.0)) - data)) for _ in range(12)]
    late = [loss for loss in losses if 1e-25 < loss < 1e-3]
    assert min(losses) < 1e-28
    assert len(late) <= 5


class Sick:
    """Residuals of which some rows are not a number at the chosen evaluations."""

    def __init__(self, x: Tensor, evaluations: range, value: float) -> None:
        self.x = x
        self.evaluations = evaluations
        self.value = value
        self.count = 0
        self.best = math.inf

    def residual(self) -> tuple[Tensor, Tensor]:
        self.count += 1
        r = decay(self.x)
        if self.count in self.evaluations:
            spoilt = torch.zeros_like(T)
            spoilt[[2, 7]] = self.value
            r = r + spoilt
        elif bool(torch.isfinite(r).all()):
            self.best = min(self.best, 0.5 * float(r.detach().square().sum()))
        return r[:5], r[5:]


@pytest.mark.parametrize(("evaluation", "value"), [(k, (math.nan, math.inf, -math.inf)[k % 3]) for k in range(1, 9)])
@every_pair
@every_method
def test_rows_that_are_not_a_number_once_leave_the_best_point_and_the_run_goes_on(make: Make, globalization: str, evaluation: int, value: float) -> None:
    x = leaf(1.0, 1.0)
    sick = Sick(x, range(evaluation, evaluation + 1), value)
    optimizer = make([x], globalization=GLOBALIZATIONS[globalization]())
    before = 0.5 * float(decay(x.detach()).square().sum())
    for _ in range(60):
        optimizer.step(sick.residual)
        assert torch.isfinite(x).all()
        after = 0.5 * float(decay(x.detach()).square().sum())
        assert after <= before * (1.0 + 1e-12), "the best point is kept"
        before = after
        assert optimizer.outcome is not None
        if optimizer.outcome.stops:
            break
    assert optimizer.outcome in ENDS


@every_pair
@every_method
def test_not_a_number_at_the_start_is_said_and_changes_nothing(make: Make, globalization: str) -> None:
    x = leaf(1.0, 1.0)
    sick = Sick(x, range(1, 10**6), math.nan)
    optimizer = make([x], globalization=GLOBALIZATIONS[globalization]())
    for _ in range(3):
        assert math.isnan(float(optimizer.step(sick.residual)))
        assert optimizer.outcome is Outcome.NOT_FINITE
        assert x.tolist() == [1.0, 1.0]


@every_pair
@every_method
def test_not_a_number_everywhere_but_at_the_start_is_no_reason_to_stop_for_good(make: Make, globalization: str) -> None:
    x = leaf(1.0, 1.0)
    sick = Sick(x, range(2, 150), math.nan)
    optimizer = make([x], globalization=GLOBALIZATIONS[globalization]())
    while sick.count < 150:
        before = sick.count
        optimizer.step(sick.residual)
        assert sick.count > before
        if sick.count < 150:
            assert optimizer.outcome is Outcome.NOT_FINITE
            assert x.tolist() == [1.0, 1.0]
    assert run(optimizer, sick.residual) in ENDS


@pytest.mark.parametrize("solver", ["auto", "cholesky", "qr", "woodbury", "cg", "sketch"])
@every_method
def test_residuals_that_are_zero_already_are_converged(make: Make, solver: str) -> None:
    x = leaf(1.0, 2.0)
    optimizer = make([x], solver=solver)
    assert float(optimizer.step(lambda: (x[0] - 1.0) * T + (x[1] - 2.0))) == 0.0
    assert optimizer.outcome is Outcome.CONVERGED
    assert x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("solver", ["auto", "cholesky", "qr", "woodbury", "cg", "sketch"])
@every_method
def test_a_jacobian_of_deficient_rank_is_no_obstacle(make: Make, solver: str) -> None:
    x = leaf(0.3, 0.1, 0.9, 5.0)  # two that count by their sum, one that counts twice, one that does not count
    optimizer = make([x], solver=solver)
    outcome = run(optimizer, lambda: torch.cat([torch.exp(x[0] + x[1]) * T - 2.0 * T + x[2], x[2:3] - 0.2]), 300)
    assert outcome in ENDS
    assert optimizer.point is not None
    assert optimizer.point.largest_grad < 1e-7
    assert x[3].item() == 5.0
    assert float(x.detach()[:2].abs().max()) < 3.0, "no step along the direction that nothing measures"


@pytest.mark.parametrize("solver", ["auto", "cholesky", "qr", "woodbury", "cg", "sketch"])
@every_method
def test_fewer_residuals_than_parameters_are_fitted_to_zero(make: Make, solver: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 10), nn.Tanh(), nn.Linear(10, 1)).double()
    points = torch.linspace(-1.0, 1.0, 8, dtype=DOUBLE)[:, None]
    optimizer = make(net.parameters(), solver=solver)
    for _ in range(60):
        loss = optimizer.step(lambda: (net(points) - torch.sin(3.0 * points)).squeeze(1))
        if float(loss) < 1e-16:
            break
    assert float(loss) < (1e-4 if solver in ("cg", "cholesky") else 1e-16)  # products alone, and a matrix of rank 8 and size 31


@every_method
def test_a_fit_with_kinks_ends_with_a_clear_outcome_no_higher_than_it_began(make: Make) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    points = torch.linspace(-1.0, 1.0, 30, dtype=DOUBLE)[:, None]
    optimizer, losses = make(net.parameters()), []

    def residual() -> Tensor:
        return (net(points) - points.square()).squeeze(1)

    for _ in range(100):
        losses.append(float(optimizer.step(residual)))
        assert optimizer.outcome is not None
        if optimizer.outcome.stops:
            break
    assert all(later <= earlier * (1.0 + 1e-9) for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < 0.02 * losses[0]
    assert optimizer.outcome is not Outcome.NOT_FINITE


@every_pair
@every_method
def test_weight_decay_equals_residuals_of_its_own(make: Make, globalization: str) -> None:
    x, y = leaf(1.0, 1.0), leaf(1.0, 1.0)
    decayed = make([x], weight_decay=0.3, globalization=GLOBALIZATIONS[globalization]())
    plain = make([y], globalization=GLOBALIZATIONS[globalization]())
    for _ in range(8):
        before = 0.5 * float(decay(x.detach()).square().sum())
        loss = decayed.step(lambda: decay(x))
        plain.step(lambda: (decay(y), math.sqrt(0.3) * y))
        assert float(loss) == pytest.approx(before, rel=1e-14), "the closure's own loss is returned"
        torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-9, atol=1e-10)
    assert decayed.point is not None
    assert plain.point is not None
    assert decayed.point.loss == pytest.approx(plain.point.loss, rel=1e-12)


@every_method
def test_weight_decay_belongs_to_its_group(make: Make) -> None:
    a, b, c = leaf(1.0), leaf(1.0), leaf(1.0, 1.0)
    decayed = make([{"params": [a], "weight_decay": 0.5}, {"params": [b]}])
    plain = make([c])
    for _ in range(6):
        decayed.step(lambda: decay(torch.cat([a, b])))
        plain.step(lambda: (decay(c), math.sqrt(0.5) * c[:1]))
    torch.testing.assert_close(torch.cat([a, b]).detach(), c.detach(), rtol=1e-9, atol=1e-10)


@every_method
def test_frozen_parameters_stand_still_and_unfreezing_resets(make: Make) -> None:
    a, b = leaf(1.0), leaf(1.0)
    optimizer = make([a, b])
    optimizer.step(lambda: decay(torch.cat([a, b])))
    a.requires_grad_(False)
    frozen = a.item()
    optimizer.step(lambda: decay(torch.cat([a, b])))
    assert optimizer.size == 1
    optimizer.step(lambda: decay(torch.cat([a, b])))
    assert a.item() == frozen
    a.requires_grad_(True)
    residual = lambda: decay(torch.cat([a, b]))  # noqa: E731
    assert run(optimizer, residual) in ENDS
    assert a.item() != frozen


@every_method
def test_an_added_group_is_trained(make: Make) -> None:
    a, b = leaf(1.0), leaf(1.0)
    residual = lambda: decay(torch.cat([a, b]))  # noqa: E731
    optimizer = make([a])
    optimizer.step(residual)
    optimizer.step(residual)
    optimizer.add_param_group({"params": [b]})
    assert optimizer.size == 2
    assert run(optimizer, residual) in ENDS
    expected = scipy.optimize.least_squares(lambda p: decay(torch.tensor(p)).numpy(), [1.0, 1.0], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    np.testing.assert_allclose([a.item(), b.item()], expected.x, rtol=1e-7)


@pytest.mark.filterwarnings("ignore:float32 no longer resolves")
@every_pair
@every_method
def test_single_precision_ends_at_its_own_floor(make: Make, globalization: str) -> None:
    x, wide = leaf(1.0, 1.0, dtype=torch.float32), leaf(1.0, 1.0)
    run(make([wide]), lambda: decay(wide))
    optimizer = make([x], globalization=GLOBALIZATIONS[globalization]())
    outcome = run(optimizer, lambda: x[0] * torch.exp(-x[1] * (T.float() + 1.0)) - torch.cos(T.float() + 0.5))
    assert outcome in ENDS
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.detach().double(), wide.detach(), rtol=3e-4, atol=3e-4)


@every_method
def test_memory_order_of_the_parameters_does_not_matter(make: Make) -> None:
    data = torch.randn(12, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    paths = []
    for layout in (lambda w: w.clone(), lambda w: w.T.contiguous().T):
        w = layout(torch.tensor([[0.5, -0.2], [0.1, 0.7]], dtype=DOUBLE)).requires_grad_()
        optimizer = make([w])
        for _ in range(5):
            optimizer.step(lambda w=w: (torch.tanh(data @ w) - 0.5 * data).reshape(-1))
        paths.append(w.detach().clone().contiguous())
    torch.testing.assert_close(*paths, rtol=1e-10, atol=1e-12)


@every_method
def test_zero_learning_rate_does_nothing_and_says_so(make: Make) -> None:
    x = leaf(1.0, 1.0)
    optimizer = make([x], lr=0.0)
    optimizer.step(lambda: decay(x))
    assert optimizer.outcome is Outcome.ZERO_LEARNING_RATE
    assert x.tolist() == [1.0, 1.0]


@every_method
def test_a_group_of_zero_learning_rate_beside_others_is_refused(make: Make) -> None:
    a, b = leaf(1.0), leaf(1.0)
    optimizer = make([{"params": [a], "lr": 0.0}, {"params": [b]}])
    with pytest.raises(ValueError, match="requires_grad_"):
        optimizer.step(lambda: decay(torch.cat([a, b])))


@every_method
def test_the_callback_stops_the_run(make: Make) -> None:
    seen = []

    def callback(iteration: secant.Iteration) -> None:
        seen.append(iteration.number)
        if iteration.number == 3:
            raise StopIteration

    x = leaf(3.0, -1.0)
    optimizer = make([x], callback=callback, iterations_per_step=50)
    optimizer.step(lambda: decay(x))
    assert seen == [1, 2, 3]
    assert optimizer.outcome is Outcome.CALLBACK


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("evaluation", range(1, 10))
@every_method
def test_an_exception_leaves_the_best_point_and_a_usable_optimizer(make: Make, evaluation: int, error: type[BaseException]) -> None:
    x = leaf(1.0, 1.0)
    count = [0]

    def residual() -> Tensor:
        count[0] += 1
        if count[0] == evaluation:
            raise error
        return decay(x)

    optimizer = make([x])
    before, raised = float(0.5 * decay(x.detach()).square().sum()), False
    for _ in range(80):
        try:
            optimizer.step(residual)
        except error:
            raised = True
        after = float(0.5 * decay(x.detach()).square().sum())
        assert after <= before * (1.0 + 1e-12)
        before = after
        if raised and optimizer.outcome is not None and optimizer.outcome.stops:
            break
    assert raised
    assert optimizer.outcome in ENDS


def test_an_interrupt_inside_the_linear_algebra_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    from secant.linearization.orthogonal import OrthogonalFactors

    x = leaf(1.0, 1.0)
    optimizer = secant.LevenbergMarquardt([x], solver="qr")
    residual = lambda: decay(x)  # noqa: E731
    optimizer.step(residual)
    honest = OrthogonalFactors.__init__

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OrthogonalFactors, "__init__", interrupted)
    kept = x.tolist()
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(residual)
    assert x.tolist() == kept
    monkeypatch.setattr(OrthogonalFactors, "__init__", honest)
    assert run(optimizer, residual) in ENDS


@every_method
def test_new_function_objects_at_every_step_cost_an_evaluation_and_change_nothing(make: Make) -> None:
    x, y = leaf(1.0, 1.0), leaf(1.0, 1.0)
    one, other = make([x]), make([y])
    residual = lambda: decay(x)  # noqa: E731
    for _ in range(5):
        one.step(residual)
        other.step(lambda: decay(y))
        torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-12, atol=1e-13)
    assert other.counts.losses == one.counts.losses + 4


@every_method
def test_parameters_that_were_changed_from_outside_are_evaluated_again(make: Make) -> None:
    x = leaf(1.0, 1.0)
    residual = lambda: decay(x)  # noqa: E731
    optimizer = make([x])
    for change in (1.5, 0.7):
        optimizer.step(residual)
        with torch.no_grad():
            x.mul_(change)
        expected = 0.5 * decay(x.detach()).square().sum()
        torch.testing.assert_close(optimizer.step(residual), expected, rtol=1e-14, atol=0.0)


def wall(x: Tensor) -> Tensor:
    """Nothing beyond the start is better, so that every trial is rejected."""
    return x + (10.0 if x.tolist() != [1.0] else 0.0)


def test_residuals_of_a_rejected_trial_are_not_taken_for_those_of_parameters_changed_meanwhile() -> None:
    x = leaf(1.0)
    residual = lambda: wall(x)  # noqa: E731
    optimizer = secant.LevenbergMarquardt([x])
    optimizer.step(residual)
    assert x.item() == 1.0
    with torch.no_grad():
        x.fill_(30.0)
    assert float(optimizer.step(residual)) == 0.5 * 40.0**2


@every_method
def test_objective_changed_takes_the_new_data(make: Make) -> None:
    x, shift = leaf(1.0, 1.0), [0.0]
    residual = lambda: decay(x) + shift[0]  # noqa: E731
    optimizer = make([x], jacobian_every=3)
    for _ in range(3):
        optimizer.step(residual)
    shift[0] = 0.5
    optimizer.objective_changed()
    expected = 0.5 * (decay(x.detach()) + 0.5).square().sum()
    torch.testing.assert_close(optimizer.step(residual), expected)
    assert run(optimizer, residual) in ENDS
    wanted = scipy.optimize.least_squares(lambda p: decay(torch.tensor(p)).numpy() + 0.5, [1.0, 1.0], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    assert optimizer.point is not None
    assert optimizer.point.loss == pytest.approx(wanted.cost, rel=1e-9)


@every_method
def test_a_closure_that_returns_the_loss_is_refused_with_the_remedy(make: Make) -> None:
    x = leaf(1.0, 1.0)
    with pytest.raises(ValueError, match=r"not their mean or sum of squares"):
        make([x]).step(lambda: decay(x).square().sum())


@every_method
def test_a_step_without_residuals_is_refused(make: Make) -> None:
    with pytest.raises(TypeError, match="step needs a closure"):
        make([leaf(1.0)]).step()


@pytest.mark.parametrize("exponent", [-26, 26])
@pytest.mark.parametrize(
    "options", [{}, {"scaling": "columns"}, {"solver": "cholesky"}, {"solver": "woodbury"}, {"solver": "cg"}, {"solver": "sketch"}], ids=str
)
def test_residuals_times_a_power_of_two_take_the_same_path_to_the_bit(options: dict[str, Any], exponent: int) -> None:
    wide = torch.linspace(-1.0, 1.0, 40, dtype=DOUBLE)
    x, y = leaf(1.0, 1.0), leaf(1.0, 1.0)

    def residual(p: Tensor) -> Tensor:
        return p[0] * torch.exp(-p[1] * (wide + 1.0)) - torch.cos(wide)

    one, other = secant.LevenbergMarquardt([x], **options), secant.LevenbergMarquardt([y], **options)
    for _ in range(12):
        one.step(lambda: residual(x))
        other.step(lambda: 2.0**exponent * residual(y))
        assert torch.equal(x, y)
        assert one.outcome is other.outcome


@every_pair
def test_gauss_newton_residuals_times_a_power_of_two_take_the_same_path_to_the_bit(globalization: str) -> None:
    x, y = leaf(1.0, 1.0), leaf(1.0, 1.0)
    one, other = (secant.GaussNewton([p], globalization=GLOBALIZATIONS[globalization]()) for p in (x, y))
    for _ in range(12):
        one.step(lambda: decay(x))
        other.step(lambda: 2.0**26 * decay(y))
        assert torch.equal(x, y)


def test_columns_scaling_makes_the_path_independent_of_the_parameters_units() -> None:
    units = torch.tensor([2.0**20, 2.0**-15], dtype=DOUBLE)
    x, z = leaf(1.0, 1.0), (torch.ones(2, dtype=DOUBLE) / units).requires_grad_()
    one, other = secant.LevenbergMarquardt([x], scaling="columns"), secant.LevenbergMarquardt([z], scaling="columns")
    for _ in range(8):
        one.step(lambda: decay(x))
        other.step(lambda: decay(z * units))
        torch.testing.assert_close((z * units).detach(), x.detach(), rtol=1e-9, atol=1e-10)


def test_a_corrected_jacobian_fits_with_fewer_jacobians() -> None:
    x, y = leaf(1.0, 1.0), leaf(1.0, 1.0)
    exact, corrected = secant.LevenbergMarquardt([x]), secant.LevenbergMarquardt([y], jacobian_every=4)
    same, other = lambda: decay(x), lambda: decay(y)
    for optimizer, residual in ((exact, same), (corrected, other)):
        run(optimizer, residual, 60)
    torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-6, atol=1e-6)
    assert corrected.counts.jacobians < corrected.iteration
    assert corrected.counts.jacobians <= exact.counts.jacobians


def test_the_choice_of_the_solver_is_reported() -> None:
    x = leaf(1.0, 1.0)
    optimizer = secant.LevenbergMarquardt([x])
    assert optimizer.choice is None
    optimizer.step(lambda: decay(x))
    assert optimizer.choice is not None
    assert optimizer.choice.reason
    assert optimizer.correction in set(Correction)


@every_method
def test_hooks_and_schedulers_of_torch_work(make: Make) -> None:
    x = leaf(1.0, 1.0)
    optimizer = make([x])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    fired = []
    optimizer.register_step_post_hook(lambda *_: fired.append(1))
    for _ in range(3):
        optimizer.step(lambda: decay(x))
        scheduler.step()
    assert len(fired) == 3
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_methods_are_listed_and_public() -> None:
    assert list(RESIDUAL_METHODS) == sorted(RESIDUAL_METHODS)
    assert RESIDUAL_METHODS["lm"] is secant.LevenbergMarquardt
    assert RESIDUAL_METHODS["gaussnewton"] is secant.GaussNewton


def test_a_copy_of_the_optimizer_does_not_carry_the_residuals() -> None:
    x = leaf(1.0, 1.0)
    optimizer = secant.LevenbergMarquardt([x])
    optimizer.step(lambda: decay(x))
    copied, twin = copy.deepcopy((optimizer, x))
    copied.step(lambda: decay(twin))
    optimizer.step(lambda: decay(x))
    assert torch.equal(x, twin)
