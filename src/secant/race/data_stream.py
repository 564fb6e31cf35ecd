"""The order of the training data: fresh permutations, one behind the other."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor


@final
class DataStream:
    """Indices of samples without end: every permutation follows the one before, and a batch may reach over the seam.

    So every batch is full, each sample comes once per epoch, and ``k`` batches of ``b`` samples are one batch of ``k b``.

    Args:
        samples: How many there are.
        seed: Of the permutations; runs of one seed see the same order.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self._samples = samples
        self._generator = torch.Generator().manual_seed(seed)
        self._rest = torch.empty(0, dtype=torch.long)

    def take(self, count: int) -> Tensor:
        """The next indices, shape ``(count,)``, on the CPU."""
        pieces = [self._rest]
        missing = count - len(self._rest)
        while missing > 0:
            pieces.append(torch.randperm(self._samples, generator=self._generator))
            missing -= self._samples
        indices = torch.cat(pieces) if len(pieces) > 1 else self._rest
        self._rest = indices[count:]
        return indices[:count]
