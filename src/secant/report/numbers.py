"""Numbers for people, with their units."""

from __future__ import annotations

import math


def magnitude(value: float | None) -> str:
    """Two significant digits: ``2.1e-5``; a dash for what is not finite."""
    if value is None or not math.isfinite(value):
        return "–"  # noqa: RUF001 - typography
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def duration(seconds: float) -> str:
    """``8.3 ms``, ``12.1 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 59.95:  # what does not round to 60.0 s
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def count(value: float, unit: str = "") -> str:
    """Thousands apart: ``12,345 evaluations``."""
    return f"{value:,.0f} {unit}".rstrip()
