"""Secant pairs from the data that two batches share."""

from __future__ import annotations

from secant.objective import Objective
from secant.step import Step


def seen_on_overlap(step: Step, overlap: Objective) -> Step | None:
    """The same step with both of its points evaluated on the overlap, for the curvature to learn from.

    Args:
        step: Taken on the batch.
        overlap: Bound to a closure over the shared data. The parameters stand at ``step.kept`` afterwards.

    Returns:
        The step on the overlap; None where nothing was tried, or where the overlap is not finite. Cost: two evaluations of the overlap.

    Source:
        Berahas, Nocedal & Takac (2016), "A multi-batch L-BFGS method for machine learning", section 2.
    """
    if step.trial is None:
        return None
    is_kept = step.kept is step.trial
    other, kept = (step.start, step.trial) if is_kept else (step.trial, step.start)
    beside, here = overlap.at(other.x), overlap.at(kept.x)  # the kept point last: the parameters stay there
    if not (beside.is_finite and here.is_finite):
        return None
    start, trial = (beside, here) if is_kept else (here, beside)
    return Step(start, trial, trial if is_kept else start, step.outcome)
