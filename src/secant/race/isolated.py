"""One run in a process of its own, for methods whose runtime must not share ours (thread pools, global precision switches)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from secant.race.batch_method import with_rates
from secant.race.budget import Budget
from secant.race.health_log import HealthRequest
from secant.race.machine import limited_threads
from secant.race.method import BatchVariant
from secant.race.records import RunRecord
from secant.race.runner import Run, lost_run, run_here
from secant.race.snapshot import Snapshot
from secant.race.source import find_problem
from secant.race.techniques import Schedule, Techniques

if TYPE_CHECKING:
    from secant.problems import Problem


def run_isolated(run: Run, problem: Problem) -> RunRecord:
    """Drive one run in a fresh Python process, which builds the problem again; its CPU time is that process's own.

    Returns:
        The record of that process, or a failed one with its last message if it ended without a record.
    """
    request = {
        "problem": run.problem_name,
        "method": run.method.name,
        "variant": run.variant.label,
        "seed": run.seed,
        "lr": run.variant.lr if isinstance(run.variant, BatchVariant) else None,
        "trains": problem.training is not None,
        "budget": asdict(run.budget),
        "threads": run.threads,
        "compiled": run.compiled,
        "techniques": asdict(run.techniques) | {"schedule": run.techniques.schedule.value},
        "health": None if run.health is None else asdict(run.health),
    }
    answer = subprocess.run(
        [sys.executable, "-m", "secant.race.isolated"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | _thread_environment(run.threads),
    )
    if answer.returncode != 0:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        return lost_run(run, problem, f"Its process ended without a record: {lines[-1]}")
    return RunRecord.model_validate_json(answer.stdout.splitlines()[-1])


def _thread_environment(threads: int) -> dict[str, str]:
    """Read by XLA and BLAS when they are loaded; XLA has no later switch."""
    single = " --xla_cpu_multi_thread_eigen=false" if threads == 1 else ""
    return {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + single,
        "NPROC": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "JAX_PLATFORMS": "cpu",
    }


def _main() -> None:
    request = json.loads(sys.stdin.read())
    run = _run_of(request)
    with limited_threads(run.threads):
        problem = find_problem(run.problem_name).build(run.seed, run.compiled)
        record = run_here(run, problem, Snapshot.of(problem), lambda point, share: None)
    sys.stdout.write(record.model_dump_json() + "\n")


def _run_of(request: dict[str, Any]) -> Run:
    from secant.race.registry import select_methods

    (method,) = select_methods([request["method"]], trains=request["trains"])
    variants = method.variants if request["lr"] is None else with_rates(method, [request["lr"]]).variants
    techniques = request["techniques"] | {"schedule": Schedule(request["techniques"]["schedule"])}
    return Run(
        request["problem"],
        method,
        next(variant for variant in variants if variant.label == request["variant"]),
        request["seed"],
        Budget(**request["budget"]),
        request["threads"],
        request["compiled"],
        Techniques(**techniques),
        None if request["health"] is None else HealthRequest(**request["health"]),
    )


if __name__ == "__main__":
    _main()
