"""Error against processor time on the Burgers equation with points that follow the residual: Levenberg-Marquardt, and SSBroyden for comparison.

``python -m benchmarks.burgers_rad`` writes the record, and takes it up where it was interrupted; ``--stretch`` adds a run of twenty minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

import secant
from benchmarks.record import RESULTS, one_thread, save
from secant.collocation import RAD, uniform_in
from secant.derivatives import PointResidual, loss_closure
from secant.optimizer import CurvatureOptimizer
from secant.problems import PROBLEMS, Problem

SAMPLES = 40  # per run, equally spaced in time
NOTE = (
    "seconds are processor time of one core without measuring the error. Every `every` iterations the points of the equation are drawn anew by RAD out of ten "
    "times as many; every = 0 keeps the first ones. Points at t = 0, where there are any, stay. error: at the end; least_error: the least of the trace."
)


@dataclass(frozen=True)
class Run:
    problem: str
    method: str
    seed: int
    seconds: float
    points: int
    every: int


RUNS = (
    *(Run("burgers-nu001", "lm", seed, 120.0, points=3000, every=10) for seed in range(5)),
    *(Run("burgers", "lm", seed, 600.0, points=8000, every=10) for seed in range(3)),
    Run("burgers", "lm", 0, 120.0, points=3000, every=0),
)
STRETCH = (
    Run("burgers", "ssbroyden", 0, 600.0, points=8000, every=500),
    Run("burgers", "lm", 0, 1200.0, points=12_000, every=10),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stretch", action="store_true", help="add a run of twenty minutes")
    runs = RUNS + STRETCH if parser.parse_args().stretch else RUNS
    one_thread()
    path = RESULTS / "burgers_rad.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for run in runs:
        if any(asdict(run).items() <= row.items() for row in rows):
            continue
        row = asdict(run) | Race(run).follow()
        rows.append(row)
        save("burgers_rad", rows, note=NOTE)
        print(run, row["iterations"], row["error"], flush=True)


class Race:
    """One run under the clock; the error is measured while the clock stands still."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._problem = PROBLEMS[run.problem].build(run.seed)
        self._residuals = _point_residuals(self._problem)
        self._collocation = RAD(uniform_in((0.0, -1.0), (1.0, 1.0)), run.points, seed=1000 + run.seed)
        # The weight of the equation in the loss, whatever the number of points: scale = sqrt(2 weight / points).
        equation = self._residuals[0]
        self._weighted = float(equation.scale) * math.sqrt(len(equation.points))
        self._trace: list[dict[str, float | int]] = []
        self._paused = self._began = 0.0

    def follow(self) -> dict[str, object]:
        run, (optimizer, target) = self._run, self._optimizer()
        self._began = time.process_time()
        if run.every:
            self._move_to(self._collocation.begin())
        for iteration in range(1, 10**9):
            optimizer.step(target)
            assert optimizer.point is not None
            assert optimizer.outcome is not None
            now = time.process_time() - self._began - self._paused
            is_over = now >= run.seconds or (optimizer.outcome.stops and not run.every)
            if is_over or now >= len(self._trace) * run.seconds / SAMPLES:
                self._sample(now, iteration, optimizer.point.loss)
            if is_over:
                break
            if run.every and (iteration % run.every == 0 or optimizer.outcome.stops):
                self._resample(optimizer)
        last, errors = self._trace[-1], [row["error"] for row in self._trace]
        return {
            "iterations": last["iterations"],
            "error": last["error"],
            "least_error": min(errors),
            "outcome": optimizer.outcome.sentence,
            "trace": self._trace,
        }

    def _optimizer(self) -> tuple[CurvatureOptimizer, object]:
        parameters = list(self._problem.parameters)
        if self._run.method == "lm":
            return secant.LevenbergMarquardt(parameters), self._residuals
        return secant.SSBroyden(parameters), loss_closure(self._residuals)

    def _resample(self, optimizer: CurvatureOptimizer) -> None:
        with torch.no_grad():
            self._move_to(self._collocation.resample(_values(self._residuals[0])))
        optimizer.objective_changed()

    def _move_to(self, points: Tensor) -> None:
        self._residuals[0].replace_points(points, scale=self._weighted / math.sqrt(len(points)))

    def _sample(self, now: float, iteration: int, loss: float) -> None:
        paused = time.process_time()
        assert self._problem.error is not None
        self._trace.append({"seconds": round(now, 2), "iterations": iteration, "loss": loss, "error": self._problem.error()})
        self._paused += time.process_time() - paused


def _point_residuals(problem: Problem) -> list[PointResidual]:
    residuals = [residual for residual in problem.residual if isinstance(residual, PointResidual)]
    assert len(residuals) == len(problem.residual) > 0
    return residuals


def _values(residual: PointResidual) -> Callable[[Tensor], Tensor]:
    return lambda points: residual.equation(points, *residual.field.derivatives(points, residual.derivatives))


if __name__ == "__main__":
    main()
