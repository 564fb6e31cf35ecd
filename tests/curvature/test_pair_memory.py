"""The ring of pairs: its small matrices are those of the newest pairs, however it got there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curvature.steps import point_at, step_to
from secant.curvature.pair_memory import PairMemory
from secant.space import LocalSpace, Space
from secant.step import Outcome, Point

SPACE = LocalSpace()
laws = settings(max_examples=30, deadline=None, derandomize=True)


def ones(n: int) -> Tensor:
    return torch.ones(n, dtype=torch.float64)


def normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, generator=generator, dtype=torch.float64)


def fill(memory: PairMemory, n: int, count: int, seed: int, *, reject_every: int = 0) -> tuple[Tensor, Tensor, Point]:
    """Take ``count`` steps into the memory; all ``s``, all ``y`` (oldest first) and the last point."""
    generator = torch.Generator().manual_seed(seed)
    point = point_at(normal(n, generator), normal(n, generator))
    s_rows, y_rows = [], []
    for number in range(count):
        trial = point_at(point.x + normal(n, generator), point.grad + normal(n, generator))
        rejected = reject_every > 0 and number % reject_every == 0
        step = step_to(point, trial, Outcome.REJECTED if rejected else Outcome.WOLFE)
        draft = memory.draft(step, SPACE)
        memory.keep(draft, step, SPACE, memory.row_products(draft, SPACE))
        s_rows.append(trial.x - point.x)
        y_rows.append(trial.grad - point.grad)
        point = step.kept
    return torch.stack(s_rows), torch.stack(y_rows), point


@laws
@given(n=st.integers(1, 30), capacity=st.integers(1, 12), count=st.integers(1, 30), reject_every=st.integers(0, 4), seed=st.integers(0, 2**31))
def test_small_matrices_are_those_of_the_newest_pairs(n: int, capacity: int, count: int, reject_every: int, seed: int) -> None:
    memory = PairMemory(capacity, ones(n))
    s, y, point = fill(memory, n, count, seed, reject_every=reject_every)
    s, y = s[-capacity:], y[-capacity:]
    assert len(memory) == min(capacity, count)
    for found, expected in ((memory.ss, s @ s.T), (memory.sy, s @ y.T), (memory.yy, y @ y.T)):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11 * n)
    products = memory.products(point.grad, SPACE)
    torch.testing.assert_close(products.on_s, s @ point.grad, rtol=1e-11, atol=1e-11 * n)
    torch.testing.assert_close(products.on_y, y @ point.grad, rtol=1e-11, atol=1e-11 * n)
    k, generator = len(memory), torch.Generator().manual_seed(seed)
    v, of_s, of_y = normal(n, generator), normal(k, generator), normal(k, generator)
    torch.testing.assert_close(memory.combination(v, 0.3, of_s, of_y), 0.3 * v + of_s @ s + of_y @ y, rtol=1e-11, atol=1e-11)


class CountingSpace(Space):
    """Counts the reductions, and the passes over more than one pair."""

    def __init__(self) -> None:
        self.passes = self.reductions = 0

    def gram(self, *rows: Tensor) -> list[list[float]]:
        self.reductions += 1
        return SPACE.gram(*rows)

    def cross(self, rows: Tensor, v: Tensor) -> Tensor:
        self.reductions += 1
        self.passes += rows.shape[0] > 2
        return SPACE.cross(rows, v)

    def joint(self, rows: Tensor, v: Tensor, *others: Tensor) -> tuple[Tensor, list[list[float]]]:
        self.reductions += 1
        self.passes += rows.shape[0] > 2
        return SPACE.joint(rows, v, *others)


def test_a_kept_step_costs_one_pass_and_one_reduction_and_after_a_rejected_trial_no_more() -> None:
    memory, space, generator = PairMemory(5, ones(40)), CountingSpace(), torch.Generator().manual_seed(0)
    point = point_at(normal(40, generator), normal(40, generator))
    for number in range(12):
        step = step_to(point, point_at(normal(40, generator), normal(40, generator)), Outcome.REJECTED if number % 3 == 0 else Outcome.WOLFE)
        before = (space.passes, space.reductions)
        memory.keep(memory.draft(step, space), step, space)
        memory.products(step.kept.grad, space)
        assert number == 0 or (space.passes, space.reductions) == (before[0] + 1, before[1] + 1)
        point = step.kept


def test_a_short_run_allocates_no_more_than_the_first_slots() -> None:
    memory = PairMemory(100, ones(10))
    fill(memory, 10, 3, seed=0)
    assert memory._rows.shape[0] == 16
    fill(memory, 10, 9, seed=1)
    assert memory._rows.shape[0] == 200


def test_a_refused_draft_of_a_full_memory_leaves_the_newest_but_one() -> None:
    memory = PairMemory(4, ones(6))
    s, _, point = fill(memory, 6, 7, seed=3)
    memory.draft(step_to(point, point_at(point.x + torch.inf, point.grad)), SPACE)
    assert len(memory) == 3
    torch.testing.assert_close(memory.ss, s[-3:] @ s[-3:].T)
    result = memory.combination(point.grad, 0.0, ones(3), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(result, s[-3:].sum(0))


@pytest.mark.parametrize("capacity", [6, 3])
def test_a_restored_memory_holds_the_newest_pairs_that_fit(capacity: int) -> None:
    memory = PairMemory(6, ones(8))
    s, y, point = fill(memory, 8, 9, seed=4)
    restored = PairMemory.from_state(memory.state(), capacity, ones(8))
    torch.testing.assert_close(restored.sy, s[-capacity:] @ y[-capacity:].T)
    torch.testing.assert_close(restored.products(2.0 * point.grad, SPACE).on_s, s[-capacity:] @ (2.0 * point.grad))
    if capacity == 6:
        weights = torch.arange(6, dtype=torch.float64)
        assert torch.equal(restored.combination(point.grad, 0.5, weights, weights), memory.combination(point.grad, 0.5, weights, weights))


def test_forgetting_leaves_the_newest_pairs_and_their_products() -> None:
    memory = PairMemory(4, ones(6))
    s, y, point = fill(memory, 6, 7, seed=3)
    memory.forget_all_but(2)
    assert len(memory) == 2
    torch.testing.assert_close(memory.sy, s[-2:] @ y[-2:].T)
    torch.testing.assert_close(memory.products(point.grad, SPACE).on_y, y[-2:] @ point.grad)
    memory.forget_all_but(3)
    assert len(memory) == 2


def test_saved_tensors_are_copies() -> None:
    memory = PairMemory(3, ones(5))
    fill(memory, 5, 3, seed=5)
    saved = memory.state()
    kept = {name: value.clone() for name, value in saved.items() if isinstance(value, Tensor)}
    fill(memory, 5, 3, seed=6)
    assert all(torch.equal(saved[name], value) for name, value in kept.items())  # type: ignore[arg-type]
