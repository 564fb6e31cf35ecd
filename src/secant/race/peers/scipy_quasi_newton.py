"""BFGS, L-BFGS-B and the methods with Hessian products of SciPy."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from scipy.optimize import OptimizeResult, minimize

from secant.race.course import Course
from secant.race.method import Keeps, Method, Origin, Variant
from secant.race.records import Setting

_UNLIMITED = sys.maxsize // 2**32  # fits the 32-bit counters of the compiled L-BFGS-B


def _entrant(name: str, summary: str, method: str, options: Mapping[str, float], *, takes_products: bool = False) -> Method:
    def drive(course: Course) -> str:
        def settle(intermediate_result: OptimizeResult) -> None:
            course.settle(torch.as_tensor(intermediate_result.x))

        start = course.read().double().numpy()
        products = course.hessian_times if takes_products else None
        result = minimize(course.value_and_gradient, start, method=method, jac=True, hessp=products, callback=settle, options=dict(options))  # type: ignore[call-overload]
        return f"Stopped: {result.message}"

    settings: dict[str, Setting] = {"class": f"scipy.optimize.minimize, method={method}", "keeps": Keeps.BEST.value, **options}
    return Method(name, summary, Origin.PEER, (Variant("", settings, drive),), Keeps.BEST)


METHODS = (
    _entrant("scipy-bfgs", "scipy.optimize.minimize BFGS, tolerances 0.", "BFGS", {"gtol": 0.0, "xrtol": 0.0, "maxiter": _UNLIMITED}),
    _entrant(
        "scipy-lbfgsb",
        "scipy.optimize.minimize L-BFGS-B, memory 100, tolerances 0.",
        "L-BFGS-B",
        {"maxcor": 100, "gtol": 0.0, "ftol": 0.0, "maxiter": _UNLIMITED, "maxfun": _UNLIMITED},
    ),
    _entrant(
        "scipy-trust-krylov",
        "scipy.optimize.minimize trust-krylov, exact Hessian products, tolerance 0.",
        "trust-krylov",
        {"gtol": 0.0, "maxiter": _UNLIMITED},
        takes_products=True,
    ),
    _entrant(
        "scipy-newton-cg",
        "scipy.optimize.minimize Newton-CG, exact Hessian products, tolerance 0.",
        "Newton-CG",
        {"xtol": 0.0, "maxiter": _UNLIMITED},
        takes_products=True,
    ),
)
