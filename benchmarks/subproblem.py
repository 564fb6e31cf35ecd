"""Where one eigendecomposition stops paying against Steihaug's conjugate gradients in SR1's trust region."""

from __future__ import annotations

import statistics
import time

import torch

import secant
from benchmarks.record import one_thread, save

ITERATIONS = 150
ROUNDS = 3


def main() -> None:
    one_thread()
    rows = []
    for n in (10, 20, 40, 60, 80, 120, 200):
        exact = [_run(n, n + 1) for _ in range(ROUNDS)]
        conjugate = [_run(n, 0) for _ in range(ROUNDS)]
        rows.append({"n": n, "exact": _summary(exact), "steihaug": _summary(conjugate)})
        print(rows[-1], flush=True)
    save("subproblem", rows, objective="chained Rosenbrock, float64", reduction=1e-10, rounds=ROUNDS)


def _run(n: int, exact_below: int) -> tuple[float, int]:
    x = torch.tensor([-1.2, 1.0] * (n // 2), dtype=torch.float64, requires_grad=True)

    def closure() -> torch.Tensor:
        return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()

    optimizer = secant.SR1([x], globalization=secant.TrustRegion(exact_below=exact_below))
    began = time.perf_counter()
    while optimizer.iteration < 3000:
        optimizer.step(closure)
        assert optimizer.outcome is not None
        if optimizer.outcome.stops:
            break
    return (time.perf_counter() - began) * 1e3, optimizer.counts.losses


def _summary(runs: list[tuple[float, int]]) -> dict[str, float]:
    milliseconds, evaluations = statistics.median(ms for ms, _ in runs), runs[0][1]
    return {"milliseconds": milliseconds, "evaluations": evaluations, "milliseconds_per_evaluation": milliseconds / evaluations}


if __name__ == "__main__":
    main()
