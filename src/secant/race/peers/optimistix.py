"""Self-scaled Broyden in JAX: ``ssbroyden-optimistix`` on our own closure.

JAX calls back into the torch closure for loss and gradient together, so the method sees the same function at the same price as every other one, and what is
compared is the method with its own overhead, not two compilers of the loss. A user who has the loss in JAX saves the callback. It runs in its own process,
because importing it switches JAX to double precision and its thread pool is fixed when it is loaded.
"""

from __future__ import annotations

from functools import cache
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from secant.race.budget import BudgetExhausted
from secant.race.course import Course
from secant.race.method import Keeps, Method, Origin, Variant
from secant.race.records import Setting


@final
class _Bridge:
    """A compiled solver step whose loss is that of the course it is given; compiled once per process, in the rehearsal."""

    def __init__(self, n: int) -> None:
        import equinox
        import jax
        import ssbroyden_optimistix

        self.n = n
        self.course: Course | None = None
        self.exhausted: BudgetExhausted | None = None
        self.solver: Any = ssbroyden_optimistix.SSBroyden(rtol=0.0, atol=0.0)
        self.loss = _differentiable(self._answer, n)
        context: dict[str, Any] = {"fn": self._with_aux, "args": None, "options": {}, "tags": frozenset()}
        self.step: Any = equinox.filter_jit(equinox.Partial(self.solver.step, **context))
        self.terminate: Any = equinox.filter_jit(equinox.Partial(self.solver.terminate, **context))
        shape: Any = jax.ShapeDtypeStruct
        self.scalar = shape((), np.float64)

    def _with_aux(self, y: Any, args: Any) -> tuple[Any, None]:
        return self.loss(y), None

    def _answer(self, x: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Loss and gradient. An exception would not survive the way through JAX: the end of the budget is kept aside."""
        assert self.course is not None
        try:
            loss, gradient = self.course.value_and_gradient(np.array(x, dtype=np.float64))
        except BudgetExhausted as stop:
            self.exhausted = stop
            return np.array(np.inf), np.zeros(self.n)
        return np.array(loss), gradient


def _differentiable(answer: Any, n: int) -> Any:
    """``answer`` as a JAX function of which value and derivative cost one call."""
    import jax

    shape: Any = jax.ShapeDtypeStruct
    shapes = (shape((), np.float64), shape((n,), np.float64))

    def loss(x: Any) -> Any:
        return jax.pure_callback(answer, shapes, x)[0]

    def loss_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        value, gradient = jax.pure_callback(answer, shapes, primals[0])
        return value, gradient @ tangents[0]

    function: Any = jax.custom_jvp(loss)
    function.defjvp(loss_jvp)
    return function


@cache
def _bridge(n: int) -> _Bridge:
    return _Bridge(n)


def _drive(course: Course) -> str:
    import jax.numpy as jnp

    start = course.read().double().numpy()
    bridge = _bridge(start.size)
    bridge.course, bridge.exhausted = course, None
    y = jnp.asarray(start)
    state = bridge.solver.init(bridge._with_aux, y, None, {}, bridge.scalar, None, frozenset())
    accepted = 0
    while not bridge.terminate(y=y, state=state)[0]:
        y, state, _ = bridge.step(y=y, state=state)
        steps = int(state.num_accepted_steps)
        if bridge.exhausted is not None:
            raise bridge.exhausted
        if steps > accepted:
            accepted = steps
            course.settle(torch.from_numpy(np.array(y)))
    return "Stopped: the solver ended by itself."


_SETTINGS: dict[str, Setting] = {
    "class": "ssbroyden_optimistix.SSBroyden",
    "rtol": 0.0,
    "atol": 0.0,
    "search": "Zoom, defaults",
    "loss": "the torch closure, called from JAX (pure_callback)",
    "process": "its own",
    "keeps": Keeps.BEST.value,
}

METHODS = (
    Method(
        "ssbroyden-optimistix",
        "Self-scaled Broyden in JAX (optimistix), Zoom search; calls the same torch closure.",
        Origin.PEER,
        (Variant("", _SETTINGS, _drive),),
        Keeps.BEST,
        needs=("ssbroyden_optimistix",),
        remedy="pip install ssbroyden-optimistix",
        packages=("ssbroyden-optimistix", "optimistix", "jax"),
        own_process=True,
    ),
)
