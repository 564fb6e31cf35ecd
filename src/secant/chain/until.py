"""When one optimizer has done its part: after a number of steps, or when the loss no longer falls fast enough."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, final

from torch import Tensor

from secant.notice import warn_user


@dataclass(frozen=True, slots=True)
class Elapsed:
    """What one stage has used and reached so far: all that decides when it ends, and all that is saved of it.

    Attributes:
        iterations: Calls of ``step``.
        seconds: Spent inside them.
        losses: Of the present window, oldest first.
        window_seconds: Spent in the present window.
        lowest: Least median loss of a complete window; infinite before the first.
        best_speed: Greatest relative decrease per second of a window.
        slow_windows: Complete windows in a row whose speed was a small share of the best.
    """

    iterations: int = 0
    seconds: float = 0.0
    losses: tuple[Tensor | float, ...] = ()
    window_seconds: float = 0.0
    lowest: float = math.inf
    best_speed: float = 0.0
    slow_windows: int = 0

    def longer(self, seconds: float) -> Elapsed:
        """One call of ``step`` later."""
        return replace(self, iterations=self.iterations + 1, seconds=self.seconds + seconds)

    def state(self) -> dict[str, Any]:
        """Plain numbers, for ``state_dict``."""
        return asdict(replace(self, losses=tuple(float(loss) for loss in self.losses)))


class Until(ABC):
    """Decides when a stage ends. An instance holds settings only, so that several stages and chains may share it."""

    needs_loss: ClassVar[bool]
    """Whether the steps of the stage must be given a closure."""

    @abstractmethod
    def after(self, elapsed: Elapsed, loss: Tensor | float | None, seconds: Callable[[], float]) -> Elapsed:
        """The record one step later.

        Args:
            elapsed: The record so far.
            loss: What is minimized, at the start of the step or, where it is known, at its end; None for a step without a closure.
            seconds: What the step has taken by the time of the call.
        """

    @abstractmethod
    def reason(self, elapsed: Elapsed) -> str | None:
        """Why the stage ends, as a sentence; None while it goes on."""


@final
@dataclass(frozen=True, slots=True)
class Iterations(Until):
    """Ends a stage after ``count`` calls of ``step``, whatever each of them does inside.

    Example:
        >>> Iterations(1000)
        Iterations(count=1000)

    Raises:
        ValueError: ``count`` is not a positive whole number.
    """

    count: int
    needs_loss: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 1:
            raise ValueError(f"Expected a number of iterations, 1 or more, got {self.count!r}.")

    def after(self, elapsed: Elapsed, loss: Tensor | float | None, seconds: Callable[[], float]) -> Elapsed:
        """One more."""
        return elapsed.longer(seconds())

    def reason(self, elapsed: Elapsed) -> str | None:
        """The same words every time, once the count is reached."""
        return "Its iterations are done." if elapsed.iterations >= self.count else None


@final
@dataclass(frozen=True, slots=True)
class Stall(Until):
    """Ends a stage when its decrease of the loss per second has fallen to a small share of the best it had.

    Every ``window`` steps of the stage are one measurement. With the median ``l_k`` of the losses of window ``k`` (one spike, or the noise of mini-batches,
    does not move it), the least earlier median ``m_k = min(l_1, ..., l_{k-1})`` and the seconds ``s_k`` inside the steps of the window,

        ``v_k = (m_k - l_k) / (max(|m_k|, |l_k|) s_k)``

    is the relative decrease per second; coming back from a spike counts for nothing. The stage ends after ``patience`` windows in a row with

        ``v_k <= share * max(v_2, ..., v_k)``

    (or ``v_k <= 0``: a loss that never fell is a stall, too). The first window only sets the level, so a collapse in the first steps is not held against the
    rest. A decrease is relative, and at most 1 for a positive loss: the rule does not depend on the unit of the loss, and losses that fall over many decades
    are judged by decades. A loss that falls like ``iteration ** -a`` with ``a`` from 0.5 to 2 runs for 1.2 to 2.3 times ``1 / share`` windows; one that falls
    exponentially goes on.

    Seconds are the wall clock's, because that is what one waits for, but only inside ``step``: validation and checkpoints between steps do not count. They
    enter as a ratio between windows of one run. A resumed run takes the windows and seconds so far from the saved state and goes on with the clock it finds,
    so that iterates are resumed bit for bit, but the step at which a stall is declared can differ, as it can between two runs. Every process measures
    for itself: where several train one model together, use :class:`Iterations`, or they will switch at different steps.

    Losses that are not finite are left out. A window without any finite loss is no measurement: it is not a stall but a failure that another optimizer cannot
    mend, so the stage goes on, with a warning.

    Args:
        window: Steps per measurement; at its end the losses are read from the device, once.
        share: Of the best speed, below which a window is slow.
        patience: Slow windows in a row that end the stage.

    Raises:
        ValueError: ``window`` or ``patience`` is not a positive whole number, or ``share`` is not in (0, 1).
    """

    window: int = 100
    share: float = 0.1
    patience: int = 2
    needs_loss: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("patience", self.patience)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Expected {name} to be a whole number, 1 or more, got {value!r}.")
        if not 0.0 < self.share < 1.0:
            raise ValueError(f"Expected 0 < share < 1, got {self.share!r}.")

    def after(self, elapsed: Elapsed, loss: Tensor | float | None, seconds: Callable[[], float]) -> Elapsed:
        """The record one step later; at the end of a window, one measurement more."""
        assert loss is not None
        waiting = (*elapsed.losses, loss)
        if len(waiting) < self.window:
            spent = seconds()
            return replace(elapsed.longer(spent), losses=waiting, window_seconds=elapsed.window_seconds + spent)
        finite = [number for number in map(float, waiting) if math.isfinite(number)]  # waits for the device, inside the time that is measured
        spent = seconds()
        after = replace(elapsed.longer(spent), losses=(), window_seconds=0.0)
        if not finite:
            warn_user(
                f"None of the last {self.window} losses was finite. Stall takes that for a failure and not for an end, so this stage goes on: the parameters "
                "are probably lost. Restart from a checkpoint with a smaller learning rate."
            )
            return after
        return self._measured(after, statistics.median(finite), elapsed.window_seconds + spent)

    def reason(self, elapsed: Elapsed) -> str | None:
        """What was measured, once the last ``patience`` windows were slow."""
        if elapsed.slow_windows < self.patience:
            return None
        windows = f"{self.patience} windows of {self.window} iterations" if self.patience > 1 else f"{self.window} iterations"
        if elapsed.best_speed == 0.0:
            return f"Stalled: over {windows} the loss did not fall at all."
        return f"Stalled: over {windows} the loss fell at no more than {self.share:g} times its best rate per second."

    def _measured(self, elapsed: Elapsed, level: float, seconds: float) -> Elapsed:
        if math.isinf(elapsed.lowest):
            return replace(elapsed, lowest=level)
        size = max(abs(elapsed.lowest), abs(level))
        speed = (elapsed.lowest - level) / (size * max(seconds, 1e-9)) if size > 0.0 else 0.0
        best = max(elapsed.best_speed, speed)
        slow = elapsed.slow_windows + 1 if speed <= self.share * best else 0
        return replace(elapsed, lowest=min(elapsed.lowest, level), best_speed=best, slow_windows=slow)
