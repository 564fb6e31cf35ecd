"""Records for the report, made by hand: no race is needed to draw one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from secant.race.budget import Budget
from secant.race.records import Machine, RunRecord, Status, TracePoint


@pytest.fixture
def record() -> Callable[..., RunRecord]:
    """Makes a record whose loss and error fall like ``scale / evaluations``."""

    def make(method: str = "bfgs", seed: int = 0, scale: float = 1.0, **changes: object) -> RunRecord:
        trace = tuple(
            TracePoint(evaluations=k, cpu_seconds=k * 1e-3, wall_seconds=k * 2e-3, loss=scale / (k + 1), error=10 * scale / (k + 1))
            for k in (0, 1, 2, 4, 8, 16, 32, 64)
        )
        made = RunRecord(
            problem="bowl",
            problem_settings={"n": 5},
            parameter_count=5,
            compiled=False,
            error_name="distance",
            method=method,
            method_settings={"class": f"library.{method}"},
            seed=seed,
            budget=Budget(evaluations=64),
            status=Status.BUDGET,
            outcome="Budget of 64 evaluations used up.",
            steps=60,
            evaluations=64,
            cpu_seconds=0.064,
            wall_seconds=0.128,
            loss=trace[-1].loss,
            error=trace[-1].error,
            trace=trace,
            versions={"python": "3"},
            machine=Machine(cpu="a processor", system="Linux", threads=1),
        )
        return made.model_copy(update=changes)

    return make
