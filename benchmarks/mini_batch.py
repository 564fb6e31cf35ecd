"""Mini-batch training: tuned AdamW, Muon and SOAP on their grids of learning rates against RankOneKron at one.

``results/mini-batch/TASK.jsonl`` holds the records of the race; ``mini_batch.json`` what is drawn from them. ``python -m benchmarks.mini_batch TASK ...``
runs some of the tasks and goes on where a run was cut off; the summary is made of what the files hold.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from benchmarks.record import RESULTS, one_thread, save
from secant.race.batch_method import with_rates
from secant.race.budget import Budget
from secant.race.ledger import append_record, finished_keys, read_records
from secant.race.method import Method
from secant.race.plan import Plan, race
from secant.race.records import RunRecord
from secant.race.registry import select_methods
from secant.race.source import find_problem
from secant.race.techniques import Techniques

OURS = "rank-one-kron"
FOLDER = RESULTS / "mini-batch"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Task:
    """One problem at one batch size. ``steps`` and ``batch`` are those of the problem where they are None."""

    problem: str
    batch: int | None = None
    steps: int | None = None
    peers_seeds: tuple[int, ...] = SEEDS


TASKS = {
    "ill-conditioned": Task("ill-conditioned"),
    "mnist-autoencoder": Task("mnist-autoencoder", peers_seeds=(0,)),
    "mnist-mlp-64": Task("mnist-mlp", 64, 312),
    "mnist-mlp-512": Task("mnist-mlp", 512, 120),
    "digits-conv": Task("digits-conv", peers_seeds=(0,)),
    "char-transformer": Task("char-transformer", peers_seeds=(0,)),
    "fashion-mlp": Task("fashion-mlp"),
}
"""Muon and SOAP run one seed where a run of one of them takes a minute."""
RATES = {
    "adamw": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "muon": (1e-3, 3e-3, 1e-2),
    "soap": (1e-3, 3e-3, 1e-2),
}
FEWER_RATES = {"char-transformer": (3e-4, 1e-3, 3e-3), "mnist-autoencoder": (3e-4, 1e-3, 3e-3), "fashion-mlp": (3e-4, 1e-3, 3e-3)}
"""Of AdamW, where a longer run of seed 0 showed the others to be far worse."""


def main() -> None:
    one_thread()
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")] or list(TASKS)
    only = next((word.partition("=")[2].split(",") for word in sys.argv[1:] if word.startswith("--methods=")), None)
    if "--summary" not in sys.argv:
        for name in wanted:
            for method, seeds in _entrants(name):
                if only is None or method.name in only:
                    _run(name, method, seeds)
    save("mini_batch", summary(), seeds=list(SEEDS), clock="process CPU seconds of one thread", rates={**RATES, OURS: "its default, for every task"})


def _entrants(name: str) -> list[tuple[Method, tuple[int, ...]]]:
    task = TASKS[name]
    ours, adamw, muon, soap = select_methods([OURS, "adamw", "muon", "soap"], trains=True)
    first = [(ours, SEEDS), (with_rates(adamw, FEWER_RATES.get(name, RATES["adamw"])), SEEDS)]
    if name == "fashion-mlp":
        return first
    return [*first, (with_rates(muon, RATES["muon"]), task.peers_seeds), (with_rates(soap, RATES["soap"]), task.peers_seeds)]


def _run(name: str, method: Method, seeds: tuple[int, ...]) -> None:
    task, file = TASKS[name], FOLDER / f"{name}.jsonl"
    source = find_problem(task.problem)
    training = source.build(0, False).training
    assert training is not None
    budget = Budget(steps=task.steps or training.steps)
    plan = Plan(source, (method,), seeds, budget, techniques=Techniques(batch=task.batch))
    for record in race(plan, finished_keys(read_records(file))):
        append_record(file, record)
        loss, seconds = record.loss, record.cpu_seconds
        print(f"{name} {record.method} {record.variant} seed {record.seed}: loss {loss if loss is None else f'{loss:.4g}'}, {seconds:.2f} s", flush=True)


def summary() -> list[dict[str, Any]]:
    """One row per task, and the geometric means over them at the end."""
    records = {name: read_records(FOLDER / f"{name}.jsonl") for name in TASKS}
    rows = [_row(name, found) for name, found in records.items() if any(record.method == OURS for record in found)]
    return [*rows, {"task": "geometric mean of the loss over tuned AdamW's at equal steps", **_means(rows)}]


def _row(name: str, records: list[RunRecord]) -> dict[str, Any]:
    by_member: dict[tuple[str, str], dict[int, RunRecord]] = defaultdict(dict)
    for record in records:
        by_member[record.method, record.variant][record.seed] = record
    adamw = min((runs for (method, _), runs in by_member.items() if method == "adamw"), key=_median_loss)
    row: dict[str, Any] = {"task": name, "adamw": _described(adamw) | {"variant": next(iter(adamw.values())).variant}, "methods": {}}
    for (method, variant), runs in by_member.items():
        if method == "adamw":
            continue
        row["methods"][f"{method} {variant}"] = _described(runs) | _against(runs, adamw)
    return row


def _described(runs: dict[int, RunRecord]) -> dict[str, Any]:
    details = [run.training for run in runs.values() if run.training is not None]
    return {
        "seeds": sorted(runs),
        "loss": _median_loss(runs),
        "accuracy": statistics.median(run.trace[-1].accuracy or math.nan for run in runs.values()),
        "seconds": statistics.median(run.cpu_seconds for run in runs.values()),
        "steps": statistics.median(run.steps for run in runs.values()),
        "step_share": statistics.median(detail.step_share or math.nan for detail in details),
        "state_numbers_per_parameter": max(detail.state_numbers or 0.0 for detail in details),
    }


def _against(runs: dict[int, RunRecord], adamw: dict[int, RunRecord]) -> dict[str, Any]:
    """What is compared seed by seed: loss at equal steps, and time and steps to the lowest loss that AdamW reached."""
    losses, times, steps, accurate = [], [], [], []
    for seed in sorted(runs.keys() & adamw.keys()):
        run, other = runs[seed], adamw[seed]
        losses.append((run.loss or math.inf) / (other.loss or math.inf))
        goal = min(moment.loss for moment in other.trace if moment.loss is not None)
        there, here = _first(other, goal), _first(run, goal)
        times.append(math.inf if here is None or there is None else here[0] / there[0])
        steps.append(math.inf if here is None or there is None else here[1] / there[1])
        accurate.append(_steps_to_accuracy(run, other))
    found = {
        "loss_over_adamw": statistics.median(losses),
        "loss_over_adamw_per_seed": losses,
        "time_to_adamws_best": _or_none(statistics.median(times)),
        "time_to_adamws_best_per_seed": [_or_none(value) for value in times],
        "steps_to_adamws_best": _or_none(statistics.median(steps)),
    }
    if all(value is not None for value in accurate):
        found["steps_to_adamws_last_accuracy"] = _or_none(statistics.median(value for value in accurate if value is not None))
    return found


def _first(run: RunRecord, goal: float) -> tuple[float, int] | None:
    """CPU seconds and steps at the first traced moment at or below a loss."""
    return next(((moment.cpu_seconds, moment.steps) for moment in run.trace if moment.loss is not None and moment.loss <= goal), None)


def _steps_to_accuracy(run: RunRecord, other: RunRecord) -> float | None:
    """Steps to the other run's last accuracy, over that run's steps."""
    goal = other.trace[-1].accuracy
    if goal is None:
        return None
    return next((moment.steps / other.steps for moment in run.trace if moment.accuracy is not None and moment.accuracy >= goal), math.inf)


def _means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the six tasks, of each method at each single learning rate that ran on all of them."""
    over: dict[str, list[float]] = defaultdict(list)
    counted = [row for row in rows if row["task"] != "fashion-mlp"]
    for row in counted:
        for name, found in row["methods"].items():
            over[name].append(found["loss_over_adamw"])
    return {
        "tasks": [row["task"] for row in counted],
        "methods": {name: math.exp(statistics.fmean(math.log(value) for value in values)) for name, values in over.items() if len(values) == len(counted)},
    }


def _median_loss(runs: dict[int, RunRecord]) -> float:
    return statistics.median(math.inf if run.loss is None else run.loss for run in runs.values())


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    main()
