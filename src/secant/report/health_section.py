"""Gradient health on the page of a race: maps of gradients and updates per layer, what is wrong with which layer, and the noise scale."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from secant.race.records import HealthMoment, LayerHealth, RunRecord
from secant.race.standings import Standing
from secant.report.curves import curve
from secant.report.heat_map import HeatMap, heat_map, powers_of
from secant.report.line_figure import Line, line_figure
from secant.report.markup import details, escaped, paragraph, section, table
from secant.report.numbers import magnitude
from secant.report.table import percent

_LAYER_HEADINGS = ("layer", "gradient, first", "gradient, last", "update / weights", "zeros", "not finite")
_MOST_NAMED = 4
_LARGEST_RATIO = 1.0
"""In powers of ten: updates ten times as large as the weights have gone wrong, however wrong."""
_RULE = (
    "Gradient norms are taken before clipping; updates are divided by the norm of the layer's weights, and a thousandth is usual. Layers stand from the input, "
    "at the top, to the output. All methods have the same shades; an empty cell is an exact zero, a crossed one is not finite, a name in color has a problem."
)
_NOISE_RULE = (
    "The noise scale is the batch at which the noise of the gradient is as large as the gradient: much smaller batches waste steps, much larger ones samples."
)


@dataclass(frozen=True, slots=True)
class _Watched:
    """The health of a run, as a curve wants it."""

    trace: Sequence[HealthMoment]


def health_section(places: Sequence[Standing]) -> str:
    """The gradients of the first seed of each method; empty when none was recorded."""
    watched = [(place.name, moments) for place in places if (moments := _moments(place.runs[0]))]
    if not watched:
        return ""
    gradients = powers_of([layer.gradient for _, moments in watched for moment in moments for layer in moment.layers])
    ratios = powers_of([_ratio(layer) for _, moments in watched for moment in moments for layer in moment.layers], highest=_LARGEST_RATIO)
    parts = [_method(name, moments, gradients, ratios, index) for index, (name, moments) in enumerate(watched)]
    seeds = sorted({place.runs[0].seed for place in places})
    seed = f"Seed {seeds[0]}. " if len(seeds) == 1 else ""
    return section("Gradient health", paragraph(seed + _RULE, "note"), *parts, _noise(places))


def _moments(run: RunRecord) -> tuple[HealthMoment, ...]:
    return () if run.training is None else run.training.health


def _ratio(layer: LayerHealth) -> float | None:
    if layer.update is None or layer.weight is None:
        return None
    return layer.update / layer.weight if layer.weight > 0.0 else 0.0


def _method(name: str, moments: Sequence[HealthMoment], gradients: tuple[float, float], ratios: tuple[float, float], index: int) -> str:
    layers = [layer.name for layer in moments[0].layers]
    flagged = {layer for moment in moments for layer in moment.problems}
    steps = [moment.step for moment in moments]
    maps = []
    for title, identifier, powers, read in (
        ("Gradient norm", f"gradient-{index}", gradients, lambda layer: layer.gradient),
        ("Update over weights", f"update-{index}", ratios, _ratio),
    ):
        values = [[read(moment.layers[row]) for moment in moments] for row in range(len(layers))]
        svg = heat_map(HeatMap(layers, steps, values, powers, flagged), identifier, f"{title} of {name}")
        maps.append(f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>")
    rows = [_layer_row(layer, [moment.layers[row] for moment in moments]) for row, layer in enumerate(layers)]
    every_layer = details(f"Every layer of {name}", table(_LAYER_HEADINGS, rows, range(1, 6)))
    return f'<h3 class="part">{escape(name)}</h3>{_problems(moments)}<div class="figures close">{"".join(maps)}</div>{every_layer}'


def _layer_row(name: str, seen: Sequence[LayerHealth]) -> tuple[str, ...]:
    ratios = [ratio for ratio in map(_ratio, seen) if ratio is not None]
    return (
        name,
        magnitude(seen[0].gradient),
        magnitude(seen[-1].gradient),
        magnitude(statistics.median(ratios) if ratios else None),
        percent(max(layer.zeros for layer in seen)),
        percent(max(layer.not_finite for layer in seen)),
    )


def _problems(moments: Sequence[HealthMoment]) -> str:
    """One line per kind of problem: which layers, at which steps, and the remedy."""
    kinds: dict[str, dict[str, list[int]]] = {}
    for moment in moments:
        for layer, sentence in moment.problems.items():
            kinds.setdefault(sentence.removeprefix(f"Layer {layer} "), {}).setdefault(layer, []).append(moment.step)
    if not kinds:
        return paragraph("No layer vanishes, explodes or leaves the numbers at any of the moments looked at.")
    items = []
    for sentence, layers in kinds.items():
        steps = sorted({step for at in layers.values() for step in at})
        when = f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps)} of {len(moments)} moments, steps {steps[0]:,} to {steps[-1]:,}"
        items.append(f"<li><strong>{escape(_enumerated(list(layers)))}</strong> {escaped(f'({when}): {sentence}')}</li>")
    return f"<ul>{''.join(items)}</ul>"


def _enumerated(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMED - 1])} and {len(names) - _MOST_NAMED + 1} more, to {names[-1]}"


def _noise(places: Sequence[Standing]) -> str:
    lines = []
    for index, place in enumerate(places):
        runs = [_Watched(_moments(run)) for run in place.runs]
        points = curve(runs, lambda moment: float(moment.step), lambda moment: moment.noise_scale)
        if points:
            lines.append(Line(index, place.method, points))
    svg = line_figure(lines, "step", "noise scale (samples)", "noise-scale", cut_high=False)
    return f'<h3 class="part">Noise scale</h3>{paragraph(_NOISE_RULE, "note")}<figure>{svg}</figure>' if svg else ""
