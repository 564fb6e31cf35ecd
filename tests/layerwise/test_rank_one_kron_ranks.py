from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from secant.layerwise import RankOneKron

from .kron_runs import flat, net, random

STEPS, POISONED = 8, 3


def run(rank: int | None) -> tuple[Tensor, int, Tensor]:
    """Steps on every second sample, or on all; the fourth batch of rank 1 is not finite."""
    model = net()
    trained = model if rank is None else DistributedDataParallel(model)
    optimizer = RankOneKron(trained, weight_decay=0.1)
    torch.manual_seed(rank or 0)
    for step in range(STEPS):
        optimizer.zero_grad()
        inputs = random(8, 6, seed=step)
        if step == POISONED:
            inputs[1] = float("nan")
        part = inputs if rank is None else inputs[rank::2]
        trained(part).square().mean().backward()
        optimizer.step()
    return flat(model), optimizer.skipped_steps, optimizer.state_dict()["secant"]["generator"]


def run_rank(rank: int, folder: str) -> None:
    """One of two processes; what it found goes to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(run(rank), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_half_the_batch_equal_one_with_all_and_each_other(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run_rank, args=(str(folder),), nprocs=2)
    (first, skipped, generator), (second, *others) = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    expected, expected_skipped, expected_generator = run(None)
    assert torch.equal(first, second)
    assert skipped == others[0] == expected_skipped == 1
    assert torch.equal(generator, others[1])
    assert torch.equal(generator, expected_generator)
    torch.testing.assert_close(first, expected, rtol=1e-10, atol=1e-12)


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_distributed_tensor_is_refused_with_a_remedy(one_process: None) -> None:
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    weight = nn.Parameter(distribute_tensor(random(4, 4), mesh))
    with pytest.raises(TypeError, match=r"got a DTensor\. Use DistributedDataParallel"):
        RankOneKron([("weight", weight)])
