"""The mini-batch tables, drawn from ``mini_batch.json`` and ``mini_batch_ablation.json``."""

from __future__ import annotations

import json
import math
from typing import Any

from benchmarks.record import RESULTS

OURS = "rank-one-kron lr=0.01"
PEERS = ("muon", "soap")


def tasks_table() -> str:
    """Per task: what tuned AdamW reaches, and what one learning rate of ours reaches beside it."""
    rows, means = _tasks()
    columns = ("task", "AdamW's best", "loss over it: RankOneKron", "Muon", "SOAP", "steps to it", "time to it")
    head = "| " + " | ".join([*columns, "optimizer step / (forward + backward)", "least time to it, peers at their best rate for the task"]) + " |"
    lines = [head, "| --- |" + " --- |" * 8]
    single = {peer: _best_single(means, peer) for peer in PEERS}
    for row in rows:
        ours, adamw = row["methods"][OURS], row["adamw"]
        peers = [row["methods"].get(single[peer][0]) if single[peer] else None for peer in PEERS]
        cells = [
            f"`{row['task']}`",
            f"{adamw['loss']:.3g} ({adamw['variant']})",
            f"{ours['loss_over_adamw']:.2f}",
            *("–" if peer is None else f"{peer['loss_over_adamw']:.2f}" for peer in peers),  # noqa: RUF001 - typography
            _times(ours["steps_to_adamws_best"]),
            _times(ours["time_to_adamws_best"]),
            f"{ours['step_share']:.2f}",
            _choice(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    mean = [f"{means[OURS]:.2f}", *("–" if single[peer] is None else f"{single[peer][1]:.2f}" for peer in PEERS)]  # noqa: RUF001
    lines.append(f"| geometric mean of the six small ones | | {' | '.join(mean)} | | | | |")
    return "\n".join(lines)


def goals_table() -> str:
    """The numbers we set out to reach, beside what was measured."""
    rows, means = _tasks()
    by_name = {row["task"]: row["methods"][OURS] for row in rows}
    lines = ["| what | goal | measured | reached |", "| --- | --- | --- | --- |"]

    def add(what: str, sign: str, goal: float, value: float | None) -> None:
        reached = value is not None and (value <= goal if sign == "<=" else value >= goal)
        lines.append(f"| {what} | {sign} {goal:.3g} | {'never' if value is None else f'{value:.3g}'} | {'yes' if reached else '**no**'} |")

    for name, goal in {
        "ill-conditioned": 0.5,
        "mnist-autoencoder": 0.5,
        "digits-conv": 0.8,
        "char-transformer": 0.8,
        "mnist-mlp-64": 1.0,
        "mnist-mlp-512": 1.0,
    }.items():
        add(f"time to tuned AdamW's best loss, `{name}`", "<=", goal, by_name[name]["time_to_adamws_best"])
    add("loss at equal steps over tuned AdamW's, one learning rate, geometric mean of six tasks", "<=", 0.70, means[OURS])
    for peer in PEERS:
        single = _best_single(means, peer)
        if single is not None:
            add(f"the same over that of {peer} at its own best single rate ({single[0].partition(' ')[2]})", "<=", 1.0, means[OURS] / single[1])
    add("optimizer step / (forward + backward), `char-transformer` (4,096 tokens, width 160)", "<=", 0.15, by_name["char-transformer"]["step_share"])
    add("numbers of state per parameter, largest over all tasks", "<=", 3.0, max(row["state_numbers_per_parameter"] for row in by_name.values()))
    fashion = next(row for row in rows if row["task"] == "fashion-mlp")
    add("full Fashion-MNIST: test accuracy over tuned AdamW's", ">=", 1.0, fashion["methods"][OURS]["accuracy"] / fashion["adamw"]["accuracy"])
    add("the same: steps to its last accuracy", "<=", 0.7, fashion["methods"][OURS].get("steps_to_adamws_last_accuracy"))
    return "\n".join(lines)


def ablation_table() -> str:
    """What one changed option does to the loss at equal steps, over that of the defaults."""
    rows = json.loads((RESULTS / "mini_batch_ablation.json").read_text())["rows"]
    tasks = list(rows[0]["tasks"])
    lines = ["| changed | geometric mean | " + " | ".join(f"`{task}`" for task in tasks) + " |", "| --- |" + " --- |" * (len(tasks) + 1)]
    for row in rows[1:]:
        cells = [row["change"], f"{row['loss_over_defaults']:.2f}", *(_ratio(row["tasks"][task]) for task in tasks)]
        lines += ["| " + " | ".join(cells) + " |"]
    return "\n".join(lines)


def _tasks() -> tuple[list[dict[str, Any]], dict[str, float]]:
    *rows, means = json.loads((RESULTS / "mini_batch.json").read_text())["rows"]
    return rows, means["methods"]


def _best_single(means: dict[str, float], peer: str) -> tuple[str, float] | None:
    """A peer's learning rate with the lowest mean over the tasks, and that mean; None where none ran on all of them."""
    of_peer = {name: value for name, value in means.items() if name.partition(" ")[0] == peer}
    return min(of_peer.items(), key=lambda item: item[1]) if of_peer else None


def _choice(row: dict[str, Any]) -> str:
    """Who needs the least time to AdamW's best loss; ours and AdamW by all seeds, the peers at their best rate for the task."""
    times = {"AdamW": 1.0}
    for name, found in row["methods"].items():
        value = found["time_to_adamws_best"]
        label = {"rank-one-kron": "RankOneKron", "muon": "Muon", "soap": "SOAP"}[name.partition(" ")[0]]
        times[label] = min(times.get(label, math.inf), math.inf if value is None else value)
    return min(times, key=lambda label: times[label])


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _times(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"
