from __future__ import annotations

import pytest
import torch

from secant.linearization.normal_matrix import add_gram


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns_first", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 40])
def test_lower_triangle_is_the_sum_of_the_blocks(dtype: torch.dtype, columns_first: bool, count: int) -> None:
    torch.manual_seed(0)
    blocks = [torch.randn(7, count, dtype=dtype).T if columns_first else torch.randn(count, 7, dtype=dtype) for _ in range(3)]
    matrix = torch.eye(7, dtype=dtype)
    for rows in blocks:
        add_gram(matrix, rows)
    expected = torch.eye(7, dtype=dtype) + sum((rows.mT @ rows for rows in blocks), torch.zeros(7, 7, dtype=dtype))
    torch.testing.assert_close(matrix.tril(), expected.tril())


def test_slices_of_a_larger_matrix_of_rows() -> None:
    whole = torch.randn(9, 12, dtype=torch.float64)
    for rows in (whole[2:5, ::2], whole[:, 3:8], whole.T[:, :4]):
        matrix = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        add_gram(matrix, rows)
        torch.testing.assert_close(matrix.tril(), (rows.mT @ rows).tril())
