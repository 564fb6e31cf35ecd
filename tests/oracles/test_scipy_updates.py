"""Our matrices against SciPy's update strategies, from the same pairs and the same initial scale."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import BFGS as ScipyBFGS
from scipy.optimize import SR1 as ScipySR1

from secant.curvature.broyden import Broyden
from secant.curvature.scaling import FixedMember
from secant.curvature.sr1 import SR1, InverseSR1
from secant.objective import Objective
from secant.step import Correction, Outcome, Point, Step

laws = settings(max_examples=40, deadline=None, derandomize=True)


def objective_of(n: int) -> Objective:
    return Objective([{"params": [torch.zeros(n, dtype=torch.float64, requires_grad=True)], "lr": 1.0, "weight_decay": 0.0}])


def point(x: torch.Tensor, grad: torch.Tensor) -> Point:
    return Point(x, 0.0, grad, float(grad.abs().amax()), torch.zeros((), dtype=torch.float64))


def spectrum_matrix(n: int, indefinite: bool, generator: torch.Generator) -> torch.Tensor:
    vectors = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    values = torch.linspace(0.5, 5.0, n, dtype=torch.float64)
    if indefinite:
        values[::2] *= -1.0
    matrix = (vectors * values) @ vectors.T
    return 0.5 * (matrix + matrix.T)


@laws
@given(n=st.integers(2, 8), scale=st.floats(0.1, 3.0), seed=st.integers(0, 2**31))
def test_bfgs_is_scipys(n: int, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    curvature, objective, peer = (
        Broyden(FixedMember(0.0), initial=scale),
        objective_of(n),
        ScipyBFGS(exception_strategy="skip_update", min_curvature=0.0, init_scale=scale),
    )
    peer.initialize(n, "inv_hess")
    start = point(torch.zeros(n, dtype=torch.float64), torch.randn(n, generator=generator, dtype=torch.float64))
    curvature.update(objective, start, None)
    for _ in range(6):
        matrix = spectrum_matrix(n, False, generator)
        # SciPy's inverse is symmetrized upper-triangle storage; a step along our own -H g is one along its own.
        x = start.x - 0.5 * curvature.solve(start.grad)
        trial = point(x, start.grad + matrix @ (x - start.x))
        assert curvature.update(objective, trial, Step(start, trial, trial, Outcome.WOLFE)) is Correction.APPLIED
        peer.update((trial.x - start.x).numpy(), (trial.grad - start.grad).numpy())
        expected = peer.get_matrix()
        assert np.abs(curvature.dense_inverse().numpy() - expected).max() <= 1e-10 * np.abs(expected).max() * np.linalg.cond(expected)
        start = trial


@laws
@given(n=st.integers(2, 8), indefinite=st.booleans(), scale=st.floats(0.1, 3.0), seed=st.integers(0, 2**31))
def test_sr1_is_scipys_for_the_hessian_and_its_inverse(n: int, indefinite: bool, scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    both, inverse_only, objective = SR1(initial=scale), InverseSR1(initial=scale), objective_of(n)
    hessian, inverse = ScipySR1(init_scale=1.0 / scale), ScipySR1(init_scale=scale)
    hessian.initialize(n, "hess")
    inverse.initialize(n, "inv_hess")
    origin = point(torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64))
    for curvature in (both, inverse_only):
        curvature.update(objective, origin, None)
    matrix = spectrum_matrix(n, indefinite, generator)
    for _ in range(n):
        s = torch.randn(n, generator=generator, dtype=torch.float64)
        step = Step(origin, point(s, matrix @ s), origin, Outcome.REJECTED)
        corrections = {curvature.update(objective, origin, step) for curvature in (both, inverse_only)}
        if corrections != {Correction.APPLIED}:
            return
        hessian.update(s.numpy(), (matrix @ s).numpy())
        inverse.update(s.numpy(), (matrix @ s).numpy())
        # A correction close to its skip limit multiplies rounding by up to 1e8 in all of them.
        for ours, peer in ((both.dense(), hessian), (both.dense_inverse(), inverse), (inverse_only.dense_inverse(), inverse)):
            expected = peer.get_matrix()
            assert np.abs(ours.numpy() - expected).max() <= 1e-9 * max(1.0, np.abs(expected).max()) ** 2


@pytest.mark.parametrize("angle", [0.5e-8, 2e-8])
def test_sr1_skips_where_scipy_skips(angle: float) -> None:
    """Both take the share 1e-8 of the product of the norms (Nocedal & Wright, eq. 6.26)."""
    s = torch.tensor([1.0, 0.0], dtype=torch.float64)
    y = s + torch.tensor([angle, 1.0], dtype=torch.float64)
    curvature, objective, peer = SR1(initial=1.0), objective_of(2), ScipySR1(init_scale=1.0)
    peer.initialize(2, "hess")
    origin = point(torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    curvature.update(objective, origin, None)
    curvature.update(objective, origin, Step(origin, point(s, y), origin, Outcome.REJECTED))
    peer.update(s.numpy(), y.numpy())
    changed = not np.array_equal(peer.get_matrix(), np.eye(2))
    assert changed == (angle > 1e-8)
    assert changed == (not torch.equal(curvature.dense(), torch.eye(2, dtype=torch.float64)))
