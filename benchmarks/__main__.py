"""Run every benchmark, shortest first: ``python -m benchmarks`` or ``python -m benchmarks nets``."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "rounding_floor",
    "outcomes",
    "subproblem",
    "whole_step",
    "update_and_product",
    "initial_scale",
    "saddles",
    "limited_memory",
    "estimators",
    "operators",
    "predictions",
    "nets",
    "deep_nets",
    "mini_batch",
    "mini_batch_ablation",
    "fine_tuning",
    "cutest",
    "limited_broyden",
    "curve_fit",
    "derivatives",
    "poisson_engd",
    "burgers_rad",
    "table",
)


def main() -> int:
    wanted = sys.argv[1:] or list(NAMES)
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"Expected benchmarks among {', '.join(NAMES)}, got {', '.join(unknown)}.", file=sys.stderr)
        return 2
    for name in wanted:  # a process each: thread limits and a peer's settings must not leak into the next
        code = subprocess.call([sys.executable, "-m", f"benchmarks.{name}"])
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
