"""One accepted update with the next direction, against one ``torch.mv`` on a matrix of the same size and against the updates of SciPy and pytorch-minimize."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import milliseconds, one_thread, ratios, save, side_by_side
from secant.curvature.broyden import Broyden
from secant.curvature.scaling import self_scaled_broyden
from secant.curvature.symmetric import FullKernel, TriangleKernel
from secant.objective import Objective
from secant.step import Outcome, Point, Step

SIZES = (1000, 3000, 10000)
ROUNDS = 7
_NO_LOSS = torch.zeros(())


def main() -> None:
    one_thread()
    rows = [_against_mv(n) for n in SIZES]
    rows.append(_against_dense_updates(3000))
    save(
        "update_and_product",
        rows,
        rounds=ROUNDS,
        dtype="float64",
        note="milliseconds per iteration, median of the rounds; ratios are medians of ratios per round",
    )


def _against_mv(n: int) -> dict[str, object]:
    matrix, v = torch.randn(n, n, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
    repeats = max(32, 32 * round(2e9 / n**2 / 32 / 16))
    works = {"torch.mv": (lambda: torch.mv(matrix, v), repeats)}
    for name, kernel in (("secant, symv", TriangleKernel()), ("secant, plain torch", FullKernel())):
        works[name] = (_updates(n, kernel), repeats)
    times = side_by_side(works, ROUNDS)
    print(n, ratios(times, "torch.mv"), flush=True)
    return {"n": n, "milliseconds": {k: statistics.median(t) for k, t in times.items()}, "ratio_to_mv": ratios(times, "torch.mv")}


def _updates(n: int, kernel: TriangleKernel | FullKernel) -> Callable[[], object]:
    """A call that does one SSBroyden update and gives the next direction, on an endless run over a quadratic."""
    parameter = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    objective = Objective([{"params": [parameter], "lr": 1.0, "weight_decay": 0.0}])
    curvature = Broyden(self_scaled_broyden, initial=1.0, kernel=kernel)
    steps = _walk(n, curvature)
    first = next(steps)
    curvature.update(objective, first.start, None)
    curvature.solve(first.start.grad)

    def once() -> None:
        step = next(steps)
        curvature.update(objective, step.kept, step)
        curvature.solve(step.kept.grad)

    for _ in range(40):  # past the first fold: from here on the matrix is dense
        once()
    return once


def _walk(n: int, curvature: Broyden) -> Iterator[Step]:
    """Half steps along ``-H g`` on a diagonal quadratic, from a new random point every so often, so that it never ends."""
    diagonal = torch.logspace(-2, 2, n, dtype=torch.float64)
    x = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = _point(x, diagonal)
    yield Step(start, None, start, Outcome.FIXED)
    for count in itertools.count(1):
        trial = _point(start.x - 0.5 * curvature.solve(start.grad), diagonal)
        yield Step(start, trial, trial, Outcome.FIXED)
        start = trial
        if count % 30 == 0:
            start = _point(torch.randn_like(x), diagonal)
            curvature.solve(start.grad)


def _point(x: Tensor, diagonal: Tensor) -> Point:
    return Point(x, 0.0, diagonal * x, 1.0, _NO_LOSS)


def _against_dense_updates(n: int) -> dict[str, object]:
    """The updates that multiply n x n matrices, as SciPy's and pytorch-minimize's BFGS do."""
    from torchmin.bfgs import BFGS

    ours = _updates(n, TriangleKernel())
    rng = np.random.default_rng(0)
    s = rng.standard_normal(n)
    y = s + 0.1 * rng.standard_normal(n)
    gradient, identity, inverse = rng.standard_normal(n), np.eye(n), np.eye(n)
    peer = BFGS(torch.from_numpy(s))
    s_t, y_t, g_t = torch.from_numpy(s), torch.from_numpy(y), torch.from_numpy(gradient)

    def scipy_update() -> None:  # the lines of scipy.optimize._optimize._minimize_bfgs (SciPy 1.17)
        rho = 1.0 / np.dot(y, s)
        a1 = identity - s[:, np.newaxis] * y[np.newaxis, :] * rho
        a2 = identity - y[:, np.newaxis] * s[np.newaxis, :] * rho
        updated = np.dot(a1, np.dot(inverse, a2)) + (rho * s[:, np.newaxis] * s[np.newaxis, :])
        -np.dot(updated, gradient)

    def torchmin_update() -> None:
        peer.update(s_t, y_t)
        peer.solve(g_t)

    times: dict[str, list[float]] = {"secant": [], "scipy BFGS": [], "pytorch-minimize BFGS": []}
    for _ in range(3):
        times["secant"].append(milliseconds(ours, 64))
        times["scipy BFGS"].append(milliseconds(scipy_update, 1))
        times["pytorch-minimize BFGS"].append(milliseconds(torchmin_update, 1))
    print(n, ratios(times, "secant"), flush=True)
    return {"n": n, "milliseconds": {k: statistics.median(t) for k, t in times.items()}, "ratio_to_secant": ratios(times, "secant")}


if __name__ == "__main__":
    main()
