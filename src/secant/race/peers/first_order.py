"""First-order optimizers of torch, full batch, each over a stated grid of learning rates."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from secant.race.course import Course
from secant.race.method import Keeps, Method, Origin, Variant
from secant.race.records import Setting

_ADAPTIVE_GRID = (1e-2, 3e-3, 1e-3)
_PLAIN_GRID = (1e-1, 1e-2, 1e-3)


def _entrant(name: str, optimizer: type[torch.optim.Optimizer], grid: tuple[float, ...], extra: Mapping[str, float]) -> Method:
    momentum = "".join(f", {key} {value:g}" for key, value in extra.items())
    summary = f"torch.optim.{optimizer.__name__}{momentum}, constant learning rate, best of {', '.join(f'{rate:g}' for rate in grid)}."
    variants = tuple(_variant(optimizer, {"lr": rate, **extra}) for rate in grid)
    return Method(name, summary, Origin.PEER, variants, Keeps.LAST)


def _variant(optimizer: type[torch.optim.Optimizer], arguments: Mapping[str, float]) -> Variant:
    def drive(course: Course) -> str:
        running = optimizer(course.parameters, **arguments)  # type: ignore[arg-type]
        while True:
            running.step(course.loss_and_gradient)  # type: ignore[arg-type]
            course.settle()

    settings: dict[str, Setting] = {"class": f"torch.optim.{optimizer.__name__}", "schedule": "constant", "keeps": Keeps.LAST.value, **arguments}
    return Variant(f"lr={arguments['lr']:g}", settings, drive)


METHODS = (
    _entrant("adam", torch.optim.Adam, _ADAPTIVE_GRID, {}),
    _entrant("rmsprop", torch.optim.RMSprop, _ADAPTIVE_GRID, {}),
    _entrant("sgd", torch.optim.SGD, _PLAIN_GRID, {}),
    _entrant("sgd-momentum", torch.optim.SGD, _PLAIN_GRID, {"momentum": 0.9}),
)
