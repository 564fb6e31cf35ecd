"""The strict saddles are what they say, and second-order methods leave them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import secant
from secant.methods import METHODS
from secant.problems.saddles import SADDLES, Saddle, wells

DOUBLE = torch.float64
LEAVING = ["cubicnewton", "newtoncg", "saddlefreenewton", "sr1", *(["lsr1"] if "lsr1" in METHODS else [])]


def nudge(saddle: Saddle, kind: str) -> Tensor:
    """A start 1e-12 away from the saddle."""
    if kind == "unseen":
        if saddle.unseen is None:
            pytest.skip("every direction sees negative curvature")
        return 1e-12 * saddle.unseen
    direction = torch.randn(saddle.size, generator=torch.Generator().manual_seed(7), dtype=DOUBLE)
    return 1e-12 * direction / direction.norm()


@pytest.mark.parametrize("name", SADDLES)
def test_origin_is_a_strict_saddle(name: str) -> None:
    saddle = SADDLES[name]
    x = torch.zeros(saddle.size, dtype=DOUBLE, requires_grad=True)
    (gradient,) = torch.autograd.grad(saddle.loss(x), x)
    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(saddle.loss, x.detach()))
    assert not gradient.any()
    assert int((values < -1e-9).sum()) == saddle.negative > 0
    assert saddle.minimum < saddle.loss(x).item()


@pytest.mark.parametrize("name", SADDLES)
def test_least_value_is_reached_by_scaled_random_starts_and_never_undercut(name: str) -> None:
    saddle = SADDLES[name]
    values = []
    for seed in range(3):
        start = torch.randn(saddle.size, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        values.append(secant.minimize(saddle.loss, start, "bfgs", options={"maxiter": 2000}).fun)
    assert min(values) == pytest.approx(saddle.minimum, abs=1e-9 * max(1.0, abs(saddle.minimum)))
    assert all(value >= saddle.minimum - 1e-9 * max(1.0, abs(saddle.minimum)) for value in values)


@pytest.mark.parametrize("kind", ["random", "unseen"])
@pytest.mark.parametrize("name", SADDLES)
@pytest.mark.parametrize("method", LEAVING)
def test_escapes_from_the_saddle_plus_1e_12(method: str, name: str, kind: str) -> None:
    if kind == "unseen" and method not in ("cubicnewton", "saddlefreenewton"):
        pytest.skip("the gradients it sees never leave the subspace without negative curvature")
    saddle = SADDLES[name]
    result = secant.minimize(saddle.loss, nudge(saddle, kind), method, options={"maxiter": 500})
    at_saddle = float(saddle.loss(torch.zeros(saddle.size, dtype=DOUBLE)))
    assert result.fun < at_saddle - 0.9 * (at_saddle - saddle.minimum)


def test_direction_that_sees_no_negative_curvature_is_one() -> None:
    saddle = wells([1.0, 4.0, -1.0], rotation_seed=3)
    assert saddle.unseen is not None
    x = (1e-3 * saddle.unseen).requires_grad_()
    (gradient,) = torch.autograd.grad(saddle.loss(x), x)
    assert float(gradient @ saddle.unseen) == pytest.approx(float(gradient.norm()), rel=1e-12)
    assert math.isclose(float(saddle.unseen.norm()), 1.0)
