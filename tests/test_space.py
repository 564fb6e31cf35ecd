"""Inner products of flat vectors against plain float64."""

from __future__ import annotations

import pytest
import torch

from secant.space import LocalSpace

SPACE = LocalSpace()


@pytest.mark.parametrize("n", [1, 7, 16_384, 40_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_products_are_those_of_plain_float64_whatever_the_number_of_blocks(n: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(n)
    rows = torch.randn(5, n, generator=generator, dtype=torch.float64).to(dtype)
    v, a, b = torch.randn(3, n, generator=generator, dtype=torch.float64).to(dtype)
    wide = torch.stack([a, b]).double()
    products, gram = SPACE.joint(rows, v, a, b)
    torch.testing.assert_close(products, rows.double() @ v.double(), rtol=1e-11, atol=1e-11 * n)
    torch.testing.assert_close(torch.tensor(gram, dtype=torch.float64), wide @ wide.T, rtol=1e-11, atol=1e-11 * n)
    assert torch.equal(SPACE.cross(rows, v), products)
    assert SPACE.gram(a, b) == gram


def test_float32_squares_that_underflow_are_seen() -> None:
    tiny = torch.full((3,), 1e-30)
    assert SPACE.norm(tiny) == pytest.approx(1e-30 * 3**0.5, rel=1e-6)
    assert float(SPACE.cross(tiny.unsqueeze(0), tiny)[0]) == pytest.approx(3e-60, rel=1e-6)
