"""The certified nonlinear regressions of NIST from both of their starts: digits, evaluations and Jacobians, against SciPy's three methods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from scipy import optimize

import secant
from benchmarks.record import one_thread, save
from secant.problems.curve_fit import NIST_NAMES, NistRegression, nist_regression

STARTS: tuple[Literal[1, 2], ...] = (1, 2)
TOLERANCE = 4.0 * float(np.finfo(np.float64).eps)
BUDGET = 5000
PEERS = [(method, scale) for method in ("lm", "trf", "dogbox") for scale in (1.0, "jac")]
READABLE_DIGITS = 11.0

Run = Callable[[NistRegression], dict[str, Any]]


def main() -> None:
    one_thread()
    methods: dict[str, Run] = {"secant lm": ours}
    for method, scale in PEERS:
        methods[f"scipy {method}, x_scale {scale}"] = peer(method, scale)
    rows = [{"name": name, "start": start, **fits(nist_regression(name, start), methods)} for name in NIST_NAMES for start in STARTS]
    summary = {method: summarized([row["fits"][method] for row in rows]) for method in methods}
    for method, line in summary.items():
        print(f"{method}: {line}", flush=True)
    save(
        "curve_fit",
        {"summary": summary, "fits": rows},
        options="secant: the defaults",
        scipy=f"exact Jacobians, xtol = ftol = gtol = {TOLERANCE:.1e}, at most {BUDGET} evaluations",
        digits=f"-log10 of the largest relative error of a parameter, at most {READABLE_DIGITS:g}: as many are certified",
        seconds="process CPU time, residuals and Jacobians by torch for all",
    )


def fits(regression: NistRegression, methods: dict[str, Run]) -> dict[str, Any]:
    found = {}
    for method, run in methods.items():
        began = time.process_time()
        found[method] = run(regression)
        found[method]["seconds"] = round(time.process_time() - began, 4)
    print(regression.name, {method: (fit["digits"], fit["evaluations"]) for method, fit in found.items()}, flush=True)
    return {"parameters": len(regression.start), "residuals": len(regression.y), "fits": found}


def ours(regression: NistRegression) -> dict[str, Any]:
    fit = secant.least_squares(regression.residual, regression.start)
    return {"digits": digits(regression, fit.x), "evaluations": fit.nfev, "jacobians": fit.njev, "message": fit.message}


def peer(method: str, scale: float | str) -> Run:
    def run(regression: NistRegression) -> dict[str, Any]:
        def fun(x: np.ndarray) -> np.ndarray:
            return regression.residual(torch.from_numpy(x)).numpy()

        def jac(x: np.ndarray) -> np.ndarray:
            return torch.func.jacrev(regression.residual)(torch.from_numpy(x)).numpy()

        tolerances = {"xtol": TOLERANCE, "ftol": TOLERANCE, "gtol": TOLERANCE}
        with np.errstate(all="ignore"):
            fit = optimize.least_squares(fun, regression.start.numpy(), jac, method=method, x_scale=scale, max_nfev=BUDGET, **tolerances)
        return {"digits": digits(regression, torch.from_numpy(fit.x)), "evaluations": fit.nfev, "jacobians": fit.njev, "message": fit.message}

    return run


def digits(regression: NistRegression, x: torch.Tensor) -> float:
    error = regression.relative_error(x)
    return round(min(-math.log10(error), READABLE_DIGITS), 1) if error > 0.0 else READABLE_DIGITS


def summarized(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "runs": len(found),
        "at_least_9_digits": sum(fit["digits"] >= 9.0 for fit in found),
        "at_least_6_digits": sum(fit["digits"] >= 6.0 for fit in found),
        "fewest_digits": min(fit["digits"] for fit in found),
        "evaluations": sum(fit["evaluations"] or 0 for fit in found),
        "jacobians": sum(fit["jacobians"] or 0 for fit in found),
        "seconds": round(sum(fit["seconds"] for fit in found), 2),
    }


if __name__ == "__main__":
    main()
