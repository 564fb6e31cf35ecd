"""Named layers one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import Tensor, nn


@final
class Layers(nn.Module):
    """A model that passes its inputs through its layers in order.

    ``torch.nn.Sequential`` does the same, but in torch 2.13 ``Sequential.compile()`` compiles nothing, and ``torch.compile(model)`` renames its parameters.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs of the last layer."""
        for layer in self.children():
            inputs = layer(inputs)
        return inputs
