"""Functions with a strict saddle at the origin and minima that are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Saddle:
    """A function of ``n`` numbers whose gradient vanishes at the origin, where its Hessian has negative eigenvalues.

    Attributes:
        name: In words of one line.
        size: ``n``.
        negative: How many eigenvalues of the Hessian at the origin are negative.
        loss: The function, of a vector of shape ``(n,)``.
        minimum: The value of every local minimum: all other critical points are saddles.
        unseen: A unit vector along which the gradient near the origin stays orthogonal to all negative curvature; None where there is none.
    """

    name: str
    size: int
    negative: int
    loss: Callable[[Tensor], Tensor]
    minimum: float
    unseen: Tensor | None


def wells(curvatures: list[float], *, rotation_seed: int | None = None) -> Saddle:
    """``sum_i c_i z_i^2 / 2 + [c_i < 0] z_i^4 / 4`` with ``z = Q x``: a bowl in the positive curvatures, a double well in each negative one.

    The least value is ``-sum_{c_i < 0} c_i^2 / 4``, at ``z_i^2 = -c_i``; all other critical points are saddles.

    Args:
        curvatures: ``c``, none of them zero, at least one negative.
        rotation_seed: Of the random orthogonal ``Q``; None for the identity.
    """
    c = torch.tensor(curvatures, dtype=torch.float64)
    n, is_well = len(c), c < 0.0
    Q = torch.eye(n, dtype=torch.float64) if rotation_seed is None else _rotation(n, rotation_seed)
    upwards = torch.nonzero(~is_well)

    def loss(x: Tensor) -> Tensor:
        z = Q @ x
        return 0.5 * (c * z.square()).sum() + 0.25 * z[is_well].pow(4).sum()

    name = f"{n} coordinates, {int(is_well.sum())} double wells" + ("" if rotation_seed is None else ", rotated")
    unseen = Q[int(upwards[0])] if len(upwards) > 0 else None
    return Saddle(name, n, int(is_well.sum()), loss, -0.25 * float(c[is_well].square().sum()), unseen)


def linear_network(inputs: int, hidden: int, outputs: int, *, seed: int = 0) -> Saddle:
    """``|W2 W1 - A|^2 / 2`` from zero weights, for a random ``A``: every critical point that is not a global minimum is a strict saddle.

    With two weight matrices (Baldi & Hornik 1989, Kawaguchi 2016) the least value is half the sum of the squared singular values of ``A`` beyond the width
    ``hidden``. At zero the quadratic form is ``-2 W2 . A W1'``: its eigenvalues are plus and minus the singular values, ``hidden`` times each, and zeros.
    """
    A = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / math.sqrt(inputs)
    singular = torch.linalg.svdvals(A)
    size = hidden * (inputs + outputs)

    def loss(x: Tensor) -> Tensor:
        W1, W2 = x[: hidden * inputs].reshape(hidden, inputs), x[hidden * inputs :].reshape(outputs, hidden)
        return 0.5 * (W2 @ W1 - A).square().sum()

    return Saddle(
        f"linear network {inputs}-{hidden}-{outputs} at zero", size, hidden * min(inputs, outputs), loss, 0.5 * float(singular[hidden:].square().sum()), None
    )


def _rotation(n: int, seed: int) -> Tensor:
    normal = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    Q: Tensor = torch.linalg.qr(normal).Q
    return Q


SADDLES: Final[Mapping[str, Saddle]] = MappingProxyType(
    {
        "plane": wells([2.0, -2.0]),
        "shallow": wells([1.0, -0.01]),
        "steep": wells([1000.0, -1.0]),
        "rotated-10": wells([1.0, 3.0, 10.0, 30.0, 100.0, 2.0, 5.0, -0.5, -1.0, -2.0], rotation_seed=0),
        "rotated-50": wells([10.0 ** (-1.0 + 3.0 * i / 44.0) for i in range(45)] + [-0.3, -0.5, -1.0, -2.0, -3.0], rotation_seed=1),
        "ridge-20": wells([-1.0 - 0.1 * i for i in range(20)], rotation_seed=2),
        "linear-network": linear_network(4, 3, 4),
    }
)
"""The strict-saddle test set, by name."""
