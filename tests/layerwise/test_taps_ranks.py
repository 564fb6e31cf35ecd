from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from .tapped import OPTIMIZERS, dense_net, flat, random

pytestmark = pytest.mark.slow

METHODS = sorted(OPTIMIZERS)
STEPS, POISONED = 6, 3


def run(method: str, inputs: Tensor, *, rank: int = 0, is_joint: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
    """Six steps of two micro-batches on every second sample, or on all; the fourth batch of rank 1 is not finite."""
    model = dense_net()
    group = None if is_joint else dist.group.WORLD
    trained = model if is_joint else DistributedDataParallel(model)
    optimizer = OPTIMIZERS[method](model, process_group=group)
    for step in range(STEPS):
        optimizer.zero_grad()
        batch = inputs[step].clone()
        if step == POISONED:
            batch[1] = float("nan")
        for part in (batch if is_joint else batch[rank::2]).chunk(2):
            (trained(part).square().mean() / 2).backward()
        optimizer.step()
    return flat(model), optimizer.skipped_steps, optimizer.state_dict()["secant"]["preconditioner"]["curvatures"]


def run_rank(rank: int, folder: str) -> None:
    """One of two processes; what it found goes to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save({method: run(method, random(STEPS, 8, 6), rank=rank, is_joint=False) for method in METHODS}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_with_half_the_batch_equal_one_with_all_and_each_other(two_ranks: list[dict[str, Any]], method: str) -> None:
    (first, skipped, curvatures), (second, other_skipped, _) = (ranks[method] for ranks in two_ranks)
    expected, expected_skipped, expected_curvatures = run(method, random(STEPS, 8, 6))
    assert torch.equal(first, second)
    assert skipped == other_skipped == expected_skipped == 1
    torch.testing.assert_close(first, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(curvatures, expected_curvatures, rtol=1e-9, atol=1e-12)
