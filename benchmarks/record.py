"""One machine, one JSON file per benchmark, ratios side by side."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import threadpoolctl
import torch

RESULTS = Path(__file__).parent / "results"


def one_thread() -> None:
    """Pin this process and every BLAS in it to one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Wall time of one call, over ``repeats`` calls in a row."""
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - began) / repeats * 1e3


def side_by_side(works: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, list[float]]:
    """Every work once per round, in turn, so that drift of a shared machine hits all alike. Returns milliseconds per call and round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work, _ in works.values():
        work()
    for _ in range(rounds):
        for name, (work, repeats) in works.items():
            times[name].append(milliseconds(work, repeats))
    return times


def ratios(times: dict[str, list[float]], base: str) -> dict[str, float]:
    """The median over the rounds of each time over the base's time in the same round."""
    return {name: statistics.median(a / b for a, b in zip(row, times[base], strict=True)) for name, row in times.items()}


def save(name: str, rows: Any, **settings: Any) -> None:
    """Write ``results/<name>.json`` with the machine and the versions."""
    RESULTS.mkdir(exist_ok=True)
    record = {"benchmark": name, "machine": machine(), "settings": settings, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{name}: written", flush=True)


def machine() -> dict[str, str | int]:
    """What the numbers depend on."""
    versions = {f"{package}_version": importlib.metadata.version(package) for package in ("torch", "numpy", "scipy", "secant")}
    return {
        "cpu": _cpu_name(),
        "cores_used": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        **versions,
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    source = Path("/proc/cpuinfo")
    if not source.exists():
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in source.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
