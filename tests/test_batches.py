"""Secant pairs when the data change between steps: always between two evaluations of one set of data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import secant
from secant import Outcome

N, SAMPLES = 6, 40


class Data:
    """Linear regression on noisy samples, with a count of the evaluations."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(SAMPLES, N, generator=generator, dtype=torch.float64)
        self.targets = torch.randn(SAMPLES, generator=generator, dtype=torch.float64)
        self.weights = torch.zeros(N, dtype=torch.float64, requires_grad=True)
        self.samples_seen = 0

    def loss(self, rows: slice) -> Tensor:
        self.samples_seen += len(self.targets[rows])
        return (self.inputs[rows] @ self.weights - self.targets[rows]).square().sum()

    def closure(self, rows: slice) -> Callable[[], Tensor]:
        return lambda: self.loss(rows)

    def hessian(self, rows: slice) -> Tensor:
        return 2.0 * self.inputs[rows].T @ self.inputs[rows]


def test_closure_that_adds_up_batches_is_the_closure_of_their_union() -> None:
    whole, parts = Data(), Data()
    one, other = secant.BFGS([whole.weights]), secant.BFGS([parts.weights])

    def accumulated() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for start in range(0, SAMPLES, 10):
            loss = parts.loss(slice(start, start + 10))
            loss.backward()
            total += loss.detach()
        return total

    joint = whole.closure(slice(0, SAMPLES))
    for _ in range(8):
        one.step(joint)
        other.step(accumulated)
        torch.testing.assert_close(parts.weights, whole.weights, rtol=1e-9, atol=1e-10)
    assert one.counts == other.counts


@pytest.mark.parametrize("method", [secant.BFGS, secant.SSBroyden, secant.SR1, secant.LBFGS, secant.LSR1])
def test_pair_of_a_step_is_taken_on_the_batch_of_that_step(method: type) -> None:
    data = Data()
    optimizer = method([data.weights])
    for step in range(6):
        rows = slice(7 * step, 7 * step + 7)
        optimizer.step(data.closure(rows))
        taken = optimizer.last_step
        assert taken is not None
        assert taken.trial is not None
        s, y = taken.trial.x - taken.start.x, taken.trial.grad - taken.start.grad
        torch.testing.assert_close(y, data.hessian(rows) @ s, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [secant.BFGS, secant.SR1, secant.LBFGS, secant.LSR1])
def test_pair_of_a_step_is_taken_on_the_overlap_when_there_is_one(method: type) -> None:
    """The secant equation holds for the overlap's gradients; the batch itself would give another ``y``."""
    data = Data()
    optimizer = method([data.weights], globalization=secant.FixedStep(), initial_scale=1e-3)
    for step in range(5):
        batch, shared = slice(5 * step, 5 * step + 15), slice(5 * step + 5, 5 * step + 15)
        before = data.weights.detach().clone()
        optimizer.step(data.closure(batch), same_batch=False, overlap=data.closure(shared))
        s = data.weights.detach() - before
        optimizer.correct()
        assert optimizer.correction is secant.Correction.APPLIED
        torch.testing.assert_close(optimizer.curvature.dense_inverse() @ (data.hessian(shared) @ s), s, rtol=1e-7, atol=1e-10)


def test_evaluations_of_the_overlap_are_counted_and_leave_the_parameters_at_the_kept_point() -> None:
    data = Data()
    optimizer = secant.BFGS([data.weights], globalization=secant.FixedStep(), initial_scale=1e-3)
    for step in range(3):
        optimizer.step(data.closure(slice(0, 20)), same_batch=False, overlap=data.closure(slice(10, 20)))
        assert optimizer.counts.losses == 4 * (step + 1), "the batch at both ends, the overlap at both ends"
        assert optimizer.point is not None
        assert torch.equal(data.weights.detach(), optimizer.point.x)
    assert data.samples_seen == 3 * (2 * 20 + 2 * 10)


def test_overlap_that_is_not_finite_teaches_nothing_and_harms_nothing() -> None:
    data = Data()
    optimizer = secant.BFGS([data.weights])
    closure = data.closure(slice(0, 20))
    optimizer.step(closure, same_batch=False, overlap=lambda: data.loss(slice(0, 5)) * torch.nan)
    optimizer.step(closure)
    assert optimizer.correction is secant.Correction.NOTHING_NEW
    for _ in range(30):
        optimizer.step(closure)
    assert optimizer.outcome in (Outcome.ROUNDING_FLOOR, Outcome.WOLFE, Outcome.APPROXIMATE_WOLFE, Outcome.STUCK)
    assert float(optimizer.point.largest_grad) < 1e-9


def test_learning_on_changing_batches_with_overlap_approaches_the_common_minimizer() -> None:
    """Batches of half of the data, of which the next batch shares a half; steps as in stochastic approximation."""
    data = Data()
    optimizer = secant.LBFGS([data.weights], globalization=secant.FixedStep(), initial_scale=1e-2)
    first = data.loss(slice(0, SAMPLES)).item()
    best = torch.linalg.lstsq(data.inputs, data.targets.unsqueeze(1)).solution.squeeze(1)
    least = float((data.inputs @ best - data.targets).square().sum())
    order = torch.Generator().manual_seed(1)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 1.0 / (1.0 + 0.3 * step)
        rows = torch.randperm(SAMPLES, generator=order)[:30]
        optimizer.step(data.closure(rows), same_batch=False, overlap=data.closure(rows[10:]))  # type: ignore[arg-type]
    assert data.loss(slice(0, SAMPLES)).item() - least < 0.02 * (first - least)


@pytest.mark.parametrize(("same_batch", "has_overlap"), [(True, True), (False, False)])
def test_contradicting_options_are_refused(same_batch: bool, has_overlap: bool) -> None:
    data = Data()
    closure = data.closure(slice(0, 20))
    with pytest.raises(ValueError, match="same_batch"):
        secant.BFGS([data.weights]).step(closure, same_batch=same_batch, overlap=closure if has_overlap else None)
