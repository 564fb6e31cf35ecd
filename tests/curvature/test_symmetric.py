"""Deferred rank-one terms against the matrix they stand for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secant.curvature.symmetric import DeferredSymmetric, FullKernel, MatrixKernel, TriangleKernel

KERNELS = [TriangleKernel(), FullKernel()]
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-5}
laws = settings(max_examples=25, deadline=None, derandomize=True)


def play(matrix: DeferredSymmetric, n: int, events: int, seed: int, dtype: torch.dtype) -> tuple[np.ndarray, float]:
    """The same random events on the deferred matrix and on a dense float64 one; the dense one and the largest size on the way."""
    generator = torch.Generator().manual_seed(seed)
    dense = matrix.dense().double().numpy()
    largest = float(np.abs(dense).max())
    for _ in range(events):
        if float(torch.rand((), generator=generator)) < 0.2:
            factor = 0.5 + float(torch.rand((), generator=generator))
            matrix.scale(factor)
            dense = factor * dense
        else:
            vector = torch.randn(n, generator=generator, dtype=torch.float64).to(dtype)
            weight = float(torch.randn((), generator=generator))
            matrix.add(weight, vector)
            dense = dense + weight * np.outer(vector.double().numpy(), vector.double().numpy())
        largest = max(largest, float(np.abs(dense).max()))
    return dense, largest


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kernel", KERNELS, ids=["triangle", "full"])
@pytest.mark.parametrize("capacity", [2, 32])
@laws
@given(n=st.integers(1, 9), events=st.integers(0, 80), seed=st.integers(0, 2**31))
def test_deferred_terms_add_up_to_the_dense_matrix(capacity: int, kernel: MatrixKernel, dtype: torch.dtype, n: int, events: int, seed: int) -> None:
    diagonal = torch.linspace(0.5, 2.0, n, dtype=torch.float64).to(dtype)
    matrix = DeferredSymmetric(diagonal, capacity=capacity, kernel=kernel)
    dense, largest = play(matrix, n, events, seed, dtype)
    tolerance = TOLERANCE[dtype] * (events + 1) * largest
    assert matrix.dense().dtype == dtype
    assert np.abs(matrix.dense().double().numpy() - dense).max() <= tolerance
    v = torch.linspace(-1.0, 1.0, n, dtype=torch.float64).to(dtype)
    assert np.abs(matrix.times(v).double().numpy() - dense @ v.double().numpy()).max() <= n * tolerance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_blocks_of_the_triangle_meet_without_a_seam(dtype: torch.dtype) -> None:
    """1,030 rows are three blocks of the triangular fold."""
    n = 1030
    matrix = DeferredSymmetric(torch.ones(n, dtype=dtype), capacity=2, kernel=TriangleKernel())
    dense, largest = play(matrix, n, 9, 0, dtype)
    assert np.abs(matrix.dense().double().numpy() - dense).max() <= 10.0 * TOLERANCE[dtype] * largest
    v = torch.linspace(-1.0, 1.0, n, dtype=torch.float64).to(dtype)
    assert np.abs(matrix.times(v).double().numpy() - dense @ v.double().numpy()).max() <= 30.0 * n**0.5 * TOLERANCE[dtype] * largest


@pytest.mark.parametrize("kernel", KERNELS, ids=["triangle", "full"])
@pytest.mark.parametrize("events", [0, 3, 7, 40])
def test_restored_matrix_goes_on_bit_for_bit(kernel: MatrixKernel, events: int) -> None:
    n = 7
    matrix = DeferredSymmetric(torch.linspace(0.5, 2.0, n, dtype=torch.float64), capacity=4, kernel=kernel)
    play(matrix, n, events, 1, torch.float64)
    restored = DeferredSymmetric.from_state(matrix.state(), torch.empty(0, dtype=torch.float64), kernel)
    play(matrix, n, 11, 2, torch.float64)
    play(restored, n, 11, 2, torch.float64)
    assert torch.equal(matrix.dense(), restored.dense())
    v = torch.linspace(-1.0, 1.0, n, dtype=torch.float64)
    assert torch.equal(matrix.times(v), restored.times(v))


def test_restored_matrix_shares_no_memory_with_the_saved_one() -> None:
    matrix = DeferredSymmetric(torch.ones(3, dtype=torch.float64), capacity=2)
    play(matrix, 3, 7, 0, torch.float64)
    restored = DeferredSymmetric.from_state(matrix.state(), torch.empty(0, dtype=torch.float64))
    before = restored.dense()
    play(matrix, 3, 7, 1, torch.float64)
    assert torch.equal(restored.dense(), before)


@pytest.mark.parametrize("kernel", KERNELS, ids=["triangle", "full"])
def test_dense_matrix_is_symmetric_to_the_last_bit(kernel: MatrixKernel) -> None:
    matrix = DeferredSymmetric(torch.linspace(0.5, 2.0, 6, dtype=torch.float64), capacity=3, kernel=kernel)
    play(matrix, 6, 20, 0, torch.float64)
    assert torch.equal(matrix.dense(), matrix.dense().T)


def test_vectors_may_change_after_they_were_added() -> None:
    diagonal, vector = torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    matrix = DeferredSymmetric(diagonal)
    matrix.add(2.0, vector)
    diagonal.zero_()
    vector.zero_()
    assert torch.equal(matrix.dense(), torch.eye(3).double() + 2.0)
