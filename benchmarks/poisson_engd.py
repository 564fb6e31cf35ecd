"""Error after seconds of processor time on two Poisson nets: Levenberg-Marquardt from 40 starts, its parts left out one by one, and SSBroyden.

``python -m benchmarks.poisson_engd`` writes the record, and takes it up where it was interrupted.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

import secant
from benchmarks.record import RESULTS, one_thread, save
from secant.optimizer import CurvatureOptimizer
from secant.problems import Problem, build_poisson_2d, build_poisson_engd

SECONDS = {"poisson-engd": 10.0, "poisson-2d": 15.0}
SAMPLES = 20  # per run, equally spaced in time
STREAMS = ("torch", "numpy")
NOTE = (
    "seconds are processor time of one core without compilation and without measuring the error; wall_seconds include that. error: relative l2, at the end. "
    "stream: of the initial parameters. lm: the defaults. lm-geodesic: geodesic acceleration instead of corrections. lm-straight: neither. "
    "gauss-newton: undamped with a line search; not the published natural gradient, whose pseudo-inverse is that of J' J and whose steps come from a grid. "
    "ssbroyden: the defaults, on the compiled loss."
)

METHODS: dict[str, Callable[[Sequence[Tensor]], CurvatureOptimizer[Any]]] = {
    "lm": lambda parameters: secant.LevenbergMarquardt(parameters),
    "lm-geodesic": lambda parameters: secant.LevenbergMarquardt(parameters, corrections=0, accelerate=True),
    "lm-straight": lambda parameters: secant.LevenbergMarquardt(parameters, corrections=0),
    "gauss-newton": lambda parameters: secant.GaussNewton(parameters),
    "ssbroyden": lambda parameters: secant.SSBroyden(parameters),
}


@dataclass(frozen=True)
class Run:
    problem: str
    method: str
    stream: str
    seed: int

    def build(self) -> Problem:
        is_compiled = self.method == "ssbroyden"
        if self.problem == "poisson-2d":
            return build_poisson_2d(self.seed, compile=is_compiled)
        return build_poisson_engd(self.seed, compile=is_compiled, stream="numpy" if self.stream == "numpy" else "torch")


RUNS = (
    *(Run("poisson-engd", "lm", stream, seed) for stream in STREAMS for seed in range(20)),
    *(Run("poisson-2d", method, "torch", seed) for seed in range(5) for method in ("lm", "ssbroyden")),
    *(Run("poisson-engd", method, "torch", seed) for seed in range(5) for method in ("lm-geodesic", "lm-straight", "gauss-newton")),
)


def main() -> None:
    one_thread()
    path = RESULTS / "poisson_engd.json"
    rows = json.loads(path.read_text())["rows"]["runs"] if path.exists() else []
    for run in RUNS:
        if any(asdict(run).items() <= row.items() for row in rows):
            continue
        row = asdict(run) | follow(run)
        rows.append(row)
        save("poisson_engd", {"summary": summarized(rows), "runs": rows}, seconds=SECONDS, note=NOTE)
        print(run, row["iterations"], f"{row['error']:.1e}", flush=True)
    for line in summarized(rows):
        print(line, flush=True)


def follow(run: Run) -> dict[str, Any]:
    """One run under the clock; the error is measured while the clock stands still."""
    problem = run.build()
    optimizer = METHODS[run.method](problem.parameters)
    target: Any = problem.loss if run.method == "ssbroyden" else list(problem.residual)
    seconds = SECONDS[run.problem]
    trace: list[dict[str, float | int]] = []
    iteration, paused, began, began_wall = 0, 0.0, time.process_time(), time.perf_counter()
    while True:
        optimizer.step(target)
        iteration += 1
        point, outcome = optimizer.point, optimizer.outcome
        assert point is not None
        assert outcome is not None
        stopped_at = time.process_time()
        now = stopped_at - began - paused
        is_over = now >= seconds or outcome.stops
        if is_over or now >= len(trace) * seconds / SAMPLES:
            assert problem.error is not None
            trace.append({"seconds": round(now, 2), "iterations": iteration, "loss": point.loss, "error": problem.error()})
            paused += time.process_time() - stopped_at
        if is_over:
            break
    return {
        "parameters": sum(parameter.numel() for parameter in problem.parameters),
        **trace[-1],
        "wall_seconds": round(time.perf_counter() - began_wall, 1),
        "evaluations": optimizer.counts.losses,
        "outcome": outcome.sentence,
        "trace": trace,
    }


def summarized(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each problem, method and stream: how many runs, and the least, the median and the largest error."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row["problem"], row["method"], row["stream"]), []).append(row["error"])
    return [
        {
            "problem": problem,
            "method": method,
            "stream": stream,
            "runs": len(errors),
            "least_error": min(errors),
            "median_error": statistics.median(errors),
            "largest_error": max(errors),
            "at_most_1e-7": sum(error <= 1e-7 for error in errors),
            "above_1e-5": sum(not error <= 1e-5 for error in errors),
        }
        for (problem, method, stream), errors in groups.items()
    ]


if __name__ == "__main__":
    main()
