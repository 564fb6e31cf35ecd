"""The methods of this library as entrants of a race."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from secant.layerwise import LAYERWISE
from secant.methods import METHODS
from secant.objective import Counts
from secant.race.batch_method import batch_method
from secant.race.course import Course
from secant.race.method import Keeps, Method, Origin, Variant
from secant.race.records import Setting
from secant.race.schedules import moving_rate
from secant.race.techniques import Decay, Hyperparameters
from secant.race.tracer import PRODUCT_PRICE
from secant.residual_methods import RESIDUAL_METHODS

_AT_THE_LIMIT = 1.0 - 1e-9


def own_methods() -> list[Method]:
    """Every public optimizer of the library, built with its defaults."""
    return [
        *(_full_batch(name, optimizer) for name, optimizer in METHODS.items()),
        *(_residual(name, optimizer) for name, optimizer in RESIDUAL_METHODS.items()),
        *(_layerwise(name, optimizer) for name, optimizer in LAYERWISE.items()),
    ]


def _full_batch(name: str, optimizer: type[Optimizer]) -> Method:
    def drive(course: Course) -> str:
        running = _built(optimizer, course)
        evaluate = course.loss if course.techniques.accumulate == 1 else course.loss_and_gradient

        def charge() -> None:
            course.charge_products(running.counts.hessian_products)

        def closure() -> torch.Tensor:
            # One object for the whole run, so that the accepted evaluation of a step serves the next one.
            charge()
            return evaluate()

        return _run(running, course, closure, charge)

    settings = {"class": f"secant.{optimizer.__name__}", "arguments": "defaults", "keeps": Keeps.BEST.value}
    return Method(name, _summary(optimizer), Origin.SECANT, (Variant("", settings, drive),), Keeps.LAST, decay=Decay.COUPLED)


def _residual(name: str, optimizer: type[Optimizer]) -> Method:
    """A method of least squares, on the residuals of the problem. A Jacobian counts as much as a Hessian product; a residual as a loss with its gradient."""

    def drive(course: Course) -> str:
        running = _built(optimizer, course)
        return _run(running, course, course.residual, lambda: course.charge(_price(running.counts)))

    settings = {"class": f"secant.{optimizer.__name__}", "arguments": "defaults", "keeps": Keeps.LAST.value}
    return Method(name, _summary(optimizer), Origin.SECANT, (Variant("", settings, drive),), Keeps.LAST, decay=Decay.COUPLED, needs_residual=True)


def _built(optimizer: type[Optimizer], course: Course) -> Any:
    options: dict[str, Any] = {"weight_decay": course.techniques.weight_decay or 0.0, "max_step_length": course.techniques.clip_norm}
    return optimizer(list(course.parameters), **options)


def _run(running: Any, course: Course, target: object, charge: Callable[[], None]) -> str:
    """Step on the target until an outcome stops; ``charge`` counts what the last step evaluated by itself."""
    clip_norm = course.techniques.clip_norm
    after_step = moving_rate(running, course.techniques, course.steps)
    while True:
        after_step(running.step(target))
        charge()
        if clip_norm is not None:
            course.clipped_steps += _length(course, running) >= _AT_THE_LIMIT * clip_norm
        course.settle()
        if running.outcome.stops:
            return str(running.outcome.sentence)


def _price(counts: Counts) -> float:
    return counts.losses + PRODUCT_PRICE * (counts.jacobians + counts.hessian_products)


def _length(course: Course, optimizer: Any) -> float:
    """How far the last step moved the parameters; measured with the clock paused."""
    step = optimizer.last_step
    with course.tracer.clock.paused():
        return 0.0 if step is None else float(torch.linalg.vector_norm(step.kept.x - step.start.x))


def _layerwise(name: str, optimizer: Any) -> Method:
    parameters = inspect.signature(optimizer).parameters
    takes_momentum, takes_decay = "momentum" in parameters, "weight_decay" in parameters

    def build(model: nn.Module, wanted: Hyperparameters) -> Optimizer:
        options: dict[str, float] = {"lr": wanted.lr}
        if takes_momentum and wanted.momentum is not None:
            options["momentum"] = wanted.momentum
        if takes_decay:
            options["weight_decay"] = wanted.weight_decay or 0.0
        made: Optimizer = optimizer(model, **options)
        return made

    settings: dict[str, Setting] = {"class": f"secant.{optimizer.__name__}", "arguments": "defaults"}
    if takes_momentum:
        settings["momentum"] = parameters["momentum"].default
    return batch_method(
        name,
        _summary(optimizer),
        Origin.SECANT,
        build,
        (parameters["lr"].default,),
        settings=settings,
        takes_momentum=takes_momentum,
        decay=Decay.DECOUPLED if takes_decay else Decay.NONE,
    )


def _summary(optimizer: Any) -> str:
    return (inspect.getdoc(optimizer) or "").partition("\n")[0].replace("``", "")
