"""The physics-informed nets: every method against every peer on one compiled closure, by the race itself.

The records of the race (``runs.jsonl``) and its report are what ``secant race`` wrote; ``nets.json`` holds the ratios drawn from them.
"""

from __future__ import annotations

import statistics
import sys

from benchmarks.record import RESULTS, save
from secant.cli import main as secant_command
from secant.race.ledger import read_records
from secant.race.standings import Standing, standings

METHODS = (
    "ssbroyden,ssbfgs,bfgs,sr1,torch-lbfgs,scipy-bfgs,scipy-lbfgsb,adam,torchmin-bfgs,torchzero-bfgs,torchzero-ssvm,ssbroyden-optimistix"  # all but the slowest
)
SECONDS = {"burgers": 30, "poisson-2d": 15}
SEEDS = "0,1,2"


def main() -> None:
    rows = []
    for problem, seconds in SECONDS.items():
        folder = RESULTS / problem
        words = ["race", problem, "--compile", "--methods", METHODS, "--seconds", str(seconds), "--seeds", SEEDS, "--out", str(folder)]
        if "--resume" in sys.argv:
            words.append("--resume")
        else:  # old records are another version's or another machine's
            (folder / "runs.jsonl").unlink(missing_ok=True)
        if secant_command(words) != 0:
            raise SystemExit(f"The race on {problem} failed; its records are in {folder.name}.")
        ranked = {standing.method: standing for standing in standings(read_records(folder / "runs.jsonl"))}
        rows.append({"problem": problem, "seconds": seconds, "methods": {name: _row(standing, ranked["torch-lbfgs"]) for name, standing in ranked.items()}})
    save("nets", rows, seeds=SEEDS, clock="process CPU seconds of one thread, compilation outside")


def _row(standing: Standing, lbfgs: Standing) -> dict[str, float | str]:
    return {
        "error_median": standing.score.median,
        "error_lowest": standing.score.lowest,
        "error_highest": standing.score.highest,
        "times_smaller_than_torch_lbfgs": lbfgs.score.median / standing.score.median,
        "times_smaller_than_torch_lbfgs_per_seed": [b.error / a.error for a, b in zip(standing.runs, lbfgs.runs, strict=True) if a.error and b.error],
        "evaluations": standing.evaluations,
        "evaluations_per_iteration": statistics.median(run.evaluations / max(run.steps, 1) for run in standing.runs),
        "variant": standing.variant,
    }


if __name__ == "__main__":
    main()
