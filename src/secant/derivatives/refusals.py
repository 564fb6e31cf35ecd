"""What cannot be differentiated, and what to do instead."""

from __future__ import annotations

from typing import final


@final
class NotUnderstoodError(TypeError):
    """An operation for which jets have no rule; nested automatic differentiation is asked instead."""

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation


@final
class CoupledPointsError(ValueError):
    """The network lets points act on each other, so that its outputs have no derivatives by the coordinates of their own point alone."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"Derivatives by the coordinates need a network in which every point is on its own, got {operation}, which mixes points. "
            "Call network.eval() where batch statistics are the cause, or let the operation act on features (dim=-1)."
        )


@final
class KinkError(ValueError):
    """A second or higher derivative through a function with a kink."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"Derivatives of second and higher order need smooth functions, got {operation}, whose second derivative is zero, jumps or does not exist. "
            "Use tanh, sin, gelu, silu or softplus instead, or torch.where if a function in pieces is meant."
        )


KINKED = frozenset(
    (  # noqa: SIM905
        "relu relu6 leaky_relu rrelu prelu threshold hardtanh hardsigmoid hardswish hardshrink softshrink elu celu selu softsign abs absolute clamp clip "
        "clamp_min clamp_max maximum minimum max min amax amin fmax fmin topk sort median max_pool1d max_pool2d max_pool3d adaptive_max_pool1d "
        "adaptive_max_pool2d adaptive_max_pool3d"
    ).split()
)
"""Functions, by their names in torch, whose first derivative jumps, or whose second one does."""
