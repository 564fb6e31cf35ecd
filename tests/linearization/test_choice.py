"""Which solver the sizes, the memory and the conditioning call for."""

from __future__ import annotations

import pytest

from secant.linearization.choice import Choice, Solver, bytes_of, choose

PLENTY = 1 << 40


@pytest.mark.parametrize(
    ("residuals", "size", "free", "is_ill_conditioned", "solver"),
    [
        (100, 1, None, False, Solver.QR),
        (20, 20, PLENTY, False, Solver.QR),
        (99, 100, PLENTY, False, Solver.WOODBURY),
        (1, 10**7, PLENTY, True, Solver.WOODBURY),
        (2400, 921, PLENTY, False, Solver.CHOLESKY),
        (2400, 921, PLENTY, True, Solver.QR),
        (2400, 921, 8 * 1024**2, False, Solver.CG),
        (10**6, 10**6, PLENTY, False, Solver.CG),
        (999, 10**6, 8 * 10**9, False, Solver.CG),
    ],
)
def test_sizes_memory_and_conditioning_decide(residuals: int, size: int, free: int | None, is_ill_conditioned: bool, solver: Solver) -> None:
    choice = choose(residuals, size, free, is_ill_conditioned=is_ill_conditioned)
    assert choice.solver is solver
    assert choice.reason


def test_memory_between_one_matrix_and_orthogonal_factors_leaves_the_normal_equations() -> None:
    between = bytes_of(Solver.CHOLESKY, 5000, 2000) + bytes_of(Solver.QR, 5000, 2000)
    choice = choose(5000, 2000, between, is_ill_conditioned=True)
    assert choice == Choice(Solver.CHOLESKY, "memory allows one matrix, but not orthogonal factors")


def test_fewer_residuals_that_do_not_fit_fall_back_to_what_does() -> None:
    assert choose(50_000, 60_000, 1 << 37, is_ill_conditioned=False).solver is Solver.CHOLESKY


@pytest.mark.parametrize("solver", Solver)
def test_memory_grows_with_the_size(solver: Solver) -> None:
    assert 0 < bytes_of(solver, 100, 200) < bytes_of(solver, 100, 400)
