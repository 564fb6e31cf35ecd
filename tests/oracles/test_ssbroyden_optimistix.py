"""Our inverse against that of the JAX package ssbroyden-optimistix, from the same points: recorded, and live where the package is installed."""

from typing import Any

import numpy as np
import pytest
import torch

import secant
from oracles.pairs import GRADIENTS, recorded, steps
from secant.curvature.broyden import Broyden
from secant.curvature.scaling import FixedMember, MemberRule, self_scaled_bfgs, self_scaled_broyden
from secant.globalization.fixed_step import FixedStep
from secant.objective import Objective
from secant.optimizer import CurvatureOptimizer
from secant.step import Correction, Outcome, Point, Step

RULES: dict[str, MemberRule] = {"SSBroyden": self_scaled_broyden, "SSBFGS": self_scaled_bfgs, "BFGS": FixedMember(0.0), "DFP": FixedMember(1.0)}
OPTIMIZERS: dict[str, type[CurvatureOptimizer[Any]]] = {"SSBroyden": secant.SSBroyden, "SSBFGS": secant.SSBFGS, "BFGS": secant.BFGS, "DFP": secant.DFP}
RUNS = recorded()["runs"]
NAMES = [f"{run['rule']}-{run['problem']}-{run['n']}" for run in RUNS]


def largest_difference(rule: MemberRule, rows: list[dict[str, Any]]) -> float:
    """Correct with the recorded points; the largest difference from the recorded inverses, relative to their largest element."""
    n = len(rows[0]["x"])
    objective = Objective([{"params": [torch.zeros(n, dtype=torch.float64, requires_grad=True)], "lr": 1.0, "weight_decay": 0.0}])
    curvature = Broyden(rule, initial=1.0)
    worst = 0.0
    for row in rows:
        start, trial = point(row["x"], row["gradient"]), point(row["new_x"], row["new_gradient"])
        if row is rows[0]:
            assert curvature.update(objective, start, None) is Correction.INITIAL
        assert curvature.update(objective, trial, Step(start, trial, trial, Outcome.WOLFE)) is Correction.APPLIED
        expected = np.array(row["inverse"])
        worst = max(worst, float(np.abs(curvature.dense_inverse().numpy() - expected).max() / np.abs(expected).max()))
    return worst


def point(x: list[float], gradient: list[float]) -> Point:
    grad = torch.tensor(gradient, dtype=torch.float64)
    return Point(torch.tensor(x, dtype=torch.float64), 0.0, grad, float(grad.abs().amax()), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("run", RUNS, ids=NAMES)
def test_inverse_is_that_of_the_recorded_peer(run: dict[str, Any]) -> None:
    # s is a multiple of -H g only to the rounding of x, and each implementation takes s.Bs from it in its own order of sums.
    assert largest_difference(RULES[run["rule"]], run["steps"]) <= 1e-10


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("problem", GRADIENTS)
def test_inverse_is_that_of_the_installed_peer(rule: str, problem: str) -> None:
    pytest.importorskip("jax", exc_type=ImportError)
    pytest.importorskip("ssbroyden_optimistix", exc_type=ImportError)
    from oracles.peer import Peer

    assert largest_difference(RULES[rule], steps(problem, 8, Peer(rule, 8))) <= 1e-10


@pytest.mark.parametrize("run", RUNS, ids=NAMES)
def test_iterates_are_those_of_the_recorded_peer(run: dict[str, Any]) -> None:
    """The optimizer itself, walking the recorded lengths: every parameter vector is the peer's."""
    first = run["steps"][0]
    x = torch.tensor(first["x"], dtype=torch.float64, requires_grad=True)
    optimizer = OPTIMIZERS[run["rule"]]([x], globalization=FixedStep(), initial_scale=1.0)

    def closure() -> torch.Tensor:
        x.grad = torch.from_numpy(GRADIENTS[run["problem"]](x.detach().numpy().copy()))
        return torch.zeros((), dtype=torch.float64)

    inverse = np.eye(len(first["x"]))
    for row in run["steps"]:
        moved, direction = np.array(row["new_x"]) - np.array(row["x"]), -inverse @ np.array(row["gradient"])
        optimizer.param_groups[0]["lr"] = float(moved @ direction / (direction @ direction))
        optimizer.step(closure)
        assert x.detach().numpy() == pytest.approx(np.array(row["new_x"]), rel=1e-9, abs=1e-9)
        inverse = np.array(row["inverse"])
