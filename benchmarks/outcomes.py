"""Which condition every step was accepted by, and how many by none."""

from __future__ import annotations

from collections import Counter

from benchmarks.record import one_thread, save
from secant.methods import METHODS
from secant.problems import PROBLEMS
from secant.step import Outcome

EVALUATIONS = {"poisson-2d": 800, "burgers": 800, "logistic": 60, "linear-regression": 60, "quadratic": 200}


def main() -> None:
    one_thread()
    rows = []
    for problem, evaluations in EVALUATIONS.items():
        for name, method in METHODS.items():
            built = PROBLEMS[problem].build(0, compile=problem in ("poisson-2d", "burgers"))
            optimizer = method(built.parameters)
            outcomes: Counter[str] = Counter()
            while optimizer.counts.losses < evaluations:
                optimizer.step(built.loss)
                if optimizer.last_step is not None:
                    outcomes[optimizer.last_step.outcome.name] += 1
                if optimizer.outcome is not None and optimizer.outcome.stops:
                    break
            accepted = sum(count for key, count in outcomes.items() if Outcome[key].is_accepted)
            by_none = outcomes[Outcome.DECREASE.name] / accepted
            rows.append({"problem": problem, "method": name, "outcomes": dict(outcomes), "share_accepted_by_none": by_none})
            print(rows[-1], flush=True)
    save("outcomes", rows, seed=0, evaluations=EVALUATIONS)


if __name__ == "__main__":
    main()
