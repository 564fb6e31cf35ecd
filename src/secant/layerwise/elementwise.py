"""AdamW for what is no matrix, by torch's own kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

_FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})


def adamw_step(
    parameters: Sequence[Tensor], states: Sequence[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, maximize: bool
) -> None:
    """One step of AdamW; entries of ``states`` are those of ``torch.optim.AdamW`` and are made where they are empty.

    Args:
        parameters: Of one group, with gradients, on one device each.
        states: Their entries of the optimizer's ``state``.
        lr: Learning rate.
        betas: Of the averages of the gradient and of its square.
        eps: Added to the root of the second one.
        weight_decay: Decoupled.
        maximize: Climb instead.
    """
    if not parameters:
        return
    is_fused = all(_is_fused(p) for p in parameters)
    for parameter, state in zip(parameters, states, strict=True):
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=_count_device(parameter))
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    adamw(
        list(parameters),
        [p.grad for p in parameters if p.grad is not None],
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        fused=is_fused,
        has_complex=any(p.is_complex() for p in parameters),
        amsgrad=False,
        beta1=betas[0],
        beta2=betas[1],
        lr=lr,
        weight_decay=weight_decay,
        eps=eps,
        maximize=maximize,
    )


def load_adamw_state(parameter: Tensor, entry: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a saved entry of ``state`` for this parameter: the averages like it, as in torch, the count where ``adamw_step`` has it."""
    return {
        name: value.detach().to(device=_count_device(parameter), copy=True)
        if name == "step"
        else value.detach().to(device=parameter.device, dtype=parameter.dtype, copy=True)
        for name, value in entry.items()
    }


def _is_fused(parameter: Tensor) -> bool:
    return parameter.device.type in _FUSED_DEVICES and parameter.is_floating_point()


def _count_device(parameter: Tensor) -> torch.device:
    """Where the fused kernel counts; torch's other kernels want the count on the host."""
    return parameter.device if _is_fused(parameter) else torch.device("cpu")
