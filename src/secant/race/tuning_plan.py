"""What can be tuned, and how many runs that takes."""

from __future__ import annotations

from secant.race.errors import UsageError
from secant.race.method import Method
from secant.race.plan import Plan


def has_rates(method: Method) -> bool:
    """Whether there is a grid of learning rates to choose from."""
    return len(method.variants) > 1 and all(isinstance(variant.settings.get("lr"), float) for variant in method.variants)


def tuned_run_count(plan: Plan) -> int:
    """How many runs a tuned race has: every grid from the first seed, one member of each grid of rates from each of the others."""
    first = sum(len(method.variants) for method in plan.methods)
    later = sum(1 if has_rates(method) else len(method.variants) for method in plan.methods)
    return first + later * (len(plan.seeds) - 1)


def refuse_untunable(plan: Plan) -> None:
    """Nothing, if at least one method has a grid of learning rates.

    Raises:
        UsageError: With the remedy.
    """
    if not any(map(has_rates, plan.methods)):
        raise UsageError("--tune chooses from grids of learning rates, and none of the methods has one.", "give one, for instance --lr 1e-3,3e-3,1e-2")
