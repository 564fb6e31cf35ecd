"""Fine-tuning at equal steps, in full and by LoRA: RankOneKron against AdamW, each on a grid of learning rates.

The model, the texts and the batch are those of examples/fine_tuning.py. AdamW does the pretraining, as it did for the checkpoints people start from. Linear
schedule, gradients clipped to norm 1 and bfloat16 autocast for all, as in the Trainer; float32 parameters, no weight decay.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR

from benchmarks.record import one_thread, save
from secant import RankOneKron
from secant.problems.text import king_james

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import fine_tuning as example

GUIDE = Path(__file__).parent.parent / "docs" / "fine-tuning.md"
BEGIN, END = "<!-- benchmarks: fine-tuning -->", "<!-- end -->"
SEEDS = (0, 1, 2)
STEPS = 60
PRETRAINING, PRETRAINING_RATE = 160, 3e-3
BATCH = example.MICRO_BATCH * example.ACCUMULATED
RATES: dict[tuple[str, str], tuple[float, ...]] = {
    ("full", "rank-one-kron"): (0.003, 0.01, 0.03, 0.1),
    ("full", "adamw"): (1e-3, 3e-3, 1e-2),
    ("lora", "rank-one-kron"): (0.03, 0.1, 0.3),
    ("lora", "adamw"): (3e-3, 1e-2, 3e-2),
}
OPTIMIZERS: dict[str, Callable[[nn.Module, float], torch.optim.Optimizer]] = {
    "rank-one-kron": lambda model, lr: RankOneKron(model, lr=lr),
    "adamw": lambda model, lr: torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0),
}


def main() -> None:
    one_thread()
    bible, bible_held_out = example.windows(king_james(problem="benchmarks/fine_tuning.py"))
    manual, manual_held_out = example.windows("\n".join(topics[key] for key in sorted(topics)))
    pretrained = []
    for seed in SEEDS:
        model = example.small_gpt2(seed)
        train(model, torch.optim.AdamW(model.parameters(), lr=PRETRAINING_RATE, weight_decay=0.0), bible, PRETRAINING, seed)
        pretrained.append(model)
    before = median(example.mean_loss(model, manual_held_out) for model in pretrained), median(example.mean_loss(m, bible_held_out) for m in pretrained)
    print(f"pretrained: manual {before[0]:.3f}, Bible {before[1]:.3f}", flush=True)
    rows = []
    for (what, method), rates in RATES.items():
        for lr in rates:
            losses = list(tuned(pretrained, what, method, lr, manual, (manual_held_out, bible_held_out)))
            new, old = (sorted(column) for column in zip(*losses, strict=True))
            rows.append({"tuned": what, "method": method, "lr": lr, "loss": new, "loss_median": median(new), "old_text_loss_median": median(old)})
            print(what, method, lr, f"{median(new):.4f} ({new[0]:.4f} to {new[-1]:.4f}), Bible {median(old):.3f}", flush=True)
    settings = {"seeds": SEEDS, "steps": STEPS, "batch": BATCH, "window": example.WINDOW, "pretraining_steps": PRETRAINING, "pretrained_manual_bible": before}
    save("fine_tuning", rows, **settings, note="nats per held-out byte of the manual; old text: the Bible")
    head, rest = GUIDE.read_text().split(f"{BEGIN}\n", 1)
    GUIDE.write_text(f"{head}{BEGIN}\n{markdown(rows)}\n{END}{rest.split(END, 1)[1]}")


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/fine-tuning.md."""
    lines = ["| tuned | optimizer | learning rate: median loss on the manual (on the Bible) |", "| --- | --- | --- |"]
    for (what, method), rates in RATES.items():
        found = {row["lr"]: row for row in rows if (row["tuned"], row["method"]) == (what, method)}
        best = min(found.values(), key=lambda row: row["loss_median"])["lr"]
        cells = [f"{lr:g}: {found[lr]['loss_median']:.3f} ({found[lr]['old_text_loss_median']:.2f})" for lr in rates]
        marked = [f"**{cell}**" if lr == best else cell for lr, cell in zip(rates, cells, strict=True)]
        lines.append(f"| {what} | {method} | {'; '.join(marked)} |")
    return "\n".join(lines)


def tuned(
    pretrained: list[Any], what: str, method: str, lr: float, data: example.Windows, held_out: tuple[example.Windows, ...]
) -> Iterator[tuple[float, ...]]:
    """The losses on the held-out windows after tuning, seed by seed."""
    for seed, start in zip(SEEDS, pretrained, strict=True):
        model = copy.deepcopy(start)
        model = example.with_adapters(model, seed) if what == "lora" else model
        train(model, OPTIMIZERS[method](model, lr), data, STEPS, seed)
        yield tuple(example.mean_loss(model, windows) for windows in held_out)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, data: example.Windows, steps: int, seed: int) -> None:
    """The Trainer's recipe without its machinery."""
    rows: Tensor = torch.stack([window["input_ids"] for window in data])
    schedule = LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=steps)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    model.train()
    torch.manual_seed(seed)  # of dropout
    for step in range(steps):
        batch = rows[order[torch.arange(step * BATCH, (step + 1) * BATCH) % len(rows)]]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


if __name__ == "__main__":
    main()
