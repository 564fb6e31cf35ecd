"""The state that every run of a problem starts from."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from secant.race.hooks import OwnHooks

if TYPE_CHECKING:
    from secant.problems import Problem


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Copies of a problem's parameters and of what changes in its model while it trains: buffers (running statistics), modes and hooks.

    Attributes:
        tensors: Each tensor with the value it is restored to.
        modes: Each module with its mode.
        hooks: Of the model; None without one.
    """

    tensors: tuple[tuple[Tensor, Tensor], ...]
    modes: tuple[tuple[nn.Module, bool], ...]
    hooks: OwnHooks | None

    @classmethod
    def of(cls, problem: Problem) -> Snapshot:
        """The present state."""
        model = None if problem.training is None else problem.training.model
        buffers = () if model is None else tuple(model.buffers())
        modules = () if model is None else tuple(model.modules())
        return cls(
            tuple((tensor, tensor.detach().clone()) for tensor in (*problem.parameters, *buffers)),
            tuple((module, module.training) for module in modules),
            None if model is None else OwnHooks(model),
        )

    @torch.no_grad()
    def restore(self) -> None:
        """Put the state back."""
        for tensor, value in self.tensors:
            tensor.copy_(value)
        for module, mode in self.modes:
            module.training = mode
        if self.hooks is not None:
            self.hooks.restore()

    def without_hooks(self) -> AbstractContextManager[None]:
        """No hook of a method is on the model inside the block."""
        return nullcontext() if self.hooks is None else self.hooks.alone()
