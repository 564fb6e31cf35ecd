"""Dense quasi-Newton methods of torchzero: BFGS and the self-scaling variable metric."""

from __future__ import annotations

from torch import Tensor

from secant.race.course import Course
from secant.race.method import Drive, Keeps, Method, Origin, Variant
from secant.race.records import Setting


def _driver(update: str) -> Drive:
    def drive(course: Course) -> str:
        import torchzero

        modules = torchzero.modules
        optimizer = torchzero.Optimizer(course.parameters, getattr(modules, update)(), modules.StrongWolfe())

        def closure(backward: bool = True) -> Tensor:
            return course.loss_and_gradient() if backward else course.loss()

        while True:
            optimizer.step(closure)
            course.settle()

    return drive


def _entrant(name: str, update: str, summary: str) -> Method:
    settings: dict[str, Setting] = {"class": f"torchzero.modules.{update}, StrongWolfe", "arguments": "defaults", "keeps": Keeps.BEST.value}
    return Method(
        name,
        summary,
        Origin.PEER,
        (Variant("", settings, _driver(update)),),
        Keeps.BEST,
        needs=("torchzero",),
        remedy="pip install torchzero",
        packages=("torchzero",),
    )


METHODS = (
    _entrant("torchzero-bfgs", "BFGS", "torchzero BFGS, strong Wolfe search, defaults."),
    _entrant("torchzero-ssvm", "SSVM", "torchzero self-scaling variable metric (Oren, Spedicato 1976), strong Wolfe search, defaults."),
)
