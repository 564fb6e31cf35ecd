"""What theory promises of SR1 on quadratics: full steps, no globalization, no skipped correction.

What float64 allows was measured with a dense NumPy form of SR1 and with 80-bit numbers beside it (spectrum spaced geometrically, n = 10 to 30, six seeds):
from ``H = I / (least eigenvalue)`` the steps stay independent and the goal of 1e-8 after n + 1 steps is met up to condition 1e4 (1e-16), and nearly up to
1e6 (worst 2e-8). From smaller or larger multiples of I, and at condition 1e8, the steps become so nearly dependent that 80-bit numbers miss 1e-8 too: there
the goal is reached a few steps later.
"""

import pytest
import torch
from torch import Tensor

import secant
from secant.globalization.fixed_step import FixedStep
from secant.problems.quadratic import quadratic_matrix
from secant.step import Correction, Outcome


def quadratic(n: int, condition: float, seed: int, *, indefinite: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed + 100)
    return quadratic_matrix(n, condition, seed=seed, indefinite=indefinite), torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_()


def full_steps(A: Tensor, x: Tensor, steps: int, initial_scale: float) -> tuple[secant.SR1, float, set[Correction]]:
    """The optimizer, the gradient relative to the first, and the corrections that were not applied."""
    optimizer = secant.SR1([x], globalization=FixedStep(), initial_scale=initial_scale)
    first = float((A @ (x.detach() - 1.0)).norm())
    corrections = set()
    for _ in range(steps):
        optimizer.step(lambda: 0.5 * torch.dot(x - 1.0, A @ (x - 1.0)))
        assert optimizer.correction is not None
        corrections.add(optimizer.correction)
        if optimizer.outcome is Outcome.CONVERGED:
            break
    return optimizer, float((A @ (x.detach() - 1.0)).norm()) / first, corrections - {Correction.INITIAL, Correction.APPLIED}


@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize("condition", [1e1, 1e2, 1e4])
def test_full_sr1_steps_solve_a_quadratic_in_n_plus_one_steps(n: int, condition: float) -> None:
    for seed in range(4):
        A, x = quadratic(n, condition, seed)
        optimizer, gradient, unapplied = full_steps(A, x, n + 1, initial_scale=1.0)
        assert not unapplied
        assert gradient <= 1e-8
        assert float((optimizer.curvature.dense_inverse() @ A - torch.eye(n).double()).norm()) <= 1e-6


@pytest.mark.parametrize(("n", "condition", "steps"), [(10, 1e6, 11), (30, 1e4, 31), (20, 1e6, 22), (30, 1e6, 31), (10, 1e8, 16), (20, 1e8, 25), (30, 1e8, 34)])
def test_harder_quadratics_take_the_steps_that_rounding_asks_for(n: int, condition: float, steps: int) -> None:
    for seed in range(4):
        A, x = quadratic(n, condition, seed)
        _, gradient, unapplied = full_steps(A, x, steps, initial_scale=1.0)
        assert not unapplied - {Correction.SKIPPED_DENOMINATOR}
        assert gradient <= 1e-8


@pytest.mark.parametrize("initial_scale", [0.1, 0.3])
def test_full_steps_may_walk_uphill(initial_scale: float) -> None:
    """H between the inverse eigenvalues becomes indefinite on its way to ``A^-1``; the theorem needs those steps too (Nocedal & Wright, theorem 6.1)."""
    for seed in range(4):
        A, x = quadratic(10, 1e2, seed)
        _, gradient, unapplied = full_steps(A, x, 11, initial_scale)
        assert not unapplied
        assert gradient <= 1e-8


@pytest.mark.parametrize("condition", [1e1, 1e4])
def test_trust_region_finds_that_an_indefinite_quadratic_falls_without_bound(condition: float) -> None:
    for seed in range(3):
        A, x = quadratic(10, condition, seed, indefinite=True)
        optimizer = secant.SR1([x], iterations_per_step=300)
        optimizer.step(lambda A=A, x=x: 0.5 * torch.dot(x - 1.0, A @ (x - 1.0)))
        assert optimizer.outcome is Outcome.UNBOUNDED


def test_inertia_is_still_right_after_the_hessian_is_known() -> None:
    for seed in range(3):
        A, x = quadratic(10, 1e1, seed, indefinite=True)
        optimizer = secant.SR1([x])
        for _ in range(40):
            optimizer.step(lambda A=A, x=x: 0.5 * torch.dot(x - 1.0, A @ (x - 1.0)))
            B = optimizer.curvature.dense()
            assert optimizer.curvature.negative_eigenvalues == int((torch.linalg.eigvalsh(B) < 0.0).sum())
            if optimizer.outcome is not None and optimizer.outcome.stops:
                break
