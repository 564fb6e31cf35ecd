"""Points, steps and whole walks made by hand, so that a curvature can be tested without an optimizer around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secant.curvature.broyden import Broyden
from secant.curvature.sr1 import SR1, InverseSR1
from secant.objective import Objective
from secant.step import Correction, Outcome, Point, Step

Dense = Broyden | InverseSR1 | SR1


def objective_of(n: int, dtype: torch.dtype = torch.float64) -> Objective:
    """An objective that is asked for nothing but its space and its scales."""
    return Objective([{"params": [torch.zeros(n, dtype=dtype, requires_grad=True)], "lr": 1.0, "weight_decay": 0.0}])


def point_at(x: Tensor, grad: Tensor, loss: float = 0.0) -> Point:
    return Point(x, loss, grad, float(grad.abs().amax()), torch.tensor(loss, dtype=x.dtype))


def step_to(start: Point, trial: Point, outcome: Outcome = Outcome.WOLFE) -> Step:
    return Step(start, trial, trial if outcome.is_accepted else start, outcome)


def random_positive_definite(n: int, log_condition: float, generator: torch.Generator) -> Tensor:
    vectors = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    values = 10.0 ** (log_condition * (torch.rand(n, generator=generator, dtype=torch.float64) - 0.5))
    matrix = (vectors * values) @ vectors.T
    return 0.5 * (matrix + matrix.T)


@dataclass(frozen=True, slots=True)
class Corrected:
    """One correction: the inverse before it, the pair in NumPy, what the curvature said, and the points."""

    before: np.ndarray
    s: np.ndarray
    y: np.ndarray
    correction: Correction
    last: Step


def walk(
    curvature: Dense, n: int, corrections: int, seed: int, *, log_condition: float = 2.0, fixed: bool = False, dtype: torch.dtype = torch.float64
) -> Iterator[Corrected]:
    """Steps along ``-H g`` of random length whose gradient changes come from random positive definite matrices, one and the same when ``fixed``."""
    generator = torch.Generator().manual_seed(seed)
    objective = objective_of(n, dtype)
    start = point_at(torch.randn(n, generator=generator, dtype=torch.float64).to(dtype), torch.randn(n, generator=generator, dtype=torch.float64).to(dtype))
    assert curvature.update(objective, start, None) is Correction.INITIAL
    matrix = random_positive_definite(n, log_condition, generator)
    for _ in range(corrections):
        before = curvature.dense_inverse()
        length = 10.0 ** float(torch.rand((), generator=generator, dtype=torch.float64) * 2.0 - 1.5)
        x = start.x - length * curvature.solve(start.grad)
        s = x - start.x
        trial = point_at(x, start.grad + (matrix @ s.double()).to(dtype))
        last = step_to(start, trial)
        correction = curvature.update(objective, trial, last)
        yield Corrected(before.double().numpy(), s.double().numpy(), (trial.grad - start.grad).double().numpy(), correction, last)
        start = trial
        if not fixed:
            matrix = random_positive_definite(n, log_condition, generator)
            start = point_at(x, torch.randn(n, generator=generator, dtype=torch.float64).to(dtype))
