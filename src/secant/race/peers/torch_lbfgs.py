"""L-BFGS of torch with its strong Wolfe search."""

from __future__ import annotations

from typing import Any

import torch

from secant.race.course import Course
from secant.race.method import Keeps, Method, Origin, Variant
from secant.race.records import Setting

_ARGUMENTS: dict[str, Any] = {"lr": 1.0, "history_size": 100, "max_iter": 20, "max_eval": 25, "tolerance_grad": 0.0, "tolerance_change": 0.0}
_UNCHANGED_STEPS = 3


def _drive(course: Course) -> str:
    optimizer = torch.optim.LBFGS(course.parameters, line_search_fn="strong_wolfe", **_ARGUMENTS)
    unchanged, last = 0, course.read()
    while unchanged < _UNCHANGED_STEPS:
        optimizer.step(course.loss_and_gradient)  # type: ignore[no-untyped-call]
        course.settle()
        present = course.read()
        unchanged = unchanged + 1 if torch.equal(present, last) else 0
        last = present
    return f"Stopped: {_UNCHANGED_STEPS} steps in a row left the parameters unchanged."


_SETTINGS: dict[str, Setting] = {"class": "torch.optim.LBFGS", "line_search_fn": "strong_wolfe", "keeps": Keeps.BEST.value, **_ARGUMENTS}

METHODS = (
    Method(
        "torch-lbfgs",
        "torch.optim.LBFGS, strong Wolfe search, memory 100, tolerances 0, 20 iterations per step.",
        Origin.PEER,
        (Variant("", _SETTINGS, _drive),),
        Keeps.BEST,
    ),
)
