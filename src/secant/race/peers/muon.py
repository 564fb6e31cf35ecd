"""Muon of torch for the hidden matrices and convolution kernels, AdamW for everything else.

Embeddings, norms, biases, the last layer and what has a single row or column go to AdamW, by the rule of this library's own layer-wise methods.
``adjust_lr_fn="match_rms_adamw"`` gives both parts updates of one size, so that one learning rate serves both. ``torch.optim.Muon`` takes matrices only:
kernels are given to it as matrices with one row per output channel, as its author's code sees them. Its five Newton-Schulz iterations run in bfloat16, as
torch has them: fast where the processor multiplies in bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secant.layerwise.routing import Rule, module_routes
from secant.race.batch_method import batch_method
from secant.race.method import Origin
from secant.race.peers.combined import Combined
from secant.race.peers.torch_batches import BETAS
from secant.race.techniques import Decay, Hyperparameters

_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
_MOMENTUM = 0.95


def muon_and_adamw(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
    """Muon for the hidden weights of a model and AdamW for its other parameters.

    Raises:
        ValueError: There is no hidden weight.
        RuntimeError: A kernel's memory is not in rows, as with channels last.
    """
    hidden, others = _split(model)
    if not hidden:
        raise ValueError("Muon needs a hidden matrix or kernel, got a model with none between its inputs and its last layer. Use AdamW.")
    decay, momentum = wanted.weight_decay or 0.0, _MOMENTUM if wanted.momentum is None else wanted.momentum
    matrices = {weight: weight if weight.ndim == 2 else weight.detach().view(len(weight), -1) for weight in hidden}
    muon = torch.optim.Muon(list(matrices.values()), wanted.lr, weight_decay=decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")
    parts = [torch.optim.AdamW(others, wanted.lr, BETAS, weight_decay=decay, fused=True)] if others else []
    optimizer = Combined(muon, *parts)
    _pass_gradients(optimizer, {kernel: matrix for kernel, matrix in matrices.items() if kernel is not matrix})
    return optimizer


def _split(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The hidden weights, and all other trainable parameters."""
    routes = {parameter: route for parameter, route in module_routes(model).items() if parameter.requires_grad}
    hidden = [parameter for parameter, route in routes.items() if route.rule is Rule.KRON]
    return hidden, [parameter for parameter, route in routes.items() if route.rule is not Rule.KRON]


def _pass_gradients(optimizer: Optimizer, matrices: dict[Tensor, Tensor]) -> None:
    """Hand the gradient of each kernel to the matrix that shares its memory before a step, and clear it after: ``zero_grad`` knows the matrix alone."""

    def before(*_: object) -> None:
        for kernel, matrix in matrices.items():
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)

    def after(*_: object) -> None:
        for kernel in matrices:
            kernel.grad = None

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


METHODS = (
    batch_method(
        "muon",
        "torch.optim.Muon for hidden matrices and kernels, AdamW for the rest.",
        Origin.PEER,
        muon_and_adamw,
        _RATES,
        settings={
            "class": "torch.optim.Muon",
            "momentum": _MOMENTUM,
            "nesterov": True,
            "ns_steps": 5,
            "ns_coefficients": "3.4445, -4.775, 2.0315",
            "adjust_lr_fn": "match_rms_adamw",
            "rest": "embeddings, last layer, norms, biases: torch.optim.AdamW, the same lr, betas 0.9, 0.999, eps 1e-08, fused",
        },
        takes_momentum=True,
        decay=Decay.DECOUPLED,
    ),
)
