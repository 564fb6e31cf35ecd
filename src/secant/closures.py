"""What torch's closures may do, and how the loss and its gradient come out of them."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import Tensor

Closure = Callable[[], Any]


def loss_of(closure: Closure, like: Tensor) -> Tensor:
    """The loss that a closure returns, a tensor with one real number; a plain number becomes a tensor in the type and on the device of ``like``.

    Raises:
        TypeError: The closure returns no loss.
        ValueError: The loss is not one real number.
    """
    loss = closure()
    if isinstance(loss, numbers.Real) and not isinstance(loss, bool):
        loss = torch.tensor(float(loss), dtype=like.dtype.to_real(), device=like.device)
    if not isinstance(loss, Tensor):
        raise TypeError(f"Expected the closure to return the loss, got {type(loss).__name__}. End it with `return loss`.")
    if loss.numel() != 1 or loss.is_complex():
        raise ValueError(f"Expected a loss of one real number, got shape {tuple(loss.shape)} and {loss.dtype}. Reduce it with .mean() or .sum().")
    return loss


def is_same(one: object, other: object) -> bool:
    """Whether two closures are one object; a bound method is a new object at each access, so its parts are compared."""
    if isinstance(one, MethodType) and isinstance(other, MethodType):
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    return one is other


@contextmanager
def watch_backward(parameters: Sequence[Tensor]) -> Iterator[list[bool]]:
    """Yields a list that is non-empty once a gradient was accumulated into one of the parameters."""
    arrived: list[bool] = []

    def note(_: Tensor) -> None:
        arrived.append(True)

    handles = [parameter.register_post_accumulate_grad_hook(note) for parameter in parameters]  # type: ignore[no-untyped-call]
    try:
        yield arrived
    finally:
        for handle in handles:
            handle.remove()


def were_assigned(parameters: Sequence[Tensor]) -> bool:
    """Whether a closure wrote its own gradients, as after ``torch.autograd.grad``. All zeros are a reset: the loss has still to be differentiated."""
    return any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in parameters)


def backward(loss: Tensor, parameters: Sequence[Tensor], *, create_graph: bool = False) -> None:
    """Leave the gradients of a loss in ``.grad``, in place of what was there.

    Raises:
        RuntimeError: The loss has no graph or reaches none of the parameters.
    """
    refuse_inference_mode()
    if not loss.requires_grad:
        raise RuntimeError("The closure returned a loss without a graph and did not call backward. Return the loss tensor itself, not loss.item().")
    for parameter in parameters:
        parameter.grad = None
    with _silent_about_the_cycle() if create_graph else nullcontext():
        torch.autograd.backward(loss.reshape(()), inputs=list(parameters), create_graph=create_graph)
    if all(parameter.grad is None for parameter in parameters):
        raise RuntimeError("No trainable parameter is reached by the loss. Check that the closure uses the parameters given to the optimizer.")


def refuse_inference_mode() -> None:
    """Say that there are no gradients.

    Raises:
        RuntimeError: Inference mode is on.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("No gradient can be had in inference mode. Call step outside torch.inference_mode().")


@contextmanager
def _silent_about_the_cycle() -> Iterator[None]:
    """Torch warns that a gradient with a graph and its parameter refer to each other; who asks for the graph parts them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward.. with create_graph=True")
        yield
