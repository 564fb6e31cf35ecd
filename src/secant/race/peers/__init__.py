"""The methods of other libraries, and K-FAC: one module per library or method, each listed here once."""

from __future__ import annotations

from secant.race.method import Method
from secant.race.peers import (
    first_order,
    heavyball,
    kfac,
    muon,
    optimistix,
    pytorch_minimize,
    pytorch_optimizer,
    scipy_quasi_newton,
    torch_batches,
    torch_lbfgs,
    torchzero,
)


def peer_methods() -> list[Method]:
    """Every peer, installed or not."""
    return [
        *torch_lbfgs.METHODS,
        *first_order.METHODS,
        *scipy_quasi_newton.METHODS,
        *pytorch_minimize.METHODS,
        *torchzero.METHODS,
        *optimistix.METHODS,
        *torch_batches.METHODS,
        *muon.METHODS,
        *pytorch_optimizer.METHODS,
        *heavyball.METHODS,
        *kfac.METHODS,
    ]
