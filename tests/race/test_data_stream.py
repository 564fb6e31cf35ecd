from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from secant.race.data_stream import DataStream

sizes = st.integers(1, 40)


@given(samples=sizes, batch=sizes, count=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_some_batches_are_the_same_samples_as_one_batch_of_their_total_size(samples: int, batch: int, count: int, seed: int) -> None:
    batch = min(batch, samples)
    small, large = DataStream(samples, seed), DataStream(samples, seed)
    for _ in range(3):
        assert torch.equal(torch.cat([small.take(batch) for _ in range(count)]), large.take(batch * count))


@given(samples=sizes, batch=sizes, epochs=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_every_sample_comes_once_in_each_epoch(samples: int, batch: int, epochs: int, seed: int) -> None:
    stream, taken = DataStream(samples, seed), torch.empty(0, dtype=torch.long)
    while len(taken) < epochs * samples:
        indices = stream.take(batch)
        assert indices.shape == (batch,)
        taken = torch.cat([taken, indices])
    for epoch in taken[: epochs * samples].view(epochs, samples):
        assert torch.equal(epoch.sort().values, torch.arange(samples))


def test_the_order_belongs_to_the_seed_and_leaves_the_global_one_alone() -> None:
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    assert torch.equal(DataStream(50, 1).take(70), DataStream(50, 1).take(70))
    assert not torch.equal(DataStream(50, 1).take(50), DataStream(50, 2).take(50))
    assert torch.equal(torch.random.get_rng_state(), state)
