"""Derivatives of networks by their inputs, carried forward through the layers, and the residuals of equations in them."""

from secant.derivatives.field import Field
from secant.derivatives.loss import loss_closure
from secant.derivatives.pointwise import PointResidual

__all__ = ["Field", "PointResidual", "loss_closure"]
