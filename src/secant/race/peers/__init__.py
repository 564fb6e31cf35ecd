"""The methods of other libraries: one module per library, each listed here once."""

from __future__ import annotations

from secant.race.method import Method
from secant.race.peers import first_order, optimistix, pytorch_minimize, scipy_quasi_newton, torch_lbfgs, torchzero


def peer_methods() -> list[Method]:
    """Every peer, installed or not."""
    return [
        *torch_lbfgs.METHODS,
        *first_order.METHODS,
        *scipy_quasi_newton.METHODS,
        *pytorch_minimize.METHODS,
        *torchzero.METHODS,
        *optimistix.METHODS,
    ]
