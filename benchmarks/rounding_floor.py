"""Logistic regression to the last digit: the final gradient and the reason for stopping."""

from __future__ import annotations

from benchmarks.record import one_thread, save
from secant.methods import METHODS
from secant.problems import PROBLEMS


def main() -> None:
    one_thread()
    rows = []
    for seed in (0, 1, 2):
        for name, method in METHODS.items():
            problem = PROBLEMS["logistic"].build(seed)
            optimizer = method(problem.parameters)
            for _ in range(2000):
                optimizer.step(problem.loss)
                if optimizer.outcome is not None and optimizer.outcome.stops:
                    break
            assert optimizer.point is not None
            assert optimizer.outcome is not None
            assert problem.error is not None
            rows.append(
                {
                    "method": name,
                    "seed": seed,
                    "largest_gradient": optimizer.point.largest_grad,
                    "outcome": optimizer.outcome.sentence,
                    "evaluations": optimizer.counts.losses,
                    "iterations": optimizer.iteration,
                    "error": problem.error(),
                }
            )
            print(rows[-1], flush=True)
    save("rounding_floor", rows, problem="logistic")


if __name__ == "__main__":
    main()
