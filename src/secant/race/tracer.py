"""The clock of a run, its budget, and the moments it leaves behind."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, TypeAlias, final

from secant.race.budget import Budget, BudgetExhausted
from secant.race.gauge import Reading
from secant.race.records import TracePoint
from secant.race.stopwatch import Stopwatch

Watch: TypeAlias = Callable[[TracePoint, float], None]
"""Is told a moment and the spent share of the budget, while no clock runs."""

ReadPresent: TypeAlias = Callable[[bool], Reading]
"""Measures the present parameters; with held-out samples only when told to."""

PRODUCT_PRICE: Final = 2.0
"""Evaluations that one Hessian product counts as. Reverse over reverse costs 1.1 to 2.2 gradients where the graph of the gradient is kept; the price is near
the upper end, so that no method gains by the exchange."""

_TICK_SECONDS = 0.2
_HELD_OUT_EVERY = 3
"""A held-out set is as large as what the training loss is measured on, and its loss is looked at, not timed against a target."""


@final
class Tracer:
    """Counts what a run spends, ends it when the budget is spent, and measures it now and then with the clock paused.

    Moments are spaced geometrically, in evaluations and in seconds, and evenly over the budget where that is denser. Held-out samples are measured at the
    first, the last and every third moment.

    Attributes:
        clock: Runs while the method does.
        evaluations: Evaluations so far, Hessian products among them at their price.
        products: Hessian products so far.
        steps: Iterations so far, as the method counts them.
        trace: Measured moments so far.
    """

    def __init__(self, budget: Budget, read: ReadPresent, watch: Watch, *, spacing: float, even_moments: int = 0, product_price: float = PRODUCT_PRICE) -> None:
        """Ready to run; the start is measured by the course, when it has seen that it can.

        Args:
            budget: The limit of the run, not in epochs.
            read: Measures the present parameters.
            watch: Called with the clock paused, a few times per second.
            spacing: Ratio of successive moments.
            even_moments: Least number of moments, evenly spaced over the budget; 0 for geometric spacing alone.
            product_price: Evaluations that a Hessian product counts as.
        """
        self.clock = Stopwatch()
        self.evaluations: float = 0
        self.products = 0
        self.steps = 0
        self.trace: list[TracePoint] = []
        self._budget = budget
        self._read = read
        self._watch = watch
        self._spacing = spacing
        self._even_moments = even_moments
        self._product_price = int(product_price) if product_price == int(product_price) else product_price  # counts stay whole where they can
        self._next_evaluations = 1
        self._next_seconds = 0.0
        self._next_share = math.inf
        self._next_tick = 0.0

    def count(self, evaluations: float = 1) -> None:
        """Count evaluations about to be made.

        Raises:
            BudgetExhausted: Instead of counting one too many.
        """
        if self._budget.is_used_up(self.evaluations + evaluations - 1, self.clock.cpu_seconds, self.steps):
            raise BudgetExhausted
        self.evaluations += evaluations

    def count_products(self, products: int) -> None:
        """Count Hessian products at their price; errors as in :meth:`count`."""
        if products > 0:
            self.count(products * self._product_price)
            self.products += products

    def end_step(self, put_in_place: Callable[[], None] | None = None) -> TracePoint | None:
        """Count an iteration; measured when a moment is due.

        Args:
            put_in_place: Writes the parameters that the method keeps; called only before a measurement, with the clock paused.

        Returns:
            The measured moment, if one was due.
        """
        self.steps += 1
        seconds = self.clock.cpu_seconds
        if self._is_due(seconds):
            with self.clock.paused():
                if put_in_place is not None:
                    put_in_place()
                return self.measure()
        if time.perf_counter() >= self._next_tick:
            with self.clock.paused():
                self._tell(self._now(self.trace[-1]))
        return None

    def refuse_another_step(self) -> None:
        """Nothing, unless the budget is in steps and the last one is done.

        Raises:
            BudgetExhausted: Then: a step that evaluates nothing would not be stopped by :meth:`count`.
        """
        if self._budget.steps is not None and self.steps >= self._budget.steps:
            raise BudgetExhausted

    def finish(self) -> None:
        """Stop the clock and measure the end of the run."""
        self.clock.stop()
        self.measure(held_out=True)

    def measure(self, *, held_out: bool = False) -> TracePoint:
        """Measure the present parameters, in any case with held-out samples if told so, and plan the next moment. The clock must stand still."""
        reading = self._read(held_out or len(self.trace) % _HELD_OUT_EVERY == 0)
        point = self._now(reading)
        if self.trace and self.trace[-1].evaluations == point.evaluations:
            self.trace.pop()
        self.trace.append(point)
        self._next_evaluations = max(math.floor(self.evaluations) + 1, math.ceil(self.evaluations * self._spacing))
        self._next_seconds = max(0.01, point.cpu_seconds * self._spacing)
        if self._even_moments:
            self._next_share = (math.floor(self._spent(point.cpu_seconds) * self._even_moments) + 1) / self._even_moments
        self._tell(point)
        return point

    def _is_due(self, seconds: float) -> bool:
        if self.evaluations >= self._next_evaluations or seconds >= self._next_seconds:
            return True
        return self._even_moments > 0 and self._spent(seconds) >= self._next_share

    def _spent(self, seconds: float) -> float:
        return self._budget.fraction(self.evaluations, seconds, self.steps)

    def _now(self, last: Reading | TracePoint) -> TracePoint:
        return TracePoint(
            evaluations=self.evaluations,
            cpu_seconds=self.clock.cpu_seconds,
            wall_seconds=self.clock.wall_seconds,
            loss=last.loss,
            error=last.error,
            steps=self.steps,
            test_loss=last.test_loss,
            accuracy=last.accuracy,
        )

    def _tell(self, point: TracePoint) -> None:
        self._watch(point, self._spent(point.cpu_seconds))
        self._next_tick = time.perf_counter() + _TICK_SECONDS
