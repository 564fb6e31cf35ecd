"""When going on is pointless: tests on consecutive points, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from secant.step import Outcome, Point, Step

_FLAT_ITERATIONS = 10  # iterations without a decrease of loss or gradient beyond rounding before the floor is declared
_UNBOUNDED = 1e15  # a decrease this many times the first loss and the steepest gradient is taken for a fall without bound


@dataclass(frozen=True, slots=True)
class Progress:
    """What the tests need to remember; the scale of every test is that of the first point.

    Attributes:
        iteration: Iterations so far.
        first_loss: ``|loss|`` at the first finite point; NaN before.
        first_grad: ``max |grad|`` there.
        steepest_grad: Largest ``max |grad|`` of a point that was kept.
        anchor_loss: The loss when it last decreased beyond rounding; slow progress is measured from here, over several iterations.
        least_grad: Least ``max |grad|`` since the loss last decreased beyond rounding.
        flat: Iterations since the loss or ``least_grad`` last decreased.
        failures: Searches in a row that found nothing.
    """

    iteration: int = 0
    first_loss: float = float("nan")
    first_grad: float = float("nan")
    steepest_grad: float = 0.0
    anchor_loss: float = float("inf")
    least_grad: float = float("inf")
    flat: int = 0
    failures: int = 0

    def begun(self, point: Point) -> Progress:
        """Remember the first finite point as the scale."""
        if not math.isnan(self.first_grad) or not point.is_finite:
            return self
        return replace(self, first_loss=abs(point.loss), first_grad=point.largest_grad)

    def after(self, step: Step) -> Progress:
        """The record one iteration later."""
        rejected = step.outcome is Outcome.REJECTED
        failed = not step.outcome.is_accepted and not rejected
        steepest = max(self.steepest_grad, step.kept.largest_grad) if step.kept.is_finite else self.steepest_grad
        progress = replace(self, iteration=self.iteration + 1, failures=self.failures + 1 if failed else 0, steepest_grad=steepest)
        rounding = step.start.loss_noise
        if step.outcome is Outcome.NOT_FINITE or (rejected and step.trial is not None and step.trial.loss > step.start.loss + rounding):
            return progress  # a failure of the objective or of the model, not of the arithmetic
        if step.kept.loss > step.start.loss + rounding:
            return progress  # a step that was taken without a test of the loss
        anchor = self.anchor_loss if step.start.loss <= self.anchor_loss + rounding else step.start.loss  # else it is another objective
        if step.kept.loss < anchor - rounding:
            return replace(progress, flat=0, anchor_loss=step.kept.loss, least_grad=step.kept.largest_grad)
        if step.kept.largest_grad < 0.9 * self.least_grad:
            return replace(progress, flat=0, anchor_loss=anchor, least_grad=step.kept.largest_grad)
        return replace(progress, flat=self.flat + 1, anchor_loss=anchor)

    def verdict(self, kept: Point, tolerance: float) -> Outcome | None:
        """Why to stop at ``kept``, or None.

        Args:
            kept: Where the parameters stand.
            tolerance: ``max |grad|`` relative to the first one that counts as converged.
        """
        if not kept.is_finite:
            return None
        if kept.largest_grad <= tolerance * self.first_grad:
            return Outcome.CONVERGED
        if self.flat >= _FLAT_ITERATIONS:
            return Outcome.ROUNDING_FLOOR
        if -kept.loss > _UNBOUNDED * max(self.first_loss, self.first_grad, self.steepest_grad):
            return Outcome.UNBOUNDED
        return None
