"""Which derivatives a jet carries, and the rules by which they multiply and pass through functions."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

MultiIndex = tuple[int, ...]
"""The axes of a derivative, sorted: ``()`` the value, ``(1,)`` the first derivative by coordinate 1, ``(0, 1)`` a mixed second one."""

LAPLACIAN: MultiIndex = (-1,)
"""The channel of the sum of the second derivatives by all coordinates."""

HIGHEST_ORDER = 4


@final
@dataclass(frozen=True, slots=True)
class Combination:
    """A weighted sum of derivatives; those of first and second order fit into one channel together.

    Args:
        terms: Multi-indices, each once, with their weights.
    """

    terms: tuple[tuple[MultiIndex, float], ...]


Index = MultiIndex | Combination
"""What a channel may hold."""


@final
@dataclass(frozen=True, slots=True)
class ChainTerm:
    """One term ``weight * f^(order)(z_0) * product of the channels`` of the chain rule, each channel with its power."""

    order: int
    weight: float
    powers: tuple[tuple[int, int], ...]


@final
@dataclass(frozen=True, slots=True)
class Algebra:
    """The truncated algebra of derivatives with the given multi-indices; its tables name channels by their positions in ``indices``.

    Args:
        indices: The value ``()`` first; with every multi-index also those that it contains, with the Laplacian all first derivatives, and with a combination
            those of its second derivatives.
        dimensions: Number of coordinates.

    Source:
        Leibniz's and Faa di Bruno's rules for partial derivatives as sums over subsets and partitions of the variables; Hardy (2006), Electronic Journal of
        Combinatorics 13, R1. The Laplacian in one channel is the "forward Laplacian" of Li et al. (2024), Nature Machine Intelligence 6, 209.
    """

    indices: tuple[Index, ...]
    dimensions: int
    order: int = field(init=False)
    products: tuple[tuple[tuple[float, int, int], ...], ...] = field(init=False, repr=False)
    """Per channel the terms ``(weight, channel of the left factor, channel of the right factor)`` of Leibniz's rule."""
    chains: tuple[tuple[ChainTerm, ...], ...] = field(init=False, repr=False)
    """Per channel the terms of Faa di Bruno's rule with ``order >= 2``. The term of order 1, ``f' z_channel``, is common to all channels but the value."""

    def __post_init__(self) -> None:
        place = {index: position for position, index in enumerate(self.indices)}
        axes = range(self.dimensions)
        object.__setattr__(self, "order", max(order_of(index) for index in self.indices))
        object.__setattr__(self, "products", tuple(tuple(_product_terms(index, place, axes)) for index in self.indices))
        object.__setattr__(self, "chains", tuple(tuple(_chain_terms(index, place, axes)) for index in self.indices))

    def position(self, index: Index) -> int:
        """The channel of a derivative."""
        return self.indices.index(index)


@functools.lru_cache(maxsize=256)
def algebra_of(requested: frozenset[Index], dimensions: int) -> Algebra:
    """The smallest algebra that holds the requested derivatives.

    The Laplacian and combinations have their own channel only when not all of their terms are asked for anyway.
    """
    indices: set[Index] = {()}
    sums = [index for index in requested if isinstance(index, Combination) or index == LAPLACIAN]
    single = [index for index in requested if isinstance(index, tuple) and index != LAPLACIAN]
    high = [term for index in sums if order_of(index) > 2 for term, _ in terms_of(index, dimensions)]
    for term in (*single, *high):
        indices.update(subset for size in range(len(term) + 1) for subset in itertools.combinations(term, size))
    own = [index for index in sums if not all(term in indices for term, _ in terms_of(index, dimensions))]
    for index in own:
        terms = terms_of(index, dimensions)
        indices.update((axis,) for term, _ in terms if len(term) == 2 for axis in term)
        indices.add(terms[0][0] if len(terms) == 1 else index)
    return Algebra(tuple(sorted(indices, key=_place)), dimensions)


def terms_of(index: Index, dimensions: int) -> tuple[tuple[MultiIndex, float], ...]:
    """The derivatives that a channel sums, with their weights."""
    if isinstance(index, Combination):
        return index.terms
    return tuple(((axis, axis), 1) for axis in range(dimensions)) if index == LAPLACIAN else ((index, 1),)


def order_of(index: Index) -> int:
    """The highest order among the derivatives of a channel."""
    if isinstance(index, Combination):
        return max(len(term) for term, _ in index.terms)
    return 2 if index == LAPLACIAN else len(index)


def _place(index: Index) -> tuple[int, bool, tuple[object, ...]]:
    return order_of(index), isinstance(index, Combination), index.terms if isinstance(index, Combination) else index


def _pairs(index: Index, place: Mapping[Index, int], axes: range) -> list[tuple[float, int, int]]:
    """The second derivatives of a sum: weights and the channels of the two first derivatives."""
    return [(weight, place[term[0],], place[term[1],]) for term, weight in terms_of(index, len(axes)) if len(term) == 2]


def _product_terms(index: Index, place: Mapping[Index, int], axes: range) -> Iterator[tuple[float, int, int]]:
    if isinstance(index, Combination) or index == LAPLACIAN:
        yield from ((1, 0, place[index]), (1, place[index], 0))
        for weight, i, j in _pairs(index, place, axes):
            yield from ((2 * weight, i, i),) if i == j else ((weight, i, j), (weight, j, i))
        return
    slots = range(len(index))
    splits: Counter[tuple[MultiIndex, MultiIndex]] = Counter()
    for chosen in itertools.chain.from_iterable(itertools.combinations(slots, size) for size in range(len(index) + 1)):
        splits[tuple(index[slot] for slot in chosen), tuple(index[slot] for slot in slots if slot not in chosen)] += 1
    yield from ((weight, place[left], place[right]) for (left, right), weight in splits.items())


def _chain_terms(index: Index, place: Mapping[Index, int], axes: range) -> Iterator[ChainTerm]:
    if isinstance(index, Combination) or index == LAPLACIAN:
        yield from (ChainTerm(2, weight, tuple(sorted(Counter((i, j)).items()))) for weight, i, j in _pairs(index, place, axes))
        return
    terms: Counter[tuple[int, ...]] = Counter()
    for blocks in _partitions(tuple(range(len(index)))):
        if len(blocks) > 1:
            terms[tuple(sorted(place[tuple(index[slot] for slot in block)] for block in blocks))] += 1
    yield from (ChainTerm(len(channels), weight, tuple(sorted(Counter(channels).items()))) for channels, weight in terms.items())


def _partitions(slots: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """All partitions of the slots into blocks, each block in the slots' order."""
    if not slots:
        yield ()
        return
    first, rest = slots[0], slots[1:]
    for size in range(len(rest) + 1):
        for others in itertools.combinations(rest, size):
            left = tuple(slot for slot in rest if slot not in others)
            yield from (((first, *others), *blocks) for blocks in _partitions(left))
