"""Second-order optimization for PyTorch by rank-one corrections of the inverse Hessian."""

from typing import TYPE_CHECKING, Any

from secant.chain.chain import Chain
from secant.chain.stage import Stage
from secant.chain.until import Iterations, Stall
from secant.fitting import LeastSquaresResult, least_squares
from secant.functional import Result, minimize
from secant.globalization.armijo import Armijo
from secant.globalization.cubic import Cubic
from secant.globalization.damping import Damping
from secant.globalization.fixed_step import FixedStep
from secant.globalization.hager_zhang import HagerZhang
from secant.globalization.strong_wolfe import StrongWolfe
from secant.globalization.trust_region import TrustRegion
from secant.layerwise.rank_one_kron import RankOneKron
from secant.limited_methods import LBFGS, LSR1
from secant.methods import BFGS, DFP, SR1, SSBFGS, Broyden, LSSBroyden, SSBroyden
from secant.newton_methods import CubicNewton, NewtonCG, SaddleFreeNewton
from secant.operators.dense import hessian, jacobian
from secant.residual_methods import GaussNewton, LevenbergMarquardt
from secant.residuals import RowResidual
from secant.step import Correction, Outcome

if TYPE_CHECKING:
    from secant.report.inspection import inspect

__version__ = "0.1.0"

__all__ = [
    "BFGS",
    "DFP",
    "LBFGS",
    "LSR1",
    "SR1",
    "SSBFGS",
    "Armijo",
    "Broyden",
    "Chain",
    "Correction",
    "Cubic",
    "CubicNewton",
    "Damping",
    "FixedStep",
    "GaussNewton",
    "HagerZhang",
    "Iterations",
    "LSSBroyden",
    "LeastSquaresResult",
    "LevenbergMarquardt",
    "NewtonCG",
    "Outcome",
    "RankOneKron",
    "Result",
    "RowResidual",
    "SSBroyden",
    "SaddleFreeNewton",
    "Stage",
    "Stall",
    "StrongWolfe",
    "TrustRegion",
    "__version__",
    "hessian",
    "inspect",
    "jacobian",
    "least_squares",
    "minimize",
]


def __getattr__(name: str) -> Any:
    """``secant.inspect`` loads matplotlib and pydantic (the extra ``race``), so it is imported when it is asked for."""
    if name == "inspect":
        from secant.report.inspection import inspect

        return inspect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
