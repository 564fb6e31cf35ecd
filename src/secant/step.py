"""The records of one step: where it was evaluated, what was tried, what was kept, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One evaluation of the objective.

    Attributes:
        x: Flat parameters, shape ``(n,)``; never written to after the evaluation.
        loss: The minimized number: the closure's loss, negated for ``maximize``, with the weight-decay term.
        grad: Gradient of ``loss``, shape ``(n,)``, dtype and device of ``x``.
        largest_grad: ``max |grad|``; NaN or Inf as soon as one element is.
        reported: The closure's own loss as a detached tensor: what ``step`` returns.
    """

    x: Tensor
    loss: float
    grad: Tensor
    largest_grad: float
    reported: Tensor

    @property
    def is_finite(self) -> bool:
        """Whether the loss and every gradient element are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.largest_grad)

    @property
    def loss_noise(self) -> float:
        """How far two equal losses may differ by rounding.

        A loss is a sum whose terms may be much larger than itself, so its last digits are noise: 4,096 units in the last place (9e-13 of the loss in
        float64), but no more than the 1e-6 that Hager and Zhang allow and no less than 8 units.
        """
        eps = torch.finfo(self.reported.dtype).eps
        return max(8.0 * eps, min(4096.0 * eps, 1e-6)) * abs(self.loss)


class Outcome(Enum):
    """Why a step ended as it did. The value is a sentence for the user."""

    WOLFE = "Accepted: the Wolfe conditions hold."
    APPROXIMATE_WOLFE = "Accepted: the approximate Wolfe conditions hold and the loss did not rise above its rounding."
    STRONG_WOLFE = "Accepted: the strong Wolfe conditions hold."
    ARMIJO = "Accepted: the loss decreased in proportion to the slope (Armijo)."
    LONGEST = "Accepted: the step has the largest allowed length (max_step_length), and the loss still falls there."
    FIXED = "Accepted: a fixed step, no test was asked for."
    GAIN_RATIO = "Accepted: the loss decreased as the quadratic model predicted (gain ratio)."
    NEGATIVE_CURVATURE = "Accepted: the step left along negative curvature, away from a saddle or a ridge; the loss met the conditions of the search."
    DECREASE = "Accepted: the loss decreased, but no point met the conditions of the search within its budget."
    REJECTED = "Rejected: the loss did not decrease as the quadratic model predicted; the next trial will be shorter."
    NOT_FINITE = "Not a number: the loss or its gradient was NaN or infinite; the parameters stay at the best finite point seen."
    NO_DESCENT = "Rejected: the direction -H g does not point downhill."
    NO_DECREASE = "Rejected: no decrease was found along the direction; the model and the gradient disagree with the loss."
    APPROXIMATE_GAIN = "Accepted: the loss is unchanged within its rounding and the gradient decreased."
    STUCK = "Stopped: no decrease was found even along the gradient; loss and gradient disagree (noise, a kink or a wrong gradient)."
    CONVERGED = "Stopped: the gradient is within the requested tolerance."
    SMALL_CHANGE = "Stopped: the loss or the parameters changed by no more than tolerance_change."
    ROUNDING_FLOOR = "Stopped: neither the loss nor the gradient decreases any more beyond rounding."
    UNBOUNDED = "Stopped: the loss falls without bound."
    BUDGET = "Stopped: the budget of iterations, evaluations or seconds is used up."
    CALLBACK = "Stopped: the callback asked for it (StopIteration)."
    ZERO_LEARNING_RATE = "Nothing done: every learning rate is zero."

    @property
    def sentence(self) -> str:
        """The reason in words."""
        return self.value

    @property
    def is_accepted(self) -> bool:
        """Whether the parameters moved to the trial point."""
        return self in _ACCEPTED

    @property
    def stops(self) -> bool:
        """Whether going on is pointless (or was forbidden) until something changes."""
        return self in _STOPS


_ACCEPTED = frozenset(
    {
        Outcome.WOLFE,
        Outcome.APPROXIMATE_WOLFE,
        Outcome.STRONG_WOLFE,
        Outcome.ARMIJO,
        Outcome.LONGEST,
        Outcome.FIXED,
        Outcome.GAIN_RATIO,
        Outcome.APPROXIMATE_GAIN,
        Outcome.DECREASE,
        Outcome.NEGATIVE_CURVATURE,
    }
)
_STOPS = frozenset({Outcome.CONVERGED, Outcome.SMALL_CHANGE, Outcome.ROUNDING_FLOOR, Outcome.STUCK, Outcome.UNBOUNDED, Outcome.BUDGET, Outcome.CALLBACK})


class Correction(Enum):
    """What became of the inverse Hessian before a step. The value is a sentence for the user."""

    INITIAL = "The inverse Hessian was set to its initial scale."
    APPLIED = "The inverse Hessian was corrected with the last step."
    EXACT = "The Hessian is exact at the present point."
    DIFFERENCES = "The Hessian at the present point is taken from differences of gradients; each product counts as two gradients."
    HESSIAN_UNUSABLE = "The Hessian is not finite at the present point, or the gradient is about to underflow; this step follows the gradient."
    LINEARIZED_CHOLESKY = "The residuals were linearized at the present point; damped steps come from the Cholesky factorization of J'J."
    LINEARIZED_QR = "The residuals were linearized at the present point; damped steps come from orthogonal factors of J."
    LINEARIZED_WOODBURY = "The residuals were linearized at the present point; damped steps come from J J', since residuals are few."
    LINEARIZED_CG = "The residuals are linearized at the present point by products alone; damped steps come from conjugate gradients."
    LINEARIZED_SKETCH = "The residuals were linearized at the present point; damped steps come from a random sketch of the rows of J."
    JACOBIAN_CORRECTED = "The Jacobian was corrected by one rank-one term with the last step (Broyden); an exact one is due later."
    JACOBIAN_UNUSABLE = "The Jacobian is not finite at the present point; this step follows the gradient."
    NOTHING_NEW = "The inverse Hessian is unchanged: no new point was evaluated."
    SKIPPED_CURVATURE = "Skipped: the curvature y.s along the last step is not positive beyond rounding."
    DAMPED = "Damped: the loss is straight along the last step; the model's curvature there was divided by ten."
    SKIPPED_ROUNDING = "Skipped: the last step was so short against the parameters that its gradient change is mostly rounding."
    SKIPPED_KNOWN = "Skipped: the model predicts the last gradient change to rounding already; what is left to correct is noise."
    SKIPPED_DENOMINATOR = "Skipped: the denominator of the rank-one correction is too small against its factors."
    SKIPPED_THETA = "Skipped: theta lies beyond the degenerate value, where the corrected matrix would not be positive definite."
    RESET_INDEFINITE = "Reset: the inverse Hessian had lost its positive definiteness to rounding."
    RESET_NO_DESCENT = "Reset: the direction -H g did not point downhill."
    RESET_NO_DECREASE = "Reset: two searches in a row found no acceptable point."
    RESET_PARAMETERS = "Reset: the set of trainable parameters changed (added, frozen, unfrozen, moved or converted)."
    RESET_REQUESTED = "Reset: asked for by the user."

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        return self.value


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What was tried from one point and what was kept.

    Attributes:
        start: Where the step began.
        trial: The last point that teaches the model something: the accepted one, or a finite rejected one; None when no trial was evaluated.
        kept: Where the parameters stand afterwards: ``start`` or ``trial``.
        outcome: Why.
    """

    start: Point
    trial: Point | None
    kept: Point
    outcome: Outcome
