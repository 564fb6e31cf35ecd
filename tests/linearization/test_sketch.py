"""The sketch: close when good, refused when bad, exact in the end."""

from __future__ import annotations

import pytest
import torch

from linearization.models import DOUBLE, Linear, random_linear, reference
from secant.linearization.rows import StoredRows
from secant.linearization.sketch import SketchedRows


def sketched(linear: Linear, rows: int, seed: int = 0, blocks: tuple[int, ...] = ()) -> SketchedRows:
    return SketchedRows(StoredRows(linear.blocks(*blocks)), linear.g, rows=rows, residuals=len(linear.r), seed=seed)


def decrease(linear: Linear, p: torch.Tensor) -> float:
    return float(0.5 * linear.r.square().sum() - 0.5 * (linear.r + linear.J @ p).square().sum())


@pytest.mark.parametrize("seed", range(5))
def test_step_of_a_sketch_of_four_rows_per_parameter_keeps_most_of_the_decrease(seed: int) -> None:
    linear = random_linear(2000, 10, seed=20)
    model = sketched(linear, 40, seed)
    step = model.damped(1e-6, torch.ones(10, dtype=DOUBLE))
    best = decrease(linear, reference(linear, 1e-6, torch.ones(10, dtype=DOUBLE)))
    assert model.rows < 2000
    assert decrease(linear, step.p) > 0.5 * best
    assert not torch.allclose(step.p, reference(linear, 1e-6, torch.ones(10, dtype=DOUBLE)), rtol=1e-3)


def test_what_is_promised_is_what_the_whole_jacobian_promises() -> None:
    linear = random_linear(500, 10, seed=21)
    step = sketched(linear, 60).damped(1e-3, torch.ones(10, dtype=DOUBLE))
    assert step.predicted == pytest.approx(decrease(linear, step.p), rel=1e-9)


@pytest.mark.parametrize("rows", [10, 12])
def test_a_sketch_with_too_few_rows_is_refused_and_made_anew_until_its_promise_holds(rows: int) -> None:
    linear = random_linear(500, 10, seed=22)
    model = sketched(linear, rows)
    step = model.damped(1e-9, torch.ones(10, dtype=DOUBLE))
    assert model.rows > rows
    assert decrease(linear, step.p) == pytest.approx(step.predicted, rel=1e-9)
    kept = model.rows
    model.damped(1e-2, torch.ones(10, dtype=DOUBLE))
    assert model.rows >= kept, "what was learned stays"


def test_a_sketch_that_is_never_good_enough_ends_as_the_whole_jacobian() -> None:
    linear = random_linear(60, 10, seed=23)
    model = sketched(linear, 4)
    model._factors = sketched(Linear(linear.r, 1e-3 * linear.J), 4)._factors  # it promises a million times too much
    draws = 0
    honest = model._sketched

    def bad() -> object:
        nonlocal draws
        draws += 1
        factors = honest()
        if model.rows < 60:
            factors._R *= 1e-3
        return factors

    model._sketched = bad  # type: ignore[method-assign, assignment]
    step = model.damped(1e-3, torch.ones(10, dtype=DOUBLE))
    assert (model.rows, draws) == (64, 4)
    torch.testing.assert_close(step.p, reference(linear, 1e-3, torch.ones(10, dtype=DOUBLE)), rtol=1e-9, atol=1e-9)


def test_as_many_rows_as_residuals_make_it_exact_at_once() -> None:
    linear = random_linear(30, 10, seed=24)
    for rows in (30, 40):
        torch.testing.assert_close(sketched(linear, rows).dense(), linear.J.T @ linear.J)


def test_in_the_mean_the_sketch_is_the_whole_matrix() -> None:
    linear = random_linear(80, 4, seed=25)
    mean = sum(sketched(linear, 20, seed).dense() for seed in range(400)) / 400
    torch.testing.assert_close(mean, linear.J.T @ linear.J, rtol=0.0, atol=0.05)


def test_one_seed_is_one_sketch_and_another_seed_another() -> None:
    linear = random_linear(80, 4, seed=26)
    assert torch.equal(sketched(linear, 20, 7).dense(), sketched(linear, 20, 7).dense())
    assert not torch.equal(sketched(linear, 20, 7).dense(), sketched(linear, 20, 8).dense())


def test_rows_that_stand_alone_in_a_direction_are_not_lost() -> None:
    linear = random_linear(1000, 5, seed=27)
    linear.J[:, 4] = 0.0
    linear.J[17] = torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0], dtype=DOUBLE)  # row sampling would miss it 96 times in 100
    step = sketched(linear, 40).damped(1e-9, torch.ones(5, dtype=DOUBLE))
    assert float(step.p[4]) == pytest.approx(-float(linear.r[17]) / 3.0, rel=0.1)
