"""Whole iterations on a cheap objective, against SSBroyden of ssbroyden-optimistix (JAX), compilation outside the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

import secant
from benchmarks.record import one_thread, save

EVALUATIONS = 100
ROUNDS = 5


def main() -> None:
    one_thread()
    rows = []
    for n in (1000, 3000):
        peer = _peer(n)
        pairs = [(_ours(n), peer()) for _ in range(ROUNDS)]
        row: dict[str, object] = {"n": n, "secant": pairs[0][0], "optimistix": pairs[0][1]}
        for unit in ("iterations", "evaluations"):
            row[f"ratio_per_{unit[:-1]}"] = statistics.median((p["milliseconds"] / p[unit]) / (o["milliseconds"] / o[unit]) for o, p in pairs)
        rows.append(row)
        print(rows[-1], flush=True)
    objective = "sum of a_i x_i^2 / 2 + x_i^4 / 4, a from 1 to 1e4, float64"
    save("whole_step", rows, rounds=ROUNDS, objective=objective, method="SSBroyden", note="the first of the rounds is shown, ratios are medians over them")


def _ours(n: int) -> dict[str, float]:
    scale = torch.logspace(0, 4, n, dtype=torch.float64)
    x = torch.ones(n, dtype=torch.float64, requires_grad=True)
    optimizer = secant.SSBroyden([x])

    def closure() -> torch.Tensor:
        return (0.5 * scale * x**2 + 0.25 * x**4).sum()

    began = time.perf_counter()
    while optimizer.counts.losses < EVALUATIONS:
        optimizer.step(closure)
    milliseconds = (time.perf_counter() - began) * 1e3
    return {"evaluations": optimizer.counts.losses, "iterations": optimizer.iteration, "milliseconds": milliseconds}


def _peer(n: int) -> Callable[[], dict[str, float]]:
    import jax
    import jax.numpy as jnp
    import optimistix
    import ssbroyden_optimistix

    scale = jnp.logspace(0, 4, n)
    solver = ssbroyden_optimistix.SSBroyden(rtol=0.0, atol=0.0)

    def fun(x, args):
        return (0.5 * scale * x**2 + 0.25 * x**4).sum()

    @jax.jit
    def run(x0):
        solution = optimistix.minimise(fun, solver, x0, max_steps=EVALUATIONS, throw=False)
        return solution.value, solution.stats["num_steps"], solution.state.num_accepted_steps

    start = jnp.ones(n)
    jax.block_until_ready(run(start))

    def timed() -> dict[str, float]:
        began = time.perf_counter()
        _, evaluations, accepted = jax.block_until_ready(run(start))
        milliseconds = (time.perf_counter() - began) * 1e3
        return {"evaluations": int(evaluations), "iterations": int(accepted), "milliseconds": milliseconds}

    return timed


if __name__ == "__main__":
    main()
