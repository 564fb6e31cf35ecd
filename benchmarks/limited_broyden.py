"""Error against processor time on Burgers nets of 1e3, 1e4 and 1e5 parameters: limited self-scaled Broyden, its alternatives, L-BFGS and the dense method."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from benchmarks.layer_blocks import LayerBlocks
from benchmarks.record import RESULTS, one_thread, save
from secant.curvature.broyden import Broyden
from secant.curvature.curvature import Curvature
from secant.curvature.limited_bfgs import LimitedBFGS
from secant.curvature.limited_broyden import LimitedBroyden
from secant.curvature.scaling import FixedMember, MemberRule, self_scaled_broyden
from secant.curvature.subspace_inverse import SeenGradient, SubspaceInverse
from secant.curvature.symmetric import DeferredSymmetric
from secant.globalization.hager_zhang import HagerZhang
from secant.optimizer import CurvatureOptimizer
from secant.problems import PROBLEMS, Problem

SECONDS = {"burgers": 30.0, "burgers-10k": 120.0, "burgers-100k": 120.0}
SAMPLES = 24  # per run, equally spaced in time
NOTE = (
    "seconds are processor time of one core without compilation and without measuring the error. lssbroyden: forgets by eigenvalue. "
    "lssbroyden-oldest: the same basis, forgets the oldest gradients. lbfgs-basis: BFGS without scaling in the same basis. layer-blocks: dense BFGS "
    "blocks of the layers, coupled by self-scaled Broyden corrections that start from the blocks anew when there are memory of them. "
    "lbfgs: secant.LBFGS with Hager and Zhang's search. torch-lbfgs: torch.optim.LBFGS with strong Wolfe and no tolerances. ssbroyden: dense."
)


@dataclass(frozen=True)
class Run:
    problem: str
    method: str
    memory: int | None
    seed: int

    @property
    def key(self) -> dict[str, object]:
        return {"problem": self.problem, "method": self.method, "memory": self.memory, "seed": self.seed}


RUNS = (
    Run("burgers-10k", "lssbroyden", 300, 0),
    Run("burgers-10k", "torch-lbfgs", 100, 0),
    Run("burgers-10k", "ssbroyden", None, 0),
    Run("burgers", "ssbroyden", None, 0),
    Run("burgers", "lssbroyden", 300, 0),
    Run("burgers", "lssbroyden", 100, 0),
    Run("burgers", "lssbroyden-oldest", 100, 0),
    Run("burgers", "layer-blocks", 100, 0),
    Run("burgers", "torch-lbfgs", 100, 0),
    Run("burgers-100k", "lssbroyden", 300, 0),
    Run("burgers-100k", "torch-lbfgs", 100, 0),
    Run("burgers-10k", "lssbroyden-oldest", 300, 0),
    Run("burgers-10k", "layer-blocks", 100, 0),
    Run("burgers-10k", "lssbroyden", 100, 0),
    Run("burgers-10k", "lbfgs", 100, 0),
    Run("burgers-10k", "lssbroyden", 300, 1),
    Run("burgers-10k", "lbfgs", 100, 1),
    Run("burgers-10k", "lssbroyden", 300, 2),
    Run("burgers-10k", "lbfgs", 100, 2),
    Run("burgers", "lssbroyden", 20, 0),
    Run("burgers", "lbfgs", 100, 0),
    Run("burgers-10k", "lssbroyden", 1000, 0),
    Run("burgers-10k", "lssbroyden", 20, 0),
    Run("burgers-10k", "lbfgs", 20, 0),
    Run("burgers-100k", "lbfgs", 100, 0),
    Run("burgers-10k", "lbfgs", 1000, 0),
    Run("burgers", "lbfgs-basis", 100, 0),
    Run("burgers-10k", "lssbroyden", 2000, 0),
    Run("burgers-100k", "lssbroyden", 100, 0),
)


def main() -> None:
    one_thread()
    path = RESULTS / "limited_broyden.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for run in RUNS:
        if any(run.key.items() <= row.items() for row in rows):
            continue  # a race of an hour is taken up where it was interrupted
        problem = PROBLEMS[run.problem].build(run.seed, compile=True)
        size = sum(p.numel() for p in problem.parameters)
        row = run.key | {"parameters": size} | Trace(problem, SECONDS[run.problem]).follow(run)
        rows.append(row)
        save("limited_broyden", rows, seconds=SECONDS, note=NOTE)
        print(run, row["evaluations"], row["error"], flush=True)


class Trace:
    """One run under the clock; the error is measured while the clock stands still."""

    def __init__(self, problem: Problem, seconds: float) -> None:
        self._problem = problem
        self._seconds = seconds
        self._paused = 0.0
        self._began = 0.0
        self._evaluations = 0
        self._rows: list[dict[str, float | int]] = []

    def follow(self, run: Run) -> dict[str, object]:
        step = self._step(run)
        with _forgetting(run.method):
            self._began = time.process_time()
            while True:
                loss, is_over = step()
                now = self._now()
                is_over = is_over or now >= self._seconds
                if is_over or now >= len(self._rows) * self._seconds / SAMPLES:
                    self._sample(now, loss)
                if is_over:
                    break
        return {"error": self._rows[-1]["error"], "loss": self._rows[-1]["loss"], "evaluations": self._evaluations, "trace": self._rows}

    def _now(self) -> float:
        return time.process_time() - self._began - self._paused

    def _sample(self, now: float, loss: float) -> None:
        paused = time.process_time()
        assert self._problem.error is not None
        self._rows.append({"seconds": round(now, 2), "evaluations": self._evaluations, "loss": loss, "error": self._problem.error()})
        self._paused += time.process_time() - paused

    def _step(self, run: Run) -> Callable[[], tuple[float, bool]]:
        """One iteration, which returns the loss and whether the method gave up."""
        if run.method == "torch-lbfgs":
            return self._torch_step(run.memory or 10)
        parameters = list(self._problem.parameters)
        optimizer = CurvatureOptimizer(parameters, _curvature(run, parameters), HagerZhang())

        def step() -> tuple[float, bool]:
            optimizer.step(self._problem.loss)
            self._evaluations = optimizer.counts.losses
            assert optimizer.point is not None
            assert optimizer.outcome is not None
            return optimizer.point.loss, optimizer.outcome.stops

        return step

    def _torch_step(self, memory: int) -> Callable[[], tuple[float, bool]]:
        parameters = list(self._problem.parameters)
        options = {"max_iter": 5, "max_eval": 10**9, "history_size": memory, "tolerance_grad": 0.0, "tolerance_change": 0.0, "line_search_fn": "strong_wolfe"}
        optimizer = torch.optim.LBFGS(parameters, **options)
        last = [float("nan")]

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self._problem.loss()
            loss.backward()
            self._evaluations += 1
            last[0] = loss.item()
            return loss

        def step() -> tuple[float, bool]:
            optimizer.step(closure)
            return last[0], False

        return step


def _curvature(run: Run, parameters: list[Tensor]) -> Curvature:
    rule: MemberRule = FixedMember(0.0) if run.method == "lbfgs-basis" else self_scaled_broyden
    if run.method == "ssbroyden":
        return Broyden(rule, initial="auto")
    if run.method == "lbfgs":
        return LimitedBFGS(memory=run.memory or 10, initial="auto")
    if run.method == "layer-blocks":
        layers = [weight.numel() + bias.numel() for weight, bias in zip(parameters[::2], parameters[1::2], strict=True)]
        return LayerBlocks(layers, memory=run.memory or 1)
    return LimitedBroyden(rule, initial="auto", memory=run.memory or 8)


def _forgetting(method: str) -> contextlib.AbstractContextManager[object]:
    if method == "lssbroyden-oldest":
        return mock.patch.object(SubspaceInverse, "forget_half", _forget_oldest)
    return contextlib.nullcontext()


def _forget_oldest(inverse: SubspaceInverse) -> bool:
    """Keep the newest half of the rows, which Gram and Schmidt have ordered by age, and the part of ``A`` that belongs to them."""
    basis, seen = inverse._basis, inverse._seen
    assert seen is not None
    used, keep = basis.used, basis.capacity // 2
    A = inverse._matrix.dense()[:used, :used]
    coordinates = seen.coordinates[:used]
    rest = torch.linalg.vector_norm(coordinates[:-keep])
    rotation = torch.eye(used, dtype=torch.float64)[-keep:]
    oldest = torch.zeros(1, used, dtype=torch.float64)
    oldest[0, :-keep] = coordinates[:-keep] / rest
    matrix = torch.zeros(basis.capacity, basis.capacity, dtype=torch.float64)
    matrix.diagonal().fill_(inverse._scale)
    matrix[:keep, :keep] = A[-keep:, -keep:]
    basis.rotate(torch.cat((rotation, oldest)))
    restarted = DeferredSymmetric(torch.full((basis.capacity,), inverse._scale, dtype=torch.float64))
    restarted._matrix = matrix
    inverse._matrix = restarted
    coordinates = basis.padded(torch.cat((coordinates[-keep:], rest.unsqueeze(0))))
    inverse.remember(SeenGradient(seen.gradient, coordinates, restarted.times(coordinates)))
    return True


if __name__ == "__main__":
    main()
