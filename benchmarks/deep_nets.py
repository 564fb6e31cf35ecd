"""What clipping and accumulation are for: two nets of 20 layers whose gradients vanish or explode, each technique off and on, in one folder per net.

The records and the page, which says whether the first layer learned and in how many steps, are what ``secant race`` writes.
"""

from __future__ import annotations

from benchmarks.record import RESULTS, one_thread
from secant.cli import main as secant_command

PROBLEMS = ("deep-sigmoid", "deep-exploding")
METHODS = "rank-one-kron,adamw,muon,sgd-momentum,rmsprop"
TECHNIQUES: tuple[tuple[str, ...], ...] = ((), ("--clip-norm", "1"), ("--accumulate", "4"), ("--clip-norm", "1", "--accumulate", "4"))


def main() -> None:
    one_thread()
    for problem in PROBLEMS:
        folder = RESULTS / problem
        (folder / "runs.jsonl").unlink(missing_ok=True)
        for number, techniques in enumerate(TECHNIQUES):
            words = ["race", problem, "--methods", METHODS, "--lr", "0.003", "--seeds", "0", *techniques, "--out", str(folder)]
            secant_command(words if number == 0 else [*words, "--resume"])


if __name__ == "__main__":
    main()
