"""One method under every setting of one training technique."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from secant.race.batch_method import with_rates
from secant.race.budget import Budget
from secant.race.errors import UsageError
from secant.race.method import BatchVariant, Feed, Method
from secant.race.plan import Plan
from secant.race.techniques import PLAIN, Schedule, Techniques

_NORMS = (0.1, 1.0, 10.0)
_LARGEST_ELEMENT = 0.01
_COUNTS = (1, 2, 4, 8)
_MOMENTA = (0.0, 0.5, 0.9, 0.95, 0.99)
_DECADES = (-2, -1, 0, 1, 2)
_HALF_DECADE = 3.0


class Compared(Enum):
    """The technique whose settings are compared."""

    SCHEDULE = "schedule"
    CLIP = "clip"
    ACCUMULATE = "accumulate"
    MOMENTUM = "momentum"
    LR = "lr"


@dataclass(frozen=True, slots=True)
class ComparedSetting:
    """One setting.

    Attributes:
        name: In the words of the command line: ``"clip-norm 0.1"``.
        value: What tells it from its neighbors on a scale: ``"0.1"``.
        plan: Its runs.
    """

    name: str
    value: str
    plan: Plan


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is run and how it is to be read.

    Attributes:
        technique: What is compared.
        method: Name of the method.
        settings: In their natural order.
        default: Name of the setting that the method has without being told; None where that is not known.
        against_default: How a sentence names that setting after "lower than".
        is_scale: Whether the settings have an order, so that those between two good ones can be expected to be good.
    """

    technique: Compared
    method: str
    settings: tuple[ComparedSetting, ...]
    default: str | None
    against_default: str
    is_scale: bool

    @property
    def plans(self) -> tuple[Plan, ...]:
        """All runs."""
        return tuple(setting.plan for setting in self.settings)


def compare(technique: Compared, plan: Plan, *, samples: int | None, batch: int | None) -> Comparison:
    """The runs of a comparison.

    Every setting has the same budget; of ``ACCUMULATE`` the same number of micro-batches, so that more of them per step means fewer steps. Each setting gets
    the method's whole grid of learning rates, but for ``LR``, which has a grid of its own: four decades in half-decade steps around the method's rate.

    Args:
        technique: What is compared.
        plan: One method with every other technique; the compared one is left at its default.
        samples: Of training data; None for a problem without.
        batch: Samples per micro-batch; None for a problem without training data.

    Raises:
        UsageError: If there is not exactly one method, the plan sets the compared technique itself, or the method does not take it.
    """
    if len(plan.methods) != 1:
        names = ", ".join(method.name for method in plan.methods)
        raise UsageError(f"--compare runs one method under every setting, got {len(plan.methods)}: {names}.", "name one with --methods")
    (method,) = plan.methods
    _refuse_set_already(technique, plan.techniques)
    if method.feed is Feed.FULL_BATCH:
        _refuse_full_batch(technique, method)
    if technique is Compared.SCHEDULE:
        return _schedules(plan, method)
    if technique is Compared.CLIP:
        return _clips(plan, method)
    if technique is Compared.ACCUMULATE:
        return _accumulations(plan, method, samples, batch)
    if technique is Compared.MOMENTUM:
        return _momenta(plan, method)
    return _rates(plan, method)


def _refuse_set_already(technique: Compared, techniques: Techniques) -> None:
    options: Mapping[Compared, tuple[str, ...]] = {
        Compared.SCHEDULE: ("schedule",),
        Compared.CLIP: ("clip_norm", "clip_value"),
        Compared.ACCUMULATE: ("accumulate",),
        Compared.MOMENTUM: ("momentum",),
        Compared.LR: (),
    }
    for name in options[technique]:
        if getattr(techniques, name) != getattr(PLAIN, name):
            raise UsageError(f"--compare {technique.value} sets --{name.replace('_', '-')} itself.", "leave one of the two out")


def _refuse_full_batch(technique: Compared, method: Method) -> None:
    reasons = {
        Compared.ACCUMULATE: "its step is the same however the data are divided, only the memory is not",
        Compared.MOMENTUM: "its direction comes from curvature, not from an average of past gradients",
        Compared.LR: "a line search or a trust region chooses the length of its steps, or its grid is its own",
    }
    if technique in reasons:
        hint = "compare a method that learns from batches, such as rank-one-kron"
        raise UsageError(f"--compare {technique.value} is not for {method.name}, which takes the full batch: {reasons[technique]}.", hint)


def _with(plan: Plan, name: str, value: str, **changes: object) -> ComparedSetting:
    techniques = dataclasses.replace(plan.techniques, **changes)  # type: ignore[arg-type]
    return ComparedSetting(name, value, dataclasses.replace(plan, techniques=techniques, setting=name))


def _schedules(plan: Plan, method: Method) -> Comparison:
    settings = tuple(_with(plan, f"{schedule.value} schedule", schedule.value, schedule=schedule) for schedule in Schedule)
    return Comparison(Compared.SCHEDULE, method.name, settings, settings[0].name, "with a constant rate", is_scale=False)


def _clips(plan: Plan, method: Method) -> Comparison:
    settings = [_with(plan, "no clipping", "none"), *(_with(plan, f"clip-norm {norm:g}", f"norm {norm:g}", clip_norm=norm) for norm in _NORMS)]
    if method.feed is Feed.BATCH:
        settings.append(_with(plan, f"clip-value {_LARGEST_ELEMENT:g}", f"value {_LARGEST_ELEMENT:g}", clip_value=_LARGEST_ELEMENT))
    return Comparison(Compared.CLIP, method.name, tuple(settings), settings[0].name, "without clipping", is_scale=False)


def _accumulations(plan: Plan, method: Method, samples: int | None, batch: int | None) -> Comparison:
    if samples is None or batch is None:
        raise UsageError("--compare accumulate divides training data, and this problem has none.", "choose a problem such as mnist-mlp")
    micro_batches = plan.budget.counted(samples / batch).steps_of(1)
    if micro_batches is None:
        raise UsageError(f"--compare accumulate compares at equal samples, got a budget of {plan.budget.text}.", "give --steps or --epochs")
    largest = max(_COUNTS)
    equal = micro_batches // largest * largest
    if not equal:
        raise UsageError(f"--compare accumulate needs {largest} micro-batches or more, got a budget of {plan.budget.text}.", "give more --steps")
    shared = dataclasses.replace(plan, budget=Budget(evaluations=equal))
    settings = tuple(_with(shared, f"accumulate {count}", str(count), accumulate=count) for count in _COUNTS)
    return Comparison(Compared.ACCUMULATE, method.name, settings, settings[0].name, "at accumulate 1", is_scale=True)


def _momenta(plan: Plan, method: Method) -> Comparison:
    if not method.takes_momentum:
        raise UsageError(f"--compare momentum is not for {method.name}, which takes no other momentum than its own.", "sgd-momentum takes it")
    own = method.variants[0].settings.get("momentum")
    known = isinstance(own, float | int)
    momenta = sorted({*_MOMENTA, float(own)}) if isinstance(own, float | int) else list(_MOMENTA)
    settings = tuple(_with(plan, f"momentum {momentum:g}", f"{momentum:g}", momentum=momentum) for momentum in momenta)
    default = f"momentum {own:g}" if known else None
    return Comparison(Compared.MOMENTUM, method.name, settings, default, f"at its default {own:g}" if known else "", is_scale=True)


def _rates(plan: Plan, method: Method) -> Comparison:
    rates = _rates_of(method)
    center = rates[len(rates) // 2]
    wide = with_rates(method, lr_grid(center))
    settings = tuple(
        ComparedSetting(f"lr {rate:g}", f"{rate:g}", dataclasses.replace(plan, methods=(wide,), members={method.name: f"lr={rate:g}"}))
        for rate in _rates_of(wide)
    )
    against = f"at its default {center:g}" if len(rates) == 1 else f"in the middle of its grid, {center:g}"
    return Comparison(Compared.LR, method.name, settings, f"lr {center:g}", against, is_scale=True)


def _rates_of(method: Method) -> list[float]:
    return sorted(variant.lr for variant in method.variants if isinstance(variant, BatchVariant))


def lr_grid(center: float) -> Sequence[float]:
    """Nine learning rates over four decades, two per decade, with ``center`` in their middle."""
    grid = [center * 10.0**decade * factor for decade in _DECADES for factor in (1.0, _HALF_DECADE)]
    return [float(f"{rate:.6g}") for rate in grid[:-1]]
