"""The parts of a chain: what is built when, and the record of what took over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch

from secant.chain.until import Stall, Until
from secant.layout import ParamGroup


@final
@dataclass(frozen=True, slots=True)
class Stage:
    """One optimizer of a :class:`Chain` and when it ends.

    Args:
        build: Builds the optimizer from a list of parameter groups (new dictionaries with the parameters and the options they were given), when the stage is
            reached. It must train these groups in this order; it may add options to them.
        until: ``Iterations(count)``, ``Stall(...)``, ``"stall"`` for ``Stall()``, or None for the last stage, which may go on.

    Raises:
        TypeError: ``build`` is an optimizer instead of a function that builds one, or ``until`` is nothing of the above.
    """

    build: Callable[[list[ParamGroup]], torch.optim.Optimizer]
    until: Until | Literal["stall"] | None = None

    def __post_init__(self) -> None:
        if not callable(self.build):
            name = type(self.build).__name__
            raise TypeError(f"Expected a function that builds the optimizer, got {name}. Write Stage(lambda groups: {_example(self.build)}(groups, ...)).")
        if not isinstance(self.until, Until) and self.until not in (None, "stall"):
            raise TypeError(f"Expected until to be Iterations(count), Stall(), 'stall' or None, got {self.until!r}.")

    @property
    def condition(self) -> Until | None:
        """``until`` with the word replaced by what it means."""
        return Stall() if self.until == "stall" else self.until


@final
@dataclass(frozen=True, slots=True)
class Switch:
    """One change of stages.

    Attributes:
        ended: Class name of the optimizer that has done its part.
        began: Class name of the one that took over.
        iterations: Calls of ``step`` in the stage that ended.
        seconds: Spent inside them.
        reason: Why it ended, as a sentence.
    """

    ended: str
    began: str
    iterations: int
    seconds: float
    reason: str

    def __str__(self) -> str:
        return f"{self.ended} -> {self.began} after {counted(self.iterations)} ({self.seconds:.3g} s): {self.reason}"


def checked_stages(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages as a tuple, each of them one, and all but the last with an end."""
    if isinstance(stages, Stage):
        raise TypeError("Expected a list of stages, got one Stage. Write Chain(params, [stage]).")
    listed = tuple(stages)
    if not listed:
        raise ValueError("Expected at least one stage, got an empty list.")
    for index, stage in enumerate(listed):
        if not isinstance(stage, Stage):
            raise TypeError(f"Expected element {index} of stages to be a Stage, got {type(stage).__name__}. Write Stage(lambda groups: ..., until=...).")
        if stage.until is None and index + 1 < len(listed):
            raise ValueError(f"Expected stage {index} to say when it ends, got no until. Write until=Iterations(1000) or until='stall'.")
    return listed


def counted(iterations: int) -> str:
    """``1 iteration``, ``1,000 iterations``."""
    return f"{iterations:,} iteration" + ("" if iterations == 1 else "s")


def _example(optimizer: object) -> str:
    return type(optimizer).__name__ if isinstance(optimizer, torch.optim.Optimizer) else "SSBroyden"
