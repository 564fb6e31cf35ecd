"""Second-order optimization for PyTorch by rank-one corrections of the inverse Hessian."""

from secant.functional import Result, minimize
from secant.globalization.armijo import Armijo
from secant.globalization.fixed_step import FixedStep
from secant.globalization.hager_zhang import HagerZhang
from secant.globalization.strong_wolfe import StrongWolfe
from secant.globalization.trust_region import TrustRegion
from secant.methods import BFGS, DFP, SR1, SSBFGS, Broyden, SSBroyden
from secant.step import Correction, Outcome

__version__ = "0.1.0"

__all__ = [
    "BFGS",
    "DFP",
    "SR1",
    "SSBFGS",
    "Armijo",
    "Broyden",
    "Correction",
    "FixedStep",
    "HagerZhang",
    "Outcome",
    "Result",
    "SSBroyden",
    "StrongWolfe",
    "TrustRegion",
    "__version__",
    "minimize",
]
