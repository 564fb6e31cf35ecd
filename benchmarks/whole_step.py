"""Whole iterations on a cheap objective, against SSBroyden of ssbroyden-optimistix (JAX), compilation outside the clock."""

from __future__ import annotations

import statistics
import time

import torch

import secant
from benchmarks.record import one_thread, save

ITERATIONS = 60
ROUNDS = 5


def main() -> None:
    one_thread()
    rows = []
    for n in (1000, 3000):
        peer = _peer(n)
        ours_times, peer_times = [], []
        for _ in range(ROUNDS):
            ours_times.append(_ours(n))
            peer_times.append(peer())
        ratio = statistics.median(p / o for p, o in zip(peer_times, ours_times, strict=True))
        rows.append(
            {
                "n": n,
                "secant_milliseconds_per_iteration": statistics.median(ours_times),
                "optimistix_milliseconds_per_iteration": statistics.median(peer_times),
                "ratio": ratio,
            }
        )
        print(rows[-1], flush=True)
    save("whole_step", rows, iterations=ITERATIONS, rounds=ROUNDS, objective="sum of a_i x_i^2 / 2 + x_i^4 / 4, a from 1 to 1e4, float64", method="SSBroyden")


def _ours(n: int) -> float:
    scale = torch.logspace(0, 4, n, dtype=torch.float64)
    x = torch.ones(n, dtype=torch.float64, requires_grad=True)
    optimizer = secant.SSBroyden([x])

    def closure() -> torch.Tensor:
        return (0.5 * scale * x**2 + 0.25 * x**4).sum()

    optimizer.step(closure)
    began = time.perf_counter()
    for _ in range(ITERATIONS):
        optimizer.step(closure)
    seconds = time.perf_counter() - began
    assert optimizer.outcome is not None
    assert optimizer.outcome.is_accepted
    return seconds / ITERATIONS * 1e3


def _peer(n: int):
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
        solution = optimistix.minimise(fun, solver, x0, max_steps=ITERATIONS, throw=False)
        return solution.value, solution.stats["num_steps"]

    start = jnp.ones(n)
    jax.block_until_ready(run(start))

    def timed() -> float:
        began = time.perf_counter()
        _, steps = jax.block_until_ready(run(start))
        return (time.perf_counter() - began) / int(steps) * 1e3

    return timed


if __name__ == "__main__":
    main()
