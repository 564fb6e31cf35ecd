from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secant.layerwise.factors import Power, correct, identities, largest_entries, window_kappa

DOUBLE = torch.float64
DEPENDENT, IDENTITY_SHARE = 1e-6, 1e-4

every_power = pytest.mark.parametrize("power", Power)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def start(layers: int, side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return identities(layers, side, torch.empty(0, dtype=dtype))


def gaussian(rank: int, side: int, source: torch.Generator) -> Tensor:
    return torch.randn(1, rank, side, generator=source)


SKETCHES = {
    "gaussian": gaussian,
    "rank one": lambda rank, side, source: torch.randn(1, rank, 1, generator=source) * torch.randn(1, 1, side, generator=source),
    "one direction": lambda rank, side, source: torch.randn(1, rank, 1, generator=source) * torch.ones(1, 1, side),
    "repeated": lambda rank, side, source: gaussian(1, side, source).expand(1, rank, side).clone(),
    "nearly repeated": lambda rank, side, source: gaussian(1, side, source) + 1e-6 * gaussian(rank, side, source),
    "zero column": lambda rank, side, source: gaussian(rank, side, source).index_fill(1, torch.tensor([0]), 0.0),
    "dead units": lambda rank, side, source: gaussian(rank, side, source).index_fill(2, torch.arange(side // 2), 0.0),
    "zero": lambda rank, side, source: torch.zeros(1, rank, side),
    "tiny": lambda rank, side, source: 1e-30 * gaussian(rank, side, source),
    "subnormal": lambda rank, side, source: 1e-42 * gaussian(rank, side, source),
    "huge": lambda rank, side, source: 1e30 * gaussian(rank, side, source),
    "mixed scales": lambda rank, side, source: gaussian(rank, side, source) * torch.logspace(-30, 30, rank)[:, None],
    "mixed rows": lambda rank, side, source: gaussian(rank, side, source) * torch.logspace(-8, 8, side),
    "overflown": lambda rank, side, source: gaussian(rank, side, source) * torch.inf,
}


def check_factor(factor: Tensor) -> None:
    side = factor.shape[-1]
    assert torch.equal(factor, factor.mT)
    assert (torch.linalg.eigvalsh(factor.double()) > 0).all()
    torch.testing.assert_close(factor.diagonal(dim1=-2, dim2=-1).sum(-1), torch.full((len(factor),), float(side)), rtol=1e-5, atol=0.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    kinds=st.lists(st.sampled_from(sorted(SKETCHES)), min_size=1, max_size=6),
    side=st.integers(1, 20),
    rank=st.integers(1, 20),
    kappa=st.floats(1e-3, 0.999),
    power=st.sampled_from(Power),
    seed=st.integers(0, 10_000),
)
def test_any_sequence_of_sketches_leaves_the_factor_positive_definite_and_symmetric_with_its_trace(
    kinds: list[str], side: int, rank: int, kappa: float, power: Power, seed: int
) -> None:
    source, factor = generator(seed), start(1, side)
    for index in range(150):
        correct(factor, SKETCHES[kinds[index % len(kinds)]](min(rank, side), side, source), kappa, power)
        if index % 10 == 0:
            check_factor(factor)
    check_factor(factor)


@every_power
def test_twenty_thousand_corrections_keep_the_factor_positive_definite(power: Power) -> None:
    source, factor = generator(), start(3, 8)
    for _ in range(2_000):
        sketches = torch.cat([SKETCHES[kind](20, 8, source) for kind in ("one direction", "gaussian", "mixed rows")])
        for index in range(10):
            correct(factor, sketches[:, 2 * index : 2 * index + 2], 0.9, power)
    check_factor(factor)


@every_power
@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
def test_the_size_of_a_sketch_does_not_matter_to_the_last_bit(power: Power, scale: float) -> None:
    factor, scaled, source = start(2, 12), start(2, 12), generator()
    for _ in range(20):
        sketch = torch.randn(2, 3, 12, generator=source)
        correct(factor, sketch, 0.5, power)
        correct(scaled, scale * sketch, 0.5, power)
    assert torch.equal(factor, scaled)
    assert not torch.equal(factor, start(2, 12))


@every_power
@pytest.mark.parametrize("kind", ["zero", "overflown"])
def test_a_sketch_without_a_direction_leaves_its_factor_and_corrects_the_others(power: Power, kind: str) -> None:
    source, factor = generator(), start(2, 6)
    correct(factor, torch.randn(2, 2, 6, generator=source), 0.5, power)
    before = factor.clone()
    correct(factor, torch.cat([SKETCHES[kind](2, 6, source), gaussian(2, 6, source)]), 0.5, power)
    assert torch.equal(factor[0], before[0])
    assert not torch.equal(factor[1], before[1])


def woodbury(factor: Tensor, sketch: Tensor, kappa: float, power: Power) -> Tensor:
    """The correction by inverses of whole matrices: of ``P^-1 + V (gram / kappa - V' P V)^-1 V'``, then the share of the identity and the trace."""
    side = len(factor)
    v = (sketch / sketch.abs().max()).T
    exact = v.T @ factor @ v
    gram = exact + DEPENDENT * exact.diagonal().max() * torch.eye(v.shape[1], dtype=DOUBLE)
    shrunk = torch.linalg.inv(torch.linalg.inv(factor) + v @ torch.linalg.inv(gram / kappa - exact) @ v.T) - IDENTITY_SHARE * factor
    if power is Power.WHITEN:
        return shrunk + (side - shrunk.trace()) / side * torch.eye(side, dtype=DOUBLE)
    mixed = shrunk + IDENTITY_SHARE * torch.eye(side, dtype=DOUBLE)
    return mixed * side / mixed.trace()


@every_power
@pytest.mark.parametrize("rank", [1, 3, 9])
def test_a_correction_is_the_inverse_of_a_sum(power: Power, rank: int) -> None:
    source, factor = generator(), start(3, 9, DOUBLE)
    for _ in range(5):
        sketch = torch.randn(3, rank, 9, generator=source, dtype=DOUBLE)
        expected = torch.stack([woodbury(p, v, 0.7, power) for p, v in zip(factor, sketch, strict=True)])
        correct(factor, sketch, 0.7, power)
        torch.testing.assert_close(factor, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("side", "rank", "power", "tolerance"), [(64, 2, Power.WHITEN, 0.06), (64, 2, Power.INVERT, 0.08), (16, 1, Power.WHITEN, 0.06)])
def test_the_factor_settles_at_the_power_of_a_known_covariance(side: int, rank: int, power: Power, tolerance: float) -> None:
    """The mean over many corrections, because a window of 200 leaves one factor with a noise of its own; ``V' P V`` of few columns adds a small bias."""
    source = generator()
    rotation, _ = torch.linalg.qr(torch.randn(side, side, generator=source, dtype=DOUBLE))
    eigenvalues = torch.logspace(0, 2, side, dtype=DOUBLE)
    root = rotation @ torch.diag(eigenvalues.sqrt()) @ rotation.T
    factor, mean = start(1, side, DOUBLE), torch.zeros(1, side, side, dtype=DOUBLE)
    for count in range(1, 4001):
        sketch = torch.randn(1, rank, side, generator=source, dtype=DOUBLE) @ root
        correct(factor, sketch, window_kappa(side, rank, count, 200, 0.9), power)
        mean += factor if count > 1000 else 0.0
    target = rotation @ torch.diag(eigenvalues ** (-power.value / 2)) @ rotation.T
    target *= side / target.trace()
    assert torch.linalg.norm(mean[0] / 3000 - target) < tolerance * torch.linalg.norm(target)


@given(side=st.integers(1, 5000), rank=st.integers(1, 64), window=st.integers(1, 1000), count=st.integers(1, 2000))
def test_a_correction_replaces_one_over_its_number_of_the_trace_until_the_window_is_full(side: int, rank: int, window: int, count: int) -> None:
    kappa = window_kappa(side, rank, count, window, 0.9)
    assert 0.0 < kappa <= 0.9
    share = 1.0 / min(count, window)
    assert kappa * rank / side == pytest.approx(min(share, 0.9 * rank / side))


def test_the_largest_entries_are_those_of_the_maximum_norm() -> None:
    matrices = torch.randn(3, 4, 5, generator=generator())
    matrices[1] = -matrices[1].abs()
    assert torch.equal(largest_entries(matrices), torch.linalg.vector_norm(matrices, ord=torch.inf, dim=(-2, -1), keepdim=True))
