"""LBFGS and LSR1 at large sizes: what a direction reads, and what a step costs beside torch's LBFGS."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import secant
from benchmarks.record import one_thread, ratios, save, side_by_side
from secant.curvature.curvature import Curvature
from secant.curvature.limited_bfgs import LimitedBFGS
from secant.curvature.limited_sr1 import LimitedSR1
from secant.objective import Objective
from secant.step import Outcome, Point, Step

PAIRS = 20
DIRECTION_SIZE, DIRECTION_ROUNDS = 10_000_000, 5
STEP_SIZE, STEP_EVALUATIONS, STEP_ROUNDS = 1_000_000, 26, 5


def main() -> None:
    one_thread()
    rows = []
    for row in itertools.chain(_step_rows(), _direction_rows()):
        rows.append(row)
        print(row, flush=True)
    save("limited_memory", rows, pairs=PAIRS, dtype="float64", note="ratios are medians over the rounds, every work once per round, in turn")


def _direction_rows() -> Iterator[dict[str, Any]]:
    """One update and one direction with a full memory, against one read of the stored pairs (their sum) and one read with a product (``mv``)."""
    x = torch.zeros(DIRECTION_SIZE, dtype=torch.float64, requires_grad=True)
    objective = Objective([{"params": [x], "lr": 1.0, "weight_decay": 0.0}])
    for name, curvature in (("LBFGS", LimitedBFGS(memory=PAIRS, initial="auto")), ("LSR1", LimitedSR1(memory=PAIRS, initial="auto"))):
        walk = _Walk(curvature, objective)
        seconds: list[float] = []
        for _ in range(PAIRS + 1):
            walk.advance()
        assert curvature._memory is not None
        times = side_by_side(_works(walk, curvature._memory._rows, seconds), DIRECTION_ROUNDS)
        times["direction"] = [1e3 * value for value in seconds[1:]]  # without the making of the next point
        row: dict[str, Any] = {"what": "direction", "method": name, "n": DIRECTION_SIZE, "bytes_over_stored": _bytes_over_stored(name)}
        row |= {f"{key}_ms": statistics.median(column) for key, column in times.items()}
        yield row | {f"over_one_read_by_{base}": ratios(times, base)["direction"] for base in ("sum", "product")}
        curvature.reset()  # the next one needs the memory


def _works(walk: _Walk, stored: Tensor, seconds: list[float]) -> dict[str, tuple[Callable[[], object], int]]:
    vector = torch.ones(DIRECTION_SIZE, dtype=torch.float64)
    return {"sum": (stored.sum, 1), "product": (lambda: stored @ vector, 1), "direction": (lambda: seconds.append(walk.advance()), 1)}


def _bytes_over_stored(name: str) -> float:
    """Numbers moved over numbers stored: passes over 2 m rows, and the vectors of one update and one direction."""
    differences, squares, position, gradient, direction = 6, 2, 1, 2, 1
    passes = {"LBFGS": 2, "LSR1": 3}[name]
    return (passes * 2 * PAIRS + differences + squares + position + gradient + direction) / (2 * PAIRS)


class _Walk:
    """Steps on a quadratic with a diagonal Hessian, made outside the clock."""

    def __init__(self, curvature: Curvature, objective: Objective) -> None:
        n = DIRECTION_SIZE
        self.curvature = curvature
        self._objective = objective
        self._scale = torch.linspace(1.0, 100.0, n, dtype=torch.float64)
        self._point = self._at(torch.sin(torch.arange(n, dtype=torch.float64)))
        curvature.update(objective, self._point, None)
        self._direction = curvature.solve(self._point.grad)

    def advance(self) -> float:
        """The seconds of the update with one step and of the next direction."""
        trial = self._at(self._point.x - 0.5 * self._direction)
        step = Step(self._point, trial, trial, Outcome.FIXED)
        began = time.perf_counter()
        self.curvature.update(self._objective, trial, step)
        self._direction = self.curvature.solve(trial.grad)
        seconds = time.perf_counter() - began
        self._point = trial
        return seconds

    def _at(self, x: Tensor) -> Point:
        return Point(x, 0.0, self._scale * x, 1.0, torch.zeros((), dtype=torch.float64))


def _step_rows() -> Iterator[dict[str, Any]]:
    """Processor time outside the closure per evaluation once the memory is full, the same closure and options for both classes."""
    for search in (None, "strong_wolfe"):
        pairs = [(_overhead(secant.LBFGS, search), _overhead(torch.optim.LBFGS, search)) for _ in range(STEP_ROUNDS)]
        ours, theirs = ([statistics.median(column)] for column in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        yield {"what": "step", "n": STEP_SIZE, "line_search_fn": search, "secant_ms": ours[0], "torch_ms": theirs[0], "secant_over_torch": ratio}


def _overhead(optimizer: Any, search: str | None) -> float:
    scale = torch.linspace(1.0, 1e4, STEP_SIZE, dtype=torch.float64)
    x = torch.ones(STEP_SIZE, dtype=torch.float64, requires_grad=True)
    options = {"max_iter": 10_000, "max_eval": STEP_EVALUATIONS, "tolerance_grad": 0.0, "tolerance_change": 0.0, "history_size": PAIRS}
    running = optimizer([x], line_search_fn=search, **options)
    inside, count = 0.0, 0

    def closure() -> Tensor:
        nonlocal inside, count
        began = time.process_time()
        with torch.no_grad():
            x.grad = scale * x
            loss = 0.5 * torch.dot(x, x.grad)
        count += 1
        inside += time.process_time() - began
        return loss

    running.step(closure)  # fills the memory
    inside, count = 0.0, 0
    began = time.process_time()
    running.step(closure)
    return (time.process_time() - began - inside) / count * 1e3


if __name__ == "__main__":
    main()
