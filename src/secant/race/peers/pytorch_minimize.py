"""BFGS and L-BFGS of pytorch-minimize (module ``torchmin``)."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from secant.race.course import Course
from secant.race.method import Keeps, Method, Origin, Variant
from secant.race.records import Setting

_OPTIONS: dict[str, Setting] = {"gtol": 0.0, "xtol": 0.0, "gtd_tol": 0.0, "line_search": "strong-wolfe"}


class _CountedLoss(torch.autograd.Function):
    """The loss as a function of the flat vector, with the gradient of the same evaluation as its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, course: Course) -> Tensor:
        course.write(x)
        loss = course.loss_and_gradient()
        ctx.save_for_backward(course.gradient())
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0] * gradient, None


def _entrant(name: str, summary: str, method: str, options: dict[str, Setting]) -> Method:
    def drive(course: Course) -> str:
        from torchmin import minimize

        def fun(x: Tensor) -> Tensor:
            loss: Tensor = _CountedLoss.apply(x, course)  # type: ignore[no-untyped-call]
            return loss

        result = minimize(fun, course.read(), method, max_iter=sys.maxsize, options=dict(options), callback=course.settle)
        return f"Stopped: {result.message}"

    return Method(
        name,
        summary,
        Origin.PEER,
        (Variant("", {"class": f"torchmin.minimize, method={method}", "keeps": Keeps.BEST.value, **options}, drive),),
        Keeps.BEST,
        needs=("torchmin",),
        remedy="pip install pytorch-minimize",
        packages=("pytorch-minimize",),
    )


METHODS = (
    _entrant("torchmin-bfgs", "torchmin.minimize BFGS, strong Wolfe search, tolerances 0.", "bfgs", _OPTIONS),
    _entrant("torchmin-lbfgs", "torchmin.minimize L-BFGS, memory 100, strong Wolfe search, tolerances 0.", "l-bfgs", {"history_size": 100, **_OPTIONS}),
)
