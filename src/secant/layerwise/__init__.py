"""Mini-batch optimizers that precondition the gradient of each weight matrix by rank-one-corrected inverse factors of its curvature."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from torch.optim import Optimizer

from secant.layerwise.eva import Eva, EvaPreconditioner
from secant.layerwise.foof import Foof, FoofPreconditioner
from secant.layerwise.mkor import Mkor, MkorPreconditioner
from secant.layerwise.rank_one_kron import RankOneKron

__all__ = ["LAYERWISE", "Eva", "EvaPreconditioner", "Foof", "FoofPreconditioner", "Mkor", "MkorPreconditioner", "RankOneKron"]

LAYERWISE: Final[Mapping[str, type[Optimizer]]] = MappingProxyType({"rank-one-kron": RankOneKron, "foof": Foof, "mkor": Mkor, "eva": Eva})
"""The layer-wise optimizers by name. Each is built from a model, ``lr`` and, where it has them, ``momentum`` and ``weight_decay``."""
