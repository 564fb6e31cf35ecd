"""Learning rates that move over a run, by torch's own schedulers."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import TypeAlias, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LinearLR, LRScheduler, MultiStepLR, ReduceLROnPlateau, SequentialLR

from secant.race.techniques import Schedule, Techniques

AfterStep: TypeAlias = Callable[[Tensor], None]
"""To be called after every step with its loss."""

_EXPONENTIAL_END = 0.01
_STEP_FACTOR = 0.1
_PLATEAU_WINDOWS = 50
_PLATEAU_FACTOR = 0.3
_PLATEAU_PATIENCE = 3

RULES = MappingProxyType(
    {
        Schedule.CONSTANT: "constant",
        Schedule.EXPONENTIAL: f"exponential: ExponentialLR, to {_EXPONENTIAL_END:g} of the rate at the last step",
        Schedule.STEP: f"step: MultiStepLR, times {_STEP_FACTOR:g} at 1/2 and at 3/4 of the run",
        Schedule.COSINE: "cosine: CosineAnnealingLR, to 0 after the last step",
        Schedule.PLATEAU: (
            f"plateau: ReduceLROnPlateau, times {_PLATEAU_FACTOR:g} after {_PLATEAU_PATIENCE} windows without a lower mean of the training loss, "
            f"{_PLATEAU_WINDOWS} windows per run"
        ),
    }
)
"""What each schedule does, for the record; the warm-up comes first and what is said of the run is said of the rest."""


def moving_rate(optimizer: Optimizer, techniques: Techniques, steps: int | None) -> AfterStep:
    """Set the first learning rate of every group, and what moves it after each step.

    Args:
        optimizer: Its groups' learning rates are those that the schedule starts from.
        techniques: Schedule and warm-up: step ``k`` of ``w`` warm-up steps has ``k / (w + 1)`` of the rate.
        steps: Length of the run; None only for a constant schedule.

    Raises:
        ValueError: If the schedule needs a length and there is none, or the warm-up is as long as the run.
    """
    warmup = techniques.warmup
    if techniques.schedule is not Schedule.CONSTANT and (steps is None or steps <= warmup):
        raise ValueError(f"The schedule {techniques.schedule.value} needs a run longer than its warm-up of {warmup} steps, got {steps}.")
    rest = 0 if steps is None else steps - warmup
    if techniques.schedule is Schedule.PLATEAU:
        return _Plateau(optimizer, warmup, rest)
    main = _main(optimizer, techniques.schedule, rest)
    first = [LinearLR(optimizer, start_factor=1.0 / (warmup + 1), total_iters=warmup)] if warmup else []
    if main is None:
        return _step_all(*first)
    return _step_all(SequentialLR(optimizer, [*first, main], milestones=[warmup]) if first else main)


def _main(optimizer: Optimizer, schedule: Schedule, steps: int) -> LRScheduler | None:
    if schedule is Schedule.EXPONENTIAL:
        return ExponentialLR(optimizer, gamma=_EXPONENTIAL_END ** (1.0 / max(1, steps - 1)))
    if schedule is Schedule.STEP:
        return MultiStepLR(optimizer, milestones=[max(1, steps // 2), max(1, 3 * steps // 4)], gamma=_STEP_FACTOR)
    if schedule is Schedule.COSINE:
        return CosineAnnealingLR(optimizer, T_max=steps)
    return None


def _step_all(*schedulers: LRScheduler) -> AfterStep:
    def after_step(loss: Tensor) -> None:
        for scheduler in schedulers:
            scheduler.step()

    return after_step


@final
class _Plateau:
    """Lowers the rate when the mean loss of a window of steps stops falling: a single batch's loss is too noisy to tell."""

    def __init__(self, optimizer: Optimizer, warmup: int, steps: int) -> None:
        self._warmup = LinearLR(optimizer, start_factor=1.0 / (warmup + 1), total_iters=warmup) if warmup else None
        self._left = warmup
        self._scheduler = ReduceLROnPlateau(optimizer, factor=_PLATEAU_FACTOR, patience=_PLATEAU_PATIENCE, eps=0.0)
        self._window = max(1, steps // _PLATEAU_WINDOWS)
        self._losses: list[Tensor] = []

    def __call__(self, loss: Tensor) -> None:
        """Take the loss of one step."""
        if self._warmup is not None and self._left > 0:
            self._left -= 1
            self._warmup.step()
            return
        self._losses.append(loss)
        if len(self._losses) == self._window:
            self._scheduler.step(float(torch.stack(self._losses).mean()))
            self._losses.clear()
