"""Mini-batch optimizers that precondition the gradient of each weight matrix by rank-one-corrected inverse factors of its curvature."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from torch.optim import Optimizer

from secant.layerwise.rank_one_kron import RankOneKron

__all__ = ["LAYERWISE", "RankOneKron"]

LAYERWISE: Final[Mapping[str, type[Optimizer]]] = MappingProxyType({"rank-one-kron": RankOneKron})
"""The layer-wise optimizers by name. Each is built from a model, ``lr`` and, where it has them, ``momentum`` and ``weight_decay``."""
