"""The scale an inverse Hessian starts from."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from secant.curvature.symmetric import DeferredSymmetric, MatrixKernel
from secant.objective import Objective
from secant.step import Point

InitialScale = float | Literal["auto"]
"""``"auto"``: a multiple of the identity that scales inversely with the loss. A positive number ``c``: ``H = c I``, as given."""


def checked_initial_scale(initial: InitialScale) -> InitialScale:
    """``initial`` itself.

    Raises:
        ValueError: It is neither ``"auto"`` nor a positive number.
    """
    if initial == "auto" or (isinstance(initial, (int, float)) and 0.0 < initial < float("inf")):
        return initial
    raise ValueError(f"Expected initial_scale to be 'auto' or a positive number, got {initial!r}.")


def initial_diagonal(initial: InitialScale, objective: Objective, point: Point) -> Tensor:
    """The diagonal of the first inverse Hessian, shape ``(n,)``.

    ``"auto"`` is ``1 / |g|``: it scales inversely with the loss, so that multiplying the loss by a constant changes no iterate. The groups' learning
    rates, over the largest, scale their blocks.
    """
    scales = objective.initial_scales()
    if initial != "auto":
        return scales * initial
    length = objective.space.norm(point.grad)
    return scales / length if length > 0.0 else scales


def initial_inverse(initial: InitialScale, objective: Objective, point: Point, kernel: MatrixKernel | None = None) -> DeferredSymmetric:
    """The first inverse Hessian at ``point``."""
    return DeferredSymmetric(initial_diagonal(initial, objective, point), kernel=kernel)
