"""Initial weights of the benchmark models, from a generator of their own and never from the global random stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
Rule: TypeAlias = Callable[[Tensor, torch.Generator], object]
"""Fills a weight in place from a generator."""


def initialized(make: Callable[[], Model], rule: Rule, seed: int, *, dtype: torch.dtype = torch.float32) -> Model:
    """A model with fresh parameters.

    Args:
        make: Makes the model of linear and convolution layers, embeddings and layer norms; called where its own initial values cost nothing.
        rule: For the weights of linear layers, convolutions and embeddings, in the model's order. Biases are 0, layer norms are the identity.
        seed: Of the generator.
        dtype: Of the parameters.

    Raises:
        TypeError: If a module of another kind owns parameters.
    """
    with torch.device("meta"):
        model = make().to(dtype)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            rule(module.weight, generator)
            if not isinstance(module, nn.Embedding) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif next(module.parameters(recurse=False), None) is not None:
            raise TypeError(f"initialized() knows Linear, Conv2d, Embedding and LayerNorm, got parameters in {type(module).__name__}. Give it a rule here.")
    return model


def glorot_uniform(weight: Tensor, generator: torch.Generator) -> None:
    """Uniform in ``+-sqrt(6 / (inputs + outputs))``.

    Source:
        Glorot & Bengio (2010), AISTATS, eq. 16.
    """
    nn.init.xavier_uniform_(weight, generator=generator)


def he_uniform(weight: Tensor, generator: torch.Generator, *, factor: float = 1.0) -> None:
    """Uniform in ``+-factor sqrt(6 / inputs)``: with factor 1 a ReLU network keeps the size of its signals.

    Source:
        He et al. (2015), ICCV, eq. 10, in its uniform form.
    """
    nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
    with torch.no_grad():
        weight *= factor
