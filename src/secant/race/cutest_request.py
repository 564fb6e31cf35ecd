"""What the user asked of the CUTEst race, checked before anything runs."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from secant.methods import METHODS
from secant.problems.cutest import CUTEST
from secant.problems.cutest_sample import DEVELOPMENT_SET
from secant.race.errors import UsageError
from secant.race.method import Feed, Method
from secant.race.registry import methods_for, select_methods
from secant.race.request import RECORDS_FILE, RaceWords, default_folder, parse_threads
from secant.race.tracer import PRODUCT_PRICE

DEFAULT_EVALUATIONS: Final = 1000
PEERS: Final = (
    "torch-lbfgs",
    "scipy-bfgs",
    "scipy-lbfgsb",
    "scipy-trust-krylov",
    "scipy-newton-cg",
    "torchmin-bfgs",
    "torchmin-lbfgs",
    "torchzero-bfgs",
    "torchzero-ssvm",
)
"""Beside every optimizer of this library; those of them that are installed."""


@dataclass(frozen=True, slots=True)
class CutestRequest:
    """A checked request.

    Attributes:
        methods: Every one runs on every problem.
        problems: Names out of the development set.
        evaluations: Budget of each run in gradient equivalents.
        product_price: Gradient equivalents that a Hessian product counts as.
        threads: Of torch and BLAS.
        folder: Where records and report go.
        resume: Whether runs that the folder holds are left out.
    """

    methods: tuple[Method, ...]
    problems: tuple[str, ...]
    evaluations: int
    product_price: float
    threads: int
    folder: Path
    resume: bool

    @property
    def run_count(self) -> int:
        """How many runs the whole is."""
        return len(self.methods) * len(self.problems)

    @classmethod
    def parse(cls, words: RaceWords, problems: str, product_price: float | None) -> CutestRequest:
        """The request from the words of the command line.

        Raises:
            UsageError: If an option has no meaning here, a name is unknown, a number is out of range, or the folder holds another race and ``resume`` is off.
        """
        _refuse_foreign(words)
        evaluations = DEFAULT_EVALUATIONS if words.evaluations is None else words.evaluations
        price = PRODUCT_PRICE if product_price is None else product_price
        if evaluations < 1:
            raise UsageError(f"--evaluations needs a positive number, got {evaluations}.", "for instance --evaluations 1000")
        if not (math.isfinite(price) and price > 0):
            raise UsageError(f"--product-price needs a positive number of gradients, got {price:g}.", "for instance --product-price 2")
        chosen = select_cutest_methods(_names(words.methods)) if words.methods else default_methods()
        names = _problem_names(problems)
        folder = Path(words.out) if words.out else default_folder(CUTEST, words.resume)
        if not words.resume and (folder / RECORDS_FILE).exists():
            raise UsageError(f"The folder {folder} already holds a race.", "add --resume to go on with it, or name another folder with --out")
        return cls(chosen, names, evaluations, price, parse_threads(words.threads), folder, words.resume)


def default_methods() -> tuple[Method, ...]:
    """Every optimizer of this library that takes the full batch, and the peers that are installed."""
    known = methods_for(trains=False)
    return select_cutest_methods([*METHODS, *(name for name in PEERS if known[name].is_installed)])


def select_cutest_methods(names: list[str]) -> tuple[Method, ...]:
    """The named methods.

    Raises:
        UsageError: As :func:`~secant.race.registry.select_methods`, and where a method has a grid of learning rates or needs a process of its own.
    """
    chosen = select_methods(names)
    for method in chosen:
        if method.needs_residual:
            raise UsageError(f"The method {method.name!r} minimizes sums of squares, which these problems are not.", "leave it out")
        if len(method.variants) != 1 or method.own_process or method.feed is not Feed.FULL_BATCH:
            reason = "has a grid of learning rates" if len(method.variants) != 1 else "needs a process of its own for each run"
            raise UsageError(f"The method {method.name!r} {reason}, which this race does not offer.", "leave it out")
    return tuple(chosen)


def _problem_names(words: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(_names(words))) if words else DEVELOPMENT_SET
    if not names:
        raise UsageError("--problems names no problem.", "leave it out to race on all of the development set")
    for name in names:
        if name not in DEVELOPMENT_SET:
            near = difflib.get_close_matches(name.upper(), DEVELOPMENT_SET, n=3)
            said = f"did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(
                f"{name!r} is not one of the {len(DEVELOPMENT_SET)} problems of the development set.", f"{said}the others stay unseen, to check results on them"
            )
    return names


def _refuse_foreign(words: RaceWords) -> None:
    """Options of other races would be silently without effect."""
    plain = RaceWords(problem=words.problem, methods=words.methods, evaluations=words.evaluations, threads=words.threads, out=words.out, resume=words.resume)
    foreign = [field for field in RaceWords.__dataclass_fields__ if getattr(words, field) != getattr(plain, field)]
    if foreign:
        option = "--" + {"compiled": "compile", "rates": "lr"}.get(foreign[0], foreign[0]).replace("_", "-")
        raise UsageError(
            f"The race {CUTEST} has no option {option}.",
            "it takes --methods, --problems, --evaluations, --product-price, --threads, --out, --resume and --json",
        )


def _names(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]
