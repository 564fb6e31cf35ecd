"""Which setting of a technique is best, by how much, and how much the choice matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

from secant.race.comparison import Compared, Comparison
from secant.race.standings import Spread, Standing, score_at_end, spread_of

_NEAR = 1.1
_LEVEL = 0.05
_IN_ALL_SEEDS = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a comparison.

    Attributes:
        best: Name of the setting with the lowest median score.
        rival: Name of what it is measured against: the default, or the second where the default is the best or not known; None when nothing else was finite.
        ratio: Score of the rival over that of the best, per seed; None where one is not positive.
        is_beyond_noise: Whether a paired t-test over the seeds tells the two apart at the five percent level; None from a single seed.
        near: Names of the settings whose median is within ten percent of the best, in their natural order, the best among them.
        is_at_edge: Whether the best is the last setting of a scale, or the first one of those that go on below it.
    """

    best: str
    rival: str | None
    ratio: Spread | None
    is_beyond_noise: bool | None
    near: tuple[str, ...]
    is_at_edge: bool


def judge(comparison: Comparison, places: Mapping[str, Standing]) -> Verdict | None:
    """The verdict; None when no setting has a finite score, or fewer than two settings were run from every seed that any was run from.

    Args:
        comparison: What was run.
        places: The standing of each setting, by its name; those that were not run yet are left out.
    """
    longest = max((len(place.runs) for place in places.values()), default=0)
    whole = {name: place for name, place in places.items() if len(place.runs) == longest}
    if len(whole) < _IN_ALL_SEEDS:
        return None
    reached = {name: spread_of(score_at_end(run) for run in place.runs) for name, place in whole.items()}
    order = [setting.name for setting in comparison.settings if setting.name in whole]
    ranked = sorted(order, key=lambda name: (reached[name].median, reached[name].highest, reached[name].lowest))
    best = ranked[0]
    lowest = reached[best].median
    if not math.isfinite(lowest):
        return None
    default = comparison.default
    rival = default if default in whole and default != best else ranked[1]
    ratios = _ratios(whole[best], whole[rival])
    near = tuple(name for name in order if reached[name].median <= (lowest * _NEAR if lowest >= 0.0 else lowest / _NEAR))
    ratio = spread_of(ratios) if ratios else None
    is_at_edge = comparison.is_scale and (best == order[-1] or (best == order[0] and comparison.technique is Compared.LR))
    return Verdict(best, rival, ratio, _is_beyond_noise(ratios), near, is_at_edge)


def _ratios(best: Standing, rival: Standing) -> list[float]:
    """The rival's score over the best one's, seed by seed: both started from the same point and saw the same data."""
    by_seed = {run.seed: score_at_end(run) for run in rival.runs}
    pairs = [(score_at_end(run), by_seed.get(run.seed)) for run in best.runs]
    if any(low is None or low <= 0.0 or (high is not None and high <= 0.0) for low, high in pairs):
        return []
    return [math.inf if high is None else high / low for low, high in pairs if low is not None]


def _is_beyond_noise(ratios: Sequence[float]) -> bool | None:
    if len(ratios) < _IN_ALL_SEEDS:
        return None
    if any(math.isinf(ratio) for ratio in ratios):
        return all(ratio > 1.0 for ratio in ratios)
    logarithms = [math.log(ratio) for ratio in ratios]
    error = stdev(logarithms) / math.sqrt(len(ratios))
    return fmean(logarithms) > error * float(stats.t.ppf(1.0 - _LEVEL / 2, len(ratios) - 1)) and min(logarithms) > 0.0
