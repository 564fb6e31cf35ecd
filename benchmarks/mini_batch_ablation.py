"""What each part of RankOneKron is worth: one option changed at a time, on the quick tasks, at the default learning rate.

``kappa`` fixed at once (0.04, 0.1, 0.3) is the method without the rule of the window, which is also its warm start. Losses are over those of the defaults.
"""

from __future__ import annotations

import math
import statistics
import sys
from typing import Any

from torch import nn
from torch.optim import Optimizer

from benchmarks.mini_batch import TASKS
from benchmarks.record import RESULTS, one_thread, save
from secant.layerwise import RankOneKron
from secant.race.batch_method import batch_method
from secant.race.budget import Budget
from secant.race.ledger import append_record, finished_keys, read_records
from secant.race.method import Method, Origin
from secant.race.plan import Plan, race
from secant.race.source import find_problem
from secant.race.techniques import Decay, Hyperparameters, Techniques

LAST_TOO = "last layer too"
CHANGES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "kappa=0.04": {"kappa": 0.04},
    "kappa=0.1": {"kappa": 0.1},
    "kappa=0.3": {"kappa": 0.3},
    "window=20": {"window": 20},
    "window=200": {"window": 200},
    "every=1": {"every": 1},
    "every=4": {"every": 4},
    "sides=smaller": {"sides": "smaller"},
    "power=2": {"power": 2},
    "stretch=inf": {"stretch": math.inf},
    "momentum=0.9": {"momentum": 0.9},
    "nesterov=False": {"nesterov": False},
    "adamw_share=1": {"adamw_share": 1.0},
    LAST_TOO: {},
    "lr=0.003": {"lr": 0.003},
    "lr=0.03": {"lr": 0.03},
}
QUICK = ("ill-conditioned", "mnist-mlp-64", "mnist-mlp-512", "digits-conv")
SEEDS = (0, 1)
WIDE = "mnist-autoencoder"
WIDE_CHANGES = ("defaults", "kappa=0.1", "kappa=0.3", "stretch=inf", LAST_TOO)
"""A run of it takes half a minute: one seed of the changes that concern wide layers."""
FILE = RESULTS / "mini-batch" / "ablation.jsonl"


def main() -> None:
    one_thread()
    FILE.parent.mkdir(parents=True, exist_ok=True)
    if "--summary" not in sys.argv:
        for label, options in CHANGES.items():
            for name in QUICK:
                _run(name, label, options, SEEDS)
        for label in WIDE_CHANGES:
            _run(WIDE, label, CHANGES[label], SEEDS[:1])
    save("mini_batch_ablation", summary(), tasks=[*QUICK, WIDE], seeds=SEEDS)


def _run(name: str, label: str, options: dict[str, Any], seeds: tuple[int, ...]) -> None:
    task = TASKS[name]
    source = find_problem(task.problem)
    training = source.build(0, False).training
    assert training is not None
    plan = Plan(
        source,
        (_entrant(label, options),),
        seeds,
        Budget(steps=task.steps or training.steps),
        techniques=Techniques(batch=task.batch),
    )
    for record in race(plan, finished_keys(read_records(FILE))):
        append_record(FILE, record)
        print(f"{name} {label} seed {record.seed}: {record.loss}", flush=True)


def _entrant(label: str, options: dict[str, Any]) -> Method:
    def build(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
        last = [name for name, parameter in model.named_parameters() if parameter.ndim >= 2][-1]
        return RankOneKron(model, **({"lr": wanted.lr} | options), rules={last: "kron"} if label == LAST_TOO else None)

    settings = {"class": "secant.RankOneKron"} | {key: str(value) for key, value in options.items()}
    return batch_method(label, label, Origin.SECANT, build, (options.get("lr", 0.01),), settings=settings, takes_momentum=False, decay=Decay.DECOUPLED)


def summary() -> list[dict[str, Any]]:
    """Per change: the geometric mean over the quick tasks and seeds of the loss over that of the defaults, and per task the median over seeds."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for record in read_records(FILE):
        name = f"{record.problem}-{record.training.techniques['batch']}" if record.problem == "mnist-mlp" and record.training else record.problem
        found.setdefault((record.method, name), {})[record.seed] = math.inf if record.loss is None else record.loss
    rows = []
    for label in CHANGES:
        ratios = {name: [loss / found["defaults", name][seed] for seed, loss in found.get((label, name), {}).items()] for name in (*QUICK, WIDE)}
        if all(ratios[name] for name in QUICK):
            every = [math.log(value) for name in QUICK for value in ratios[name]]
            tasks = {name: statistics.median(values) if values else None for name, values in ratios.items()}
            rows.append({"change": label, "loss_over_defaults": math.exp(statistics.fmean(every)), "tasks": tasks})
    return rows


if __name__ == "__main__":
    main()
