"""Several optimizers of one model's parameters as a single one."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch.optim import Optimizer


@final
class Combined(Optimizer):
    """Optimizers of disjoint parameters, stepped one after another.

    The parameter groups and the state are those of its parts, not copies: a scheduler that writes to a group's ``lr`` reaches the part it belongs to, and
    ``state_dict`` holds everything that they keep there.

    Args:
        parts: At least one, each without steps so far.

    Raises:
        ValueError: A parameter belongs to two parts.
    """

    def __init__(self, *parts: Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        self._share()
        self.register_load_state_dict_post_hook(lambda _: self._share())

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor | None:  # type: ignore[override]
        """One step of every part.

        Args:
            closure: Evaluates the loss and its gradient; None when the gradients are there.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def _share(self) -> None:
        """Let the parts see these groups and this state; ``load_state_dict`` replaces both by new objects."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state
