"""The file of finished runs: one JSON record per line, safe against a crash at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from secant.race.errors import UsageError
from secant.race.records import RunRecord

_RecordT = TypeVar("_RecordT", bound=BaseModel)


def read_records(path: Path) -> list[RunRecord]:
    """The run records of a file; see :func:`read_lines`."""
    return read_lines(path, RunRecord)


def read_lines(path: Path, kind: type[_RecordT]) -> list[_RecordT]:
    """The records of a file, oldest first; none when it does not exist.

    A line is whole once its line break is there. What follows the last line break is a write that a crash cut short, and is dropped.

    Raises:
        UsageError: If a whole line is not a record of this kind.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_parse(line, number, path, kind) for number, line in enumerate(lines, start=1) if line.strip()]


def _parse(line: bytes, number: int, path: Path, kind: type[_RecordT]) -> _RecordT:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "line"
        message = f"Line {number} of {path.name} is not a run record of this version ({field}: {problem['msg']})."
        raise UsageError(message, "delete that line, or write to another folder with --out") from error


def append_record(path: Path, record: BaseModel) -> None:
    """Write one record behind the others; when this returns, it is on the disk. A torn last line is cut off first."""
    with path.open("ab+") as file:
        _cut_torn_line(file.fileno(), path)
        file.write(record.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _cut_torn_line(descriptor: int, path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.ftruncate(descriptor, content.rfind(b"\n") + 1)


def finished_keys(records: Iterable[RunRecord]) -> frozenset[str]:
    """The identities of the runs that need not be repeated. A failed run is finished: it would fail again."""
    return frozenset(record.key for record in records)
