"""Where the numbers of a run leave the range whose squares a float can hold."""

from __future__ import annotations

import pytest
import torch

import secant
from secant.space import LocalSpace
from secant.subproblem.exact import exact
from secant.subproblem.steihaug import steihaug


@pytest.mark.parametrize("power", [3, 4, 6])
def test_run_that_converges_to_the_end_of_the_range_raises_nothing(power: int) -> None:
    """The Hessian vanishes with the gradient, so that H grows without bound until the gradient underflows."""
    x = torch.tensor([2.0, -3.0, 1.0, 5.0], dtype=torch.float64, requires_grad=True)
    optimizer = secant.LSR1([x])
    for _ in range(300):
        optimizer.step(lambda: (x.abs() ** power).sum())
        assert bool(torch.isfinite(x).all())
        assert optimizer.outcome is not None
        if optimizer.outcome.stops:
            break
    assert optimizer.point is not None
    assert optimizer.point.loss < 1e-12


@pytest.mark.parametrize("radius", [1e-300, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("size", [1e-160, 1.0])
def test_radius_out_of_the_range_of_squares_raises_nothing(radius: float, size: float) -> None:
    g = torch.tensor([size, -size], dtype=torch.float64)
    for spectrum in ([1.0, 2.0], [-1.0, 2.0]):
        B = torch.diag(torch.tensor(spectrum, dtype=torch.float64))
        for found in (exact(g, B, radius), steihaug(g, lambda v, B=B: B @ v, radius, LocalSpace())):
            assert bool(torch.isfinite(found.p).all())
            assert found.slope <= 0.0
