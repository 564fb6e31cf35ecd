"""The methods of this library as entrants of a race."""

from __future__ import annotations

import inspect

from torch.optim import Optimizer

from secant.methods import METHODS
from secant.race.course import Course
from secant.race.method import Keeps, Method, Origin, Variant


def own_methods() -> list[Method]:
    """Every public optimizer of the library, built with its defaults."""
    return [_entrant(name, optimizer) for name, optimizer in METHODS.items()]


def _entrant(name: str, optimizer: type[Optimizer]) -> Method:
    def drive(course: Course) -> str:
        running = optimizer(list(course.parameters))  # type: ignore[call-arg]
        closure = course.loss  # one object for the whole run, so that the accepted evaluation of a step serves the next one
        while True:
            running.step(closure)  # type: ignore[arg-type]
            course.settle()
            outcome = running.outcome  # type: ignore[attr-defined]
            if outcome.stops:
                return str(outcome.sentence)

    summary = (inspect.getdoc(optimizer) or "").partition("\n")[0].replace("``", "")
    settings = {"class": f"secant.{optimizer.__name__}", "arguments": "defaults", "keeps": Keeps.BEST.value}
    return Method(name, summary, Origin.SECANT, (Variant("", settings, drive),), Keeps.LAST)
