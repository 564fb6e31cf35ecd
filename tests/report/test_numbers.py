from __future__ import annotations

import math

import pytest

from secant.report.numbers import count, duration, magnitude
from secant.report.table import text_table


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.13e-5, "2.1e-5"), (0.0, "0"), (0.123, "0.12"), (1234.0, "1234"), (1.5e12, "1.5e12"), (None, "\u2013"), (math.nan, "\u2013"), (math.inf, "\u2013")],
)
def test_numbers_have_two_digits_and_no_padded_exponent(value: float | None, text: str) -> None:
    assert magnitude(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0083, "8.3 ms"), (12.14, "12.1 s"), (59.97, "1 min 0 s"), (119.8, "2 min 0 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min"), (7199.0, "2 h 0 min")],
)
def test_durations_carry_their_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_have_their_thousands_apart() -> None:
    assert count(12345.0, "evaluations") == "12,345 evaluations"


def test_a_table_of_text_is_aligned() -> None:
    assert text_table(["a", "n"], [["long", "1"], ["b", "22"]], numeric=(1,)) == "a      n\n----  --\nlong   1\nb     22"
