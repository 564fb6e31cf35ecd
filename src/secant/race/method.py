"""What can enter a race: a name, its settings, and a function that drives one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from typing import TypeAlias

from torch import nn
from torch.optim import Optimizer

from secant.race.course import Course
from secant.race.records import Setting
from secant.race.techniques import Decay, Hyperparameters

Drive: TypeAlias = Callable[[Course], str]
"""Runs a method on a course until it stops by itself, and returns why in one sentence. The course ends it earlier by an exception."""

BuildOptimizer: TypeAlias = Callable[[nn.Module, Hyperparameters], Optimizer]
"""Makes the optimizer of a model. It is stepped without a closure, after ``backward``."""


class Origin(Enum):
    """Where a method comes from."""

    SECANT = "secant"
    PEER = "peer"


class Feed(Enum):
    """What a method is given at each step. The value is stated in the record."""

    FULL_BATCH = "full batch"
    BATCH = "batches"


class Keeps(Enum):
    """Which parameters a run that is cut short ends with. The value is stated in the record."""

    LAST = "parameters after the last finished step"
    BEST = "best evaluated point"


@dataclass(frozen=True, slots=True)
class Variant:
    """One member of the grid of a method that takes the full batch.

    Attributes:
        label: What tells it from the others, for instance ``"lr=0.001"``; empty without a grid.
        settings: Everything the method was built with.
        drive: Runs it.
    """

    label: str
    settings: Mapping[str, Setting]
    drive: Drive


@dataclass(frozen=True, slots=True)
class BatchVariant:
    """One learning rate of a method that learns from batches.

    Attributes:
        label: ``"lr=0.001"``.
        settings: Everything the method was built with, apart from the techniques of the race.
        lr: The learning rate.
        build: Makes the optimizer.
    """

    label: str
    settings: Mapping[str, Setting]
    lr: float
    build: BuildOptimizer


@dataclass(frozen=True, slots=True)
class Method:
    """One entrant of a race.

    Attributes:
        name: What the user types.
        summary: One line for the list of methods.
        origin: Ours or a peer.
        variants: Its grid; a method without a grid has one variant with an empty label. Every variant gets the whole budget, the best one counts.
        keeps: Which parameters it ends with.
        needs: Modules that must be installed.
        remedy: The command that installs them.
        packages: Distributions whose version belongs in the record.
        own_process: Whether each run has a process of its own.
        takes_momentum: Whether a momentum other than its own can be asked for.
        decay: What it does with a weight decay.
        needs_residual: Whether it minimizes sums of squares alone, from their residuals.
    """

    name: str
    summary: str
    origin: Origin
    variants: tuple[Variant, ...] | tuple[BatchVariant, ...]
    keeps: Keeps = Keeps.LAST
    needs: tuple[str, ...] = ()
    remedy: str = ""
    packages: tuple[str, ...] = field(default=())
    own_process: bool = False
    takes_momentum: bool = False
    decay: Decay = Decay.NONE
    needs_residual: bool = False

    @property
    def feed(self) -> Feed:
        """What it is given at each step."""
        return Feed.BATCH if isinstance(self.variants[0], BatchVariant) else Feed.FULL_BATCH

    @property
    def is_installed(self) -> bool:
        """Whether everything it needs can be imported."""
        return all(find_spec(module) is not None for module in self.needs)
