from __future__ import annotations

import itertools
from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secant.derivatives.algebra import LAPLACIAN, Algebra, algebra_of
from secant.derivatives.kernels import Scalar, chain, product
from secant.derivatives.scalar import SMOOTH

multi_indices = st.lists(st.integers(0, 2), max_size=4).map(lambda axes: tuple(sorted(axes)))
requests = st.frozensets(st.one_of(multi_indices, st.just(LAPLACIAN)), min_size=1, max_size=4)


def random_jet(algebra: Algebra, seed: int) -> torch.Tensor:
    return torch.randn(len(algebra.indices), 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(requests)
def test_with_every_derivative_come_those_that_it_contains(requested: frozenset[tuple[int, ...]]) -> None:
    indices = algebra_of(requested, 3).indices
    assert indices[0] == ()
    assert len(set(indices)) == len(indices)
    for index in set(indices) - {LAPLACIAN}:
        assert all(part in indices for size in range(len(index)) for part in itertools.combinations(index, size))
    assert requested - {LAPLACIAN} <= set(indices)


@settings(deadline=None)
@given(requests)
def test_products_commute_and_associate(requested: frozenset[tuple[int, ...]]) -> None:
    algebra = algebra_of(requested, 3)
    a, b, c = (random_jet(algebra, seed) for seed in range(3))
    torch.testing.assert_close(product(a, b, algebra), product(b, a, algebra))
    torch.testing.assert_close(product(product(a, b, algebra), c, algebra), product(a, product(b, c, algebra), algebra), rtol=1e-11, atol=1e-11)


@settings(deadline=None)
@given(requests.filter(lambda requested: requested != {()}))
def test_the_chain_rule_of_a_power_is_repeated_multiplication(requested: frozenset[tuple[int, ...]]) -> None:
    algebra = algebra_of(requested, 3)
    z = random_jet(algebra, 0)
    power = Scalar(partial(torch.pow, exponent=3), partial(SMOOTH["pow"], exponent=3))
    torch.testing.assert_close(chain(z, power, algebra), product(z, product(z, z, algebra), algebra), rtol=1e-11, atol=1e-11)


def test_the_fourth_mixed_derivative_has_the_fifteen_terms_of_the_partitions_of_four() -> None:
    algebra = algebra_of(frozenset({(0, 1, 2, 3)}), 4)
    assert sum(term.weight for term in algebra.chains[-1]) + 1 == 15
    assert sum(weight for weight, _, _ in algebra.products[-1]) == 2**4
