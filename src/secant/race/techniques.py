"""The training techniques of a race: one setting of each, the same for every method that takes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Schedule(Enum):
    """How the learning rate moves over a run. All are torch's own schedulers."""

    CONSTANT = "constant"
    EXPONENTIAL = "exponential"
    STEP = "step"
    COSINE = "cosine"
    PLATEAU = "plateau"


@dataclass(frozen=True, slots=True)
class Techniques:
    """What the user asked for; None leaves a choice to the method or the problem.

    Attributes:
        schedule: Of the learning rate.
        warmup: Steps over which the learning rate rises linearly to its value.
        clip_norm: Largest norm of a gradient; of a full-batch method, largest length of its step.
        clip_value: Largest absolute value of a gradient's element.
        accumulate: Micro-batches whose gradients are averaged into one step.
        momentum: Of the methods that have one.
        weight_decay: Decoupled for AdamW, Muon and the layer-wise methods; coupled for SGD and full batch.
        batch: Samples per micro-batch.
    """

    schedule: Schedule = Schedule.CONSTANT
    warmup: int = 0
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    momentum: float | None = None
    weight_decay: float | None = None
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What a mini-batch method is built with.

    Attributes:
        lr: The learning rate.
        momentum: None keeps the method's own.
        weight_decay: None keeps the race's default, 0 for every method alike.
    """

    lr: float
    momentum: float | None = None
    weight_decay: float | None = None
