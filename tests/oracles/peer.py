"""The JAX package ssbroyden-optimistix as an oracle. Run as a script (``python -m oracles.peer`` in ``tests``) to record the fixture anew."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

import numpy as np

from oracles.pairs import FIXTURE, GRADIENTS, steps

RULES = ("SSBroyden", "SSBFGS", "BFGS", "DFP")
SIZES = (2, 5)


class Peer:
    """One of the package's solvers, asked for nothing but its update of the inverse; ``initial_scaling=False`` as in the paper."""

    def __init__(self, rule: str, n: int) -> None:
        import jax.numpy as jnp
        import ssbroyden_optimistix
        from optimistix import FunctionInfo

        self._array: Any = jnp.asarray
        self._grad: Any = FunctionInfo.EvalGrad
        self._with_inverse: Any = FunctionInfo.EvalGradHessianInv
        options = {"initial_scaling": False} if rule.startswith("SS") else {}
        self._solver = getattr(ssbroyden_optimistix, rule)(rtol=1e-8, atol=1e-8, **options)
        zeros = jnp.zeros(n)
        self._info, self._state = self._solver.init_hessian(zeros, jnp.asarray(0.0), zeros)
        if rule.startswith("SS"):
            # The first call, of a step of length zero, only clears the package's flag of the first step.
            self._info, self._state = self._solver.update_hessian(zeros, zeros, self._info, self._grad(jnp.asarray(0.0), zeros), self._state, jnp.asarray(1.0))

    def inverse(self) -> np.ndarray:
        return np.asarray(self._info.hessian_inv.pytree)

    def correct(self, x: np.ndarray, gradient: np.ndarray, new_x: np.ndarray, new_gradient: np.ndarray) -> None:
        info = self._with_inverse(self._array(0.0), self._array(gradient), self._info.hessian_inv)
        trial = self._grad(self._array(0.0), self._array(new_gradient))
        self._info, self._state = self._solver.update_hessian(self._array(x), self._array(new_x), info, trial, self._state, self._array(1.0))


def record() -> None:
    """Write the fixture."""
    versions = {name: importlib.metadata.version(name) for name in ("ssbroyden-optimistix", "optimistix", "jax", "numpy")}
    runs = [{"rule": rule, "problem": problem, "n": n, "steps": steps(problem, n, Peer(rule, n))} for rule in RULES for problem in GRADIENTS for n in SIZES]
    FIXTURE.write_text(json.dumps({"versions": versions, "runs": runs}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
