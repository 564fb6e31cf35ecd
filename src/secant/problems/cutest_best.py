"""The smallest values known of the CUTEst problems: what "solved" is measured against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

BEST_VALUES_FILE: Final = "cutest_best_values.json"


@dataclass(frozen=True, slots=True)
class BestValues:
    """What the longest runs found.

    Attributes:
        evaluations: The budget of those runs in gradient equivalents.
        values: The smallest ``f`` that any method reached, by problem.
        reached_by: The method that reached it.
        unbounded: Problems whose values fall below every bound.
    """

    evaluations: int
    values: Mapping[str, float]
    reached_by: Mapping[str, str]
    unbounded: frozenset[str]


def best_values() -> BestValues:
    """The committed values, ``benchmarks/cutest.py`` writes them."""
    stored = json.loads(resources.files("secant.problems").joinpath(BEST_VALUES_FILE).read_text(encoding="utf-8"))
    rows = stored["problems"]
    return BestValues(
        evaluations=stored["evaluations"],
        values={name: row["value"] for name, row in rows.items() if row["value"] is not None},
        reached_by={name: row["method"] for name, row in rows.items() if row["value"] is not None},
        unbounded=frozenset(name for name, row in rows.items() if row["value"] is None),
    )
