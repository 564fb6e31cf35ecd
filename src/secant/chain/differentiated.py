"""A closure for optimizers that leave ``zero_grad`` and ``backward`` to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secant.closures import Closure, backward, loss_of, watch_backward, were_assigned


def differentiated(closure: Closure, parameters: Sequence[Tensor]) -> Tensor:
    """The closure's loss, with the gradients left in ``.grad``.

    ``backward`` is called here unless a gradient was accumulated during the call, or the closure assigned one that is not zero.

    Args:
        closure: Returns the loss, with or without calling ``backward``.
        parameters: What is trained; their gradients were cleared.

    Returns:
        The loss, detached, a new tensor of shape ``()``.

    Raises:
        TypeError: The closure returns no loss.
        ValueError: The loss is not one real number.
        RuntimeError: The loss has no graph or reaches no parameter.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    like = trainable[0] if trainable else torch.empty(0, dtype=torch.float64)
    with torch.enable_grad(), watch_backward(trainable) as arrived:
        loss = loss_of(closure, like)
        if trainable and not arrived and not were_assigned(trainable):
            backward(loss, trainable)
    return loss.detach().reshape(()).clone()  # a closure may write its next loss into the same tensor
