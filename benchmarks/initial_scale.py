"""Evaluations to a fixed accuracy for several scales of the inverse Hessian before its first correction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.record import one_thread, save
from secant.curvature.broyden import Broyden
from secant.curvature.scaling import FixedMember, MemberRule, self_scaled_broyden
from secant.globalization.hager_zhang import HagerZhang
from secant.optimizer import CurvatureOptimizer
from secant.problems import PROBLEMS

GAINS = (1.0, 3.0, 10.0, 30.0, 100.0)
BUDGET = 3000
ACCURACY = 1e-9
RULES: dict[str, MemberRule] = {"bfgs": FixedMember(0.0), "ssbroyden": self_scaled_broyden}
DTYPE = torch.float64


@dataclass(frozen=True)
class Case:
    name: str
    parameters: list[Tensor]
    loss: Callable[[], Tensor]
    minimum: float
    evaluations: int | None  # None: run to ACCURACY; else the loss after so many evaluations is compared


def main() -> None:
    one_thread()
    rows = []
    for build in _cases():
        for name, rule in RULES.items():
            for gain in GAINS:
                row = _run(build(), rule, gain)
                rows.append({"method": name, "first_gain": gain} | row)
            print(rows[-1]["problem"], name, [(r["first_gain"], r["evaluations"], f"{r['reduction']:.1e}") for r in rows[-len(GAINS) :]], flush=True)
    save("initial_scale", rows, accuracy=ACCURACY, budget=BUDGET, note="reduction = (loss - minimum) / (first loss - minimum) at the end")


def _run(case: Case, rule: MemberRule, gain: float) -> dict[str, object]:
    first = case.loss().item()
    optimizer = CurvatureOptimizer(case.parameters, Broyden(rule, initial="auto", first_gain=gain), HagerZhang())
    while optimizer.counts.losses < (case.evaluations or BUDGET):
        optimizer.step(case.loss)
        assert optimizer.point is not None
        assert optimizer.outcome is not None
        reduction = (optimizer.point.loss - case.minimum) / (first - case.minimum)
        if optimizer.outcome.stops or (case.evaluations is None and reduction < ACCURACY):
            break
    return {"problem": case.name, "evaluations": optimizer.counts.losses, "iterations": optimizer.iteration, "reduction": reduction}


def _cases() -> Iterator[Callable[[], Case]]:
    for n, condition in ((100, 1e2), (100, 1e4), (20, 1e4)):
        yield lambda n=n, condition=condition: _quadratic(n, condition)
    for n in (10, 50):
        yield lambda n=n: _rosenbrock(n)
    for name in ("logistic", "linear-regression"):
        yield lambda name=name: _built(name, 0, None)
    for name, evaluations in (("poisson-2d", 1200), ("burgers", 1500)):
        for seed in (0, 1):
            yield lambda name=name, seed=seed, evaluations=evaluations: _built(name, seed, evaluations)


def _quadratic(n: int, condition: float) -> Case:
    generator = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=DTYPE))
    matrix = (q * torch.logspace(0, math.log10(condition), n, dtype=DTYPE)) @ q.T
    x = torch.randn(n, generator=generator, dtype=DTYPE, requires_grad=True)
    return Case(f"quadratic, n = {n}, condition {condition:.0e}", [x], lambda: 0.5 * x @ matrix @ x, 0.0, None)


def _rosenbrock(n: int) -> Case:
    x = torch.tensor([-1.2, 1.0] * (n // 2), dtype=DTYPE, requires_grad=True)
    return Case(f"rosenbrock, n = {n}", [x], lambda: ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum(), 0.0, None)


def _built(name: str, seed: int, evaluations: int | None) -> Case:
    problem = PROBLEMS[name].build(seed, compile=evaluations is not None)
    return Case(f"{name}, seed {seed}", list(problem.parameters), problem.loss, problem.reference or 0.0, evaluations)


if __name__ == "__main__":
    main()
