from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secant.layerwise.signs import key_of, random_signs


def signs(
    samples: int, positions: int = 1, columns: int = 1, *, seed: int = 0, step: int = 0, first: int = 0, call: int = 0, rank: int = 0, ranks: int = 1
) -> Tensor:
    key, before = torch.tensor(key_of(seed, step)), torch.tensor(first)
    return random_signs(key, before, samples=samples, positions=positions, columns=columns, call=call, rank=rank, ranks=ranks, dtype=torch.float64)


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 32), st.integers(0, 2**63), st.data())
def test_signs_depend_on_the_place_in_the_joint_batch_alone(samples: int, positions: int, columns: int, seed: int, data: st.DataObject) -> None:
    whole = signs(samples, positions, columns, seed=seed)
    assert torch.equal(whole.abs(), torch.ones(samples, columns, positions, dtype=torch.float64))
    cut = data.draw(st.integers(0, samples))
    parts = [signs(cut, positions, columns, seed=seed), signs(samples - cut, positions, columns, seed=seed, first=cut)]
    assert torch.equal(torch.cat(parts), whole)
    ranks = data.draw(st.integers(1, 4))
    for rank in range(ranks):
        mine = whole[rank::ranks]
        assert torch.equal(signs(len(mine), positions, columns, seed=seed, rank=rank, ranks=ranks), mine)


def test_signs_of_different_places_look_independent() -> None:
    """Every pair of 384 sign sequences of length 1,024, from neighboring samples, positions, columns, calls, steps and seeds: products sum to N(0, 1024).

    73,536 pairs: the largest of so many normal numbers is above 6 with a chance of 2e-4. Each sequence sums to N(0, 1024), too.
    """
    neighbors = [signs(8, 4, 2, step=step, call=call, seed=seed).flatten() for step in range(1024) for call in (0, 1) for seed in (0, 1)]
    sequences = torch.stack(neighbors).view(1024, -1).T
    columns = torch.stack([signs(1024, 1, 32, step=step).squeeze(2).T for step in (0, 1)]).flatten(0, 1)
    positions = torch.stack([signs(1, 1024, 32, step=step)[0] for step in (0, 1)]).flatten(0, 1)
    together = torch.cat([sequences, columns, positions])
    scores = together @ together.T / 32.0
    scores.fill_diagonal_(0.0)
    assert len(together) == 384
    assert float(scores.abs().max()) < 6.0
    assert float(together.sum(1).abs().max()) < 6.0 * 32.0
    assert abs(float(scores.square().sum()) / (384 * 383) - 1.0) < 0.03


def test_no_generator_is_touched() -> None:
    before = torch.get_rng_state()
    signs(5, 3, 2)
    assert torch.equal(torch.get_rng_state(), before)
