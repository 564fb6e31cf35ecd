"""The training techniques of a race: one setting of each, the same for every method that takes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Schedule(Enum):
    """How the learning rate moves over a run. All are torch's own schedulers."""

    CONSTANT = "constant"
    EXPONENTIAL = "exponential"
    STEP = "step"
    COSINE = "cosine"
    PLATEAU = "plateau"


class Decay(Enum):
    """What a method does with a weight decay. The value is stated in the record."""

    DECOUPLED = "decoupled"
    COUPLED = "coupled"
    NONE = "none"


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

    Raises:
        ValueError: If a number is out of range.
    """

    schedule: Schedule = Schedule.CONSTANT
    warmup: int = 0
    clip_norm: float | None = None
    clip_value: float | None = None
    accumulate: int = 1
    momentum: float | None = None
    weight_decay: float | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        """Check every range."""
        ranges = (
            ("warmup", "a number of steps, 0 or more", self.warmup >= 0),
            ("clip_norm", "a positive number", self.clip_norm is None or 0.0 < self.clip_norm < math.inf),
            ("clip_value", "a positive number", self.clip_value is None or 0.0 < self.clip_value < math.inf),
            ("accumulate", "1 micro-batch or more", self.accumulate >= 1),
            ("momentum", "a number from 0 to below 1", self.momentum is None or 0.0 <= self.momentum < 1.0),
            ("weight_decay", "a number, 0 or more", self.weight_decay is None or 0.0 <= self.weight_decay < math.inf),
            ("batch", "1 sample or more", self.batch is None or self.batch >= 1),
        )
        for name, expected, holds in ranges:
            if not holds:
                raise ValueError(f"--{name.replace('_', '-')} needs {expected}, got {getattr(self, name)}.")


PLAIN: Final = Techniques()
"""Nothing asked for."""


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
