"""The answer of a comparison in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from secant.race.comparison import Comparison
from secant.race.comparison_verdict import Verdict
from secant.race.standings import Standing
from secant.report.numbers import magnitude
from secant.report.technique_text import techniques_of

_DIGITS = 3
_SAME = 0.01
_SMALL = 1.1


def sentence(comparison: Comparison, places: Mapping[str, Standing], verdict: Verdict | None) -> str:
    """Which setting, by how much better than what, and how wide the range of equally good ones is."""
    if verdict is None:
        return _without_verdict(comparison, places)
    place = places[verdict.best]
    problem = place.runs[0].problem
    measure = measure_name(place)
    is_default = verdict.best == comparison.default
    subject = f"The default, {verdict.best}," if is_default else verdict.best
    ends = "ends lowest" if verdict.is_beyond_noise is False else "is best"
    found = f"{subject} {ends} for {comparison.method} on {problem}: {measure} {magnitude(place.score.median, _DIGITS)}"
    return f"{found}, {_by_how_much(comparison, places, verdict)}; {_how_wide(comparison, verdict)}."


def measure_name(place: Standing) -> str:
    """What the settings are judged by."""
    run = place.runs[0]
    return run.error_name or ("training loss" if "feed" in techniques_of(run) else "loss")


def _without_verdict(comparison: Comparison, places: Mapping[str, Standing]) -> str:
    if any(math.isfinite(place.score.lowest) for place in places.values()) and len(places) < len(comparison.settings):
        return f"{len(places)} of {len(comparison.settings)} settings have run, too few to compare."
    return f"Under every setting of {comparison.technique.value}, most runs of {comparison.method} failed."


def _by_how_much(comparison: Comparison, places: Mapping[str, Standing], verdict: Verdict) -> str:
    rival = verdict.rival or ""
    against = comparison.against_default if rival == comparison.default else f"at the second best, {rival}"
    seeds = len(places[verdict.best].runs)
    if verdict.ratio is None:
        return f"against {magnitude(places[rival].score.median, _DIGITS)} {against}"
    if math.isinf(verdict.ratio.median):
        return f"where most runs {against} fail" if seeds > 1 else f"where the run {against} fails"
    times = f"{_times(verdict.ratio.median)} lower than {against}"
    if seeds == 1:
        return f"{times}, from one seed, which may be chance"
    span = f"{magnitude(verdict.ratio.lowest, _DIGITS)} to {magnitude(verdict.ratio.highest, _DIGITS)} times over {seeds} seeds"
    if verdict.is_beyond_noise:
        return f"{times} ({span})"
    if max(abs(verdict.ratio.lowest - 1.0), abs(verdict.ratio.highest - 1.0)) < _SAME:
        span = f"the same within 1 % over {seeds} seeds"
    return f"not beyond the noise of the seeds: {against} it is {span}"


def _times(ratio: float) -> str:
    """``1.8 times``, or in percent where that says more."""
    return f"{magnitude(100.0 * (1.0 - 1.0 / ratio))} %" if ratio < _SMALL else f"{magnitude(ratio)} times"


def _how_wide(comparison: Comparison, verdict: Verdict) -> str:
    order = [setting.name for setting in comparison.settings]
    value = {setting.name: setting.value for setting in comparison.settings}
    others = [name for name in verdict.near if name != verdict.best]
    if not others:
        wide = "no other one is within 10 % of the best"
    elif comparison.is_scale and _is_a_run([order.index(name) for name in verdict.near]):
        first, last = verdict.near[0], verdict.near[-1]
        noun = comparison.technique.value
        names = f"{noun} {value[first]} and {value[last]} are" if len(verdict.near) == 2 else f"every {noun} from {value[first]} to {value[last]} is"
        wide = f"{names} within 10 % of the best"
    else:
        wide = f"{_listed(others)} {'is' if len(others) == 1 else 'are'} within 10 % of the best"
    return f"{wide}, and the best stands at the edge of what was tried" if verdict.is_at_edge else wide


def _is_a_run(places: Sequence[int]) -> bool:
    return list(places) == list(range(places[0], places[0] + len(places)))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
