"""The data files of the NIST Statistical Reference Datasets for nonlinear regression, read strictly."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, NoReturn, final

from secant.problems.datasets import DataError

_NUMBER: Final = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[Ee][-+]?\d+)?"
_REMEDY: Final = "Install secant again."


@final
@dataclass(frozen=True, slots=True)
class NistFile:
    """What one file states; every number is the double nearest to what is printed.

    Attributes:
        name: The dataset's name.
        response: ``y``, one number per observation.
        predictors: The predictors of each observation.
        starts: NIST's two starts, one number per parameter each.
        certified: The certified parameters, 11 digits.
        deviations: The certified standard deviation of each.
        sum_of_squares: The certified residual sum of squares, 11 digits.
        sha256: Of the file.
    """

    name: str
    response: tuple[float, ...]
    predictors: tuple[tuple[float, ...], ...]
    starts: tuple[tuple[float, ...], tuple[float, ...]]
    certified: tuple[float, ...]
    deviations: tuple[float, ...]
    sum_of_squares: float
    sha256: str


def read_nist(name: str) -> NistFile:
    """The dataset ``name``, from the file inside this package, whose checksum is verified.

    Raises:
        DataError: The file is absent, altered, or not of the form that it describes itself.
    """
    folder = resources.files("secant.problems").joinpath("nist")
    sha256 = json.loads(folder.joinpath("manifest.json").read_text(encoding="ascii"))["sha256"]
    file = f"{name}.dat"
    if file not in sha256:
        raise DataError(f"Expected one of the files {', '.join(sha256)}, got {file}.", "Take one of them.")
    return parsed(name, _verified(folder.joinpath(file), sha256[file]).decode("ascii"))


def parsed(name: str, text: str) -> NistFile:
    """The dataset that ``text`` holds.

    The header says in which lines starts, certified values and data stand, and how many of each there are; all of it is checked against what stands there.

    Raises:
        DataError: Anything is missing, or disagrees with the header.
    """
    page = _Page(name, text.splitlines())
    if page.found(r"Dataset Name:\s+(\w+)") != name:
        page.fail(f"the name {name}", page.found(r"Dataset Name:\s+(\w+)"))
    observations, parameters = int(page.found(r"(\d+) Observations")), int(page.found(r"(\d+) Parameters \(b1 (?:to|and) b\d+\)"))
    columns = 1 + int(page.found(r"(\d+) Predictors?\b"))
    table = [page.numbers(line, 4, label=f"b{row} =") for row, line in enumerate(page.lines("Starting Values"), start=1)]
    data = [page.numbers(line, columns) for line in page.lines("Data")]
    certified_lines = page.lines("Certified Values")
    page.agree(parameters, len(table), "parameters")
    page.agree(observations, len(data), "observations")
    page.agree(observations, int(page.found(r"Number of Observations:\s+(\d+)", certified_lines)), "observations")
    first, second, certified, deviations = zip(*table, strict=True)
    sum_of_squares = float(page.found(rf"Residual Sum of Squares:\s+({_NUMBER})", certified_lines))
    deviation = float(page.found(rf"Residual Standard Deviation:\s+({_NUMBER})", certified_lines))
    # The degrees of freedom that the file states are left alone: those of Rat43 are not 15 - 4, though its standard deviation says they are.
    if not math.isclose(sum_of_squares, (observations - parameters) * deviation**2, rel_tol=1e-9):
        page.fail("a residual standard deviation that agrees with the sum of squares", f"{deviation} and {sum_of_squares}")
    response, *predictors = zip(*data, strict=True)
    digest = hashlib.sha256(text.encode("ascii")).hexdigest()
    return NistFile(name, response, tuple(zip(*predictors, strict=True)), (first, second), certified, deviations, sum_of_squares, digest)


@final
class _Page:
    """The lines of one file, with its name for the errors."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self._name = name
        self._lines = lines

    def fail(self, expected: str, got: object) -> NoReturn:
        raise DataError(f"{self._name}.dat: expected {expected}, got {got}.", _REMEDY)

    def agree(self, expected: int, got: int, what: str) -> None:
        if expected != got:
            self.fail(f"{expected} {what}", got)

    def found(self, pattern: str, lines: list[str] | None = None) -> str:
        """What the pattern's group matches, which must be in exactly one line."""
        matches = [match.group(1) for line in (self._lines if lines is None else lines) if (match := re.search(pattern, line))]
        if len(matches) != 1:
            self.fail(f"one line with {pattern!r}", len(matches))
        return matches[0]

    def lines(self, section: str) -> list[str]:
        """The lines in which the section stands by the header."""
        span = re.compile(rf"^\s*{section}\s+\(lines\s+(\d+) to\s+(\d+)\)")
        spans = [match for line in self._lines if (match := span.match(line))]
        if len(spans) != 1:
            self.fail(f"one statement of where {section} stand", len(spans))
        first, last = (int(number) for number in spans[0].groups())
        if not 0 < first <= last <= len(self._lines):
            self.fail(f"{section} in lines {first} to {last}", f"{len(self._lines)} lines")
        return self._lines[first - 1 : last]

    def numbers(self, line: str, count: int, label: str = "") -> tuple[float, ...]:
        """The numbers of a line that holds its label, so many numbers and nothing else."""
        match = re.fullmatch(rf"\s*{label}" + rf"\s+({_NUMBER})" * count + r"\s*", line)
        if match is None:
            self.fail(f"{count} numbers{' after ' + label if label else ''}", repr(line))
        return tuple(float(number) for number in match.groups())


def _verified(file: Traversable, sha256: str) -> bytes:
    if not file.is_file():
        raise DataError(f"Expected the file {file.name} inside the package, found none.", _REMEDY)
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(f"{file.name}: expected the SHA-256 {sha256[:12]}..., got {found[:12]}...", _REMEDY)
    return content
