"""Newton's methods against SciPy's, and what they say about saddles."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

import secant
from secant import Outcome

DOUBLE = torch.float64
NEWTON = ["newtoncg", "cubicnewton", "saddlefreenewton"]


def rosenbrock(x: Tensor) -> Tensor:
    return ((1.0 - x[:-1]) ** 2).sum() + 100.0 * ((x[1:] - x[:-1] ** 2) ** 2).sum()


DATA = torch.randn(60, 10, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * torch.logspace(0, -1.5, 10, dtype=DOUBLE)


def logistic(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(-(DATA @ x) * torch.sign(DATA.sum(1) + 1.0)).mean() + 5e-4 * x @ x


def quartic_chain(x: Tensor) -> Tensor:
    return 0.25 * (x**4).sum() - 0.5 * (x**2).sum() + 0.3 * ((x[1:] - x[:-1]) ** 2).sum() + 0.1 * x.sum()


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "rosenbrock": (rosenbrock, torch.full((10,), 0.5, dtype=DOUBLE)),
    "logistic": (logistic, torch.zeros(10, dtype=DOUBLE)),
    "quartic chain": (quartic_chain, torch.linspace(-0.5, 0.1, 15, dtype=DOUBLE)),
}


@cache
def by_scipy(name: str, method: str) -> scipy.optimize.OptimizeResult:
    fun, x0 = FUNCTIONS[name]

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        t = torch.tensor(x, requires_grad=True)
        loss = fun(t)
        (g,) = torch.autograd.grad(loss, t)
        return loss.item(), g.numpy()

    def product(x: np.ndarray, p: np.ndarray) -> np.ndarray:
        return torch.autograd.functional.hvp(fun, torch.tensor(x), torch.tensor(p))[1].numpy()

    options = {"gtol": 1e-8, "maxiter": 200} if method != "Newton-CG" else {"maxiter": 200}
    return scipy.optimize.minimize(value, x0.numpy(), jac=True, hessp=product, method=method, options=options)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # inside SciPy's trust-krylov
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("method", NEWTON)
def test_ends_at_the_minimum_of_scipy_s_newton_methods_at_no_more_than_twice_their_cost(method: str, name: str) -> None:
    fun, x0 = FUNCTIONS[name]
    ours = secant.minimize(fun, x0, method, tol=1e-9)
    assert ours.outcome is Outcome.CONVERGED
    theirs = [by_scipy(name, other) for other in ("trust-ncg", "trust-krylov", "Newton-CG")]
    best = min(result.fun for result in theirs)
    assert ours.fun == pytest.approx(best, rel=1e-9, abs=1e-12)
    cheapest = min(result.nfev + 2 * result.nhev for result in theirs)
    assert ours.nfev + 2 * ours.nhev <= 2.0 * cheapest + 20


@pytest.mark.parametrize("method", NEWTON)
def test_convex_quadratic_takes_a_few_iterations_and_reports_no_negative_curvature(method: str) -> None:
    scales = torch.linspace(1.0, 10.0, 30, dtype=DOUBLE)
    result = secant.minimize(lambda x: 0.5 * (scales * (x - 1.0) ** 2).sum(), torch.zeros(30, dtype=DOUBLE), method, tol=1e-10)
    assert result.outcome is Outcome.CONVERGED
    assert result.nit <= 14
    assert all(row.outcome is not Outcome.NEGATIVE_CURVATURE for row in result.trace)


@pytest.mark.parametrize("method", NEWTON)
def test_negative_curvature_is_reported_in_the_outcome_and_the_test_of_the_step_beside_it(method: str) -> None:
    x = torch.tensor([1e-3, 2e-3], dtype=DOUBLE, requires_grad=True)
    optimizer = secant.methods.METHODS[method]([x])
    while optimizer.last_step is None or optimizer.last_step.outcome is Outcome.REJECTED:
        optimizer.step(lambda: x[0] ** 2 - x[1] ** 2 + x[1] ** 4)
    assert optimizer.outcome is Outcome.NEGATIVE_CURVATURE
    assert optimizer.last_step is not None
    assert optimizer.last_step.outcome in (Outcome.GAIN_RATIO, Outcome.WOLFE, Outcome.APPROXIMATE_WOLFE)


@pytest.mark.parametrize("globalization", [secant.TrustRegion(), secant.Cubic(), secant.Armijo(), secant.HagerZhang()], ids=lambda g: type(g).__name__)
@pytest.mark.parametrize("method", NEWTON)
def test_every_pair_finds_the_minimum_of_a_network(method: str, globalization: object) -> None:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(40, 2, generator=generator, dtype=DOUBLE)
    targets = torch.sin(inputs[:, 0]) * inputs[:, 1]

    def loss(w: Tensor) -> Tensor:
        W, b, v = w[:8].reshape(4, 2), w[8:12], w[12:]
        return (torch.tanh(inputs @ W.T + b) @ v - targets).square().mean() + 1e-3 * w @ w

    x0 = torch.randn(16, generator=generator, dtype=DOUBLE)
    result = secant.minimize(loss, x0, method, tol=1e-8, options={"globalization": globalization, "maxiter": 200})
    assert result.success
    assert float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, result.x))[0]) > -1e-8


def test_krylov_space_larger_than_the_parameters_is_cut_to_them() -> None:
    x = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
    optimizer = secant.CubicNewton([x], krylov_limit=10_000, iterations_per_step=20)
    optimizer.step(lambda: ((x - 1.0) ** 2 * torch.tensor([1.0, 2.0, 3.0])).sum())
    torch.testing.assert_close(x.detach(), torch.ones(3, dtype=DOUBLE))
