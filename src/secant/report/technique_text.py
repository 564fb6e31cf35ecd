"""The training techniques of a run in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from secant.race.records import RunRecord, Setting

_COUNTED = (
    ("accumulate", "{:g} micro-batches per step", 1),
    ("warmup", "warm-up of {:g} steps", 0),
    ("clip_norm", "gradient norm clipped at {:g}", None),
    ("max_step_length", "step length limited to {:g}", None),
    ("clip_value", "gradient elements clipped at {:g}", None),
    ("momentum", "momentum {:g}", None),
    ("weight_decay", "weight decay {:g}", 0.0),
)
"""Name in the record, words, and the value that goes without saying."""


def techniques_of(record: RunRecord) -> Mapping[str, Setting]:
    """What the record says of its techniques; nothing for a plain run."""
    return {} if record.training is None else record.training.techniques


def technique_words(techniques: Mapping[str, Setting]) -> tuple[str, ...]:
    """Each technique in a few words, plain training left out: ``("batches of 64", "cosine schedule", "momentum 0.9")``."""
    words = []
    if "batch" in techniques:
        words.append(f"batches of {techniques['batch']:g}")
    elif techniques.get("feed") == "full batch":
        words.append("full batch")
    return (*words, *setting_words(techniques))


def setting_words(techniques: Mapping[str, Setting]) -> tuple[str, ...]:
    """The same without what the method is fed; empty where nothing was asked for."""
    words = []
    schedule = str(techniques.get("schedule", "constant")).partition(":")[0]
    if schedule != "constant":
        words.append(f"{schedule} schedule")
    for name, text, plain in _COUNTED:
        value = techniques.get(name)
        if value is not None and value != plain:
            words.append(text.format(value))
    return tuple(words)


def common_words(records: Iterable[RunRecord]) -> tuple[str, ...]:
    """The techniques of several runs, each once, in the order they are met."""
    return tuple(dict.fromkeys(word for record in records for word in technique_words(techniques_of(record))))


def shared_words(records: Iterable[RunRecord]) -> tuple[str, ...]:
    """The techniques that all of several runs have."""
    words = [technique_words(techniques_of(record)) for record in records]
    return tuple(word for word in words[0] if all(word in each for each in words))
