"""RankOneKron in the Hugging Face Trainer: full and LoRA fine-tuning of models built from a config, nothing downloaded."""

from __future__ import annotations

import itertools
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging as transformers_logging

from secant import RankOneKron

ROOT = Path(__file__).parents[1]
CODES = torch.randint(24, (60, 2), generator=torch.Generator().manual_seed(0)).repeat(
    1, 8
)  # each row repeats its pair of characters: half of it can be learned
DATA = [{"input_ids": row, "labels": row} for row in CODES]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    yield
    transformers_logging.enable_progress_bar()
    transformers_logging.set_verbosity(before)


def small_model(*, dropout: float = 0.1) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 24, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(**shape, **drops, bos_token_id=0, eos_token_id=0, use_cache=False))


def adapted(model: nn.Module, *, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        return get_peft_model(model, config)


def model_of(kind: str, *, dropout: float = 0.1) -> nn.Module:
    return small_model(dropout=dropout) if kind == "full" else adapted(small_model(dropout=dropout), dropout=dropout)


def trainer_of(model: nn.Module, folder: Path, *, optimizer: RankOneKron | None = None, **changed: Any) -> Trainer:
    arguments: dict[str, Any] = {
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "activation_checkpointing": True,
        "bf16": True,
        "use_cpu": True,
        "data_seed": 0,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    optimizer = optimizer or RankOneKron(model, lr=0.02, weight_decay=0.01)
    trainer = Trainer(model, TrainingArguments(str(folder), **(arguments | changed)), train_dataset=DATA, optimizers=(optimizer, None))
    trainer.remove_callback(PrinterCallback)
    return trainer


@torch.no_grad()
def loss_of(model: nn.Module) -> float:
    model.eval()
    return float(model(input_ids=CODES, labels=CODES).loss)


def state_of(trainer: Trainer) -> dict[str, Any]:
    return trainer.optimizer.state_dict()  # what Trainer holds is accelerate's wrapper


def tensors_of(state: dict[str, Any]) -> list[Tensor]:
    return [value for index in sorted(state["state"]) for _, value in sorted(state["state"][index].items())]


@pytest.mark.parametrize(("kind", "lr", "gain"), [("full", 0.02, 0.3), ("lora", 0.1, 0.1)])
def test_fine_tuning_in_bf16_with_accumulation_and_recomputed_activations_lowers_the_loss(kind: str, lr: float, gain: float, tmp_path: Path) -> None:
    model = model_of(kind)
    before = loss_of(model)
    assert before == pytest.approx(3.18, abs=0.1)  # log 24: nothing learned
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    trainer = trainer_of(model, tmp_path, max_steps=60, optimizer=RankOneKron(model, lr=lr))
    trainer.train()
    assert loss_of(model) < before - gain  # adapters of a random net can do less
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert trainer.optimizer.optimizer.skipped_steps == 0


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_run_resumed_from_the_trainers_checkpoint_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    whole = trainer_of(model_of(kind), tmp_path / "whole", max_steps=14, save_strategy="steps", save_steps=5)
    whole.train()
    for stop in (5, 10):  # an epoch has eight steps, the last one of a single micro-batch: one checkpoint in each epoch
        resumed = trainer_of(model_of(kind), tmp_path / "resumed", max_steps=14)
        torch.manual_seed(99)  # what was drawn before must not matter
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
        assert resumed.state.global_step == 14
        for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(one, other)
        one_state, other_state = tensors_of(state_of(whole)), tensors_of(state_of(resumed))
        assert len(one_state) > 20
        assert all(torch.equal(one, other) for one, other in zip(one_state, other_state, strict=True))


def test_a_run_resumed_without_the_optimizers_state_ends_elsewhere(tmp_path: Path) -> None:
    whole = trainer_of(small_model(), tmp_path / "whole", max_steps=8, save_strategy="steps", save_steps=4)
    whole.train()
    (tmp_path / "whole" / "checkpoint-4" / "optimizer.pt").unlink()
    resumed = trainer_of(small_model(), tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert not all(torch.equal(one, other) for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


def test_the_trainers_optimizer_file_loads_as_weights_only_and_holds_everything(tmp_path: Path) -> None:
    trainer = trainer_of(small_model(), tmp_path, save_strategy="steps", save_steps=8)
    trainer.train()
    saved = torch.load(tmp_path / "checkpoint-8" / "optimizer.pt", weights_only=True)
    now = state_of(trainer)
    assert saved["secant"]["skipped_steps"] == 0
    assert torch.equal(saved["secant"]["generator"], now["secant"]["generator"])
    assert all(torch.equal(one, other) for one, other in zip(tensors_of(saved), tensors_of(now), strict=True))


def test_accumulated_micro_batches_take_the_steps_of_the_larger_batch(tmp_path: Path) -> None:
    models = [small_model(dropout=0.0).double() for _ in range(2)]
    for model, batch, parts in zip(models, (4, 8), (2, 1), strict=True):
        trainer_of(model, tmp_path, bf16=False, per_device_train_batch_size=batch, gradient_accumulation_steps=parts, max_steps=5).train()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        # sums in another order; five steps of whitening magnify them
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_recomputed_activations_change_nothing(tmp_path: Path) -> None:
    models = [small_model() for _ in range(2)]
    for model, recomputes in zip(models, (True, False), strict=True):
        trainer_of(model, tmp_path, activation_checkpointing=recomputes, max_steps=5).train()
    assert all(torch.equal(one, other) for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_tied_embeddings_are_one_parameter_trained_as_an_embedding_and_stay_tied(tmp_path: Path) -> None:
    model = small_model()
    before = model.lm_head.weight.detach().clone()
    trainer = trainer_of(model, tmp_path)
    trainer.train()
    assert model.lm_head.weight is model.transformer.wte.weight
    assert not torch.equal(model.lm_head.weight, before)
    routes = {route.name: route for route in trainer.optimizer.optimizer.routing()}
    assert "lm_head.weight" not in routes
    assert routes["transformer.wte.weight"].reason == "embedding"
    # the output layer is the embedding, so that no matrix of a block counts as the last layer
    assert {name.split(".", 3)[-1] for name, route in routes.items() if route.rule.value == "kron"} == {
        "attn.c_attn.weight",
        "attn.c_proj.weight",
        "mlp.c_fc.weight",
        "mlp.c_proj.weight",
    }


def test_every_adapter_matrix_is_whitened_and_frozen_matrices_have_no_state(tmp_path: Path) -> None:
    model = adapted(small_model())
    trainer = trainer_of(model, tmp_path)
    trainer.train()
    optimizer = trainer.optimizer.optimizer
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 16
    assert all("lora_A" in name or "lora_B" in name for name in trained)
    assert {route.rule.value for route in optimizer.routing() if route.name in trained} == {"kron"}
    assert all(bool(optimizer.state[p]) == p.requires_grad for p in model.parameters() if p in optimizer.state)
    assert {name for name, p in model.named_parameters() if p in optimizer.state} == trained


@pytest.mark.parametrize("given", ["model", "named parameters"])
def test_no_adapter_counts_as_the_last_layer(given: str) -> None:
    model = adapted(small_model())
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    routes = {route.name: route.rule.value for route in RankOneKron(model if given == "model" else trained).routing()}
    assert {routes[name] for name, _ in trained} == {"kron"}


def test_an_adapter_beside_a_frozen_head_is_whitened_and_a_head_saved_with_the_adapters_is_the_last_layer() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    beside = get_peft_model(network, LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"]))
    routes = {route.name: route for route in RankOneKron(beside).routing()}
    assert routes["base_model.model.2.modules_to_save.default.weight"].reason == "last layer"
    assert routes["base_model.model.0.lora_B.default.weight"].rule.value == "kron"


def test_adapters_whose_first_gradient_is_zero_stay_finite() -> None:
    # lora_B starts at zero, hence the first gradient of lora_A is zero, and so is its first update.
    model = adapted(small_model(dropout=0.0), dropout=0.0)
    optimizer = RankOneKron(model, lr=0.1)
    first = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_A" in name}
    for step in range(10):
        optimizer.zero_grad()
        model(input_ids=CODES, labels=CODES).loss.backward()
        optimizer.step()
        if step == 0:
            assert all(torch.equal(p, first[name]) for name, p in model.named_parameters() if name in first)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert all(not torch.equal(p, first[name]) for name, p in model.named_parameters() if name in first)


def test_layers_thawed_in_the_middle_of_training_are_trained_from_then_on() -> None:
    model = small_model(dropout=0.0)
    thawed = model.transformer.h[0].mlp.c_fc.weight
    thawed.requires_grad_(False)
    optimizer = RankOneKron(model, lr=0.02)
    before = thawed.detach().clone()
    for step in range(6):
        if step == 3:
            assert torch.equal(thawed, before)
            assert thawed not in optimizer.state
            thawed.requires_grad_(True)
        optimizer.zero_grad()
        model(input_ids=CODES, labels=CODES).loss.backward()
        optimizer.step()
    assert not torch.equal(thawed, before)
    assert bool(thawed.isfinite().all())


def test_the_state_is_as_large_as_the_guide_says() -> None:
    """The guide counts two numbers per parameter of AdamW, and one and the kept sides of a whitened matrix."""
    model = small_model()
    optimizer = RankOneKron(model)
    model(input_ids=CODES, labels=CODES).loss.backward()
    optimizer.step()
    counted = sum(value.numel() * value.element_size() for state in optimizer.state.values() for value in state.values())
    namespace: dict[str, Any] = {"math": math}
    lines = (ROOT / "docs" / "fine-tuning.md").read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if "def state_bytes" in line)
    code = itertools.takewhile(lambda line: line.startswith("... "), lines[start + 1 :])
    imports = (line.removeprefix(">>> ") for line in lines if line.startswith(">>> from secant"))
    exec("\n".join([*imports, lines[start].removeprefix(">>> "), *(line.removeprefix("... ") for line in code)]), namespace)
    said = sum(namespace["state_bytes"](route) for route in optimizer.routing())
    # a few vectors and counters are left out there; they weigh in a model as narrow as this one
    assert said <= counted <= 1.03 * said


def test_the_table_of_the_guide_is_that_of_the_committed_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks.fine_tuning import markdown

    record = json.loads((ROOT / "benchmarks" / "results" / "fine_tuning.json").read_text())
    table = (ROOT / "docs" / "fine-tuning.md").read_text().split("<!-- benchmarks: fine-tuning -->\n")[1].split("\n<!-- end -->")[0]
    assert table == markdown(record["rows"])
