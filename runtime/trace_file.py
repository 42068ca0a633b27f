"""Recorded traffic: what all readers of trace files have in common.

A file is read to its end before anything is simulated, so that nothing rests on half a trace.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from servesim.errors import InputError, UnknownNameError, reason
from servesim.runtime.lengths import require_positive
from servesim.runtime.request import RequestSpec
from servesim.runtime.sessions import Session
from servesim.runtime.source import OpenSource
from servesim.runtime.streams import stream

#: A row as the file gives it, by field name.
Row = Mapping[str, Any]
#: What a row describes: a request, or a session.
Entry = TypeVar("Entry", RequestSpec, Session)
#: From a row and its place to its entry.
Parser = Callable[[Row, int], Entry]


@dataclass(frozen=True, kw_only=True)
class TraceFile(ABC, Generic[Entry]):
    """A file with one request or session a row, in order of arrival.

    Attributes:
        path: the file; one that ends in .gz is unpacked.
        max_requests: keep the first so many rows of what is left of the trace.
        rate_scale: they come so many times as fast as recorded.
        start_s, end_s: the part of the trace to keep, in seconds of the recording; it then starts
            at 0.
        sample: share of the rows to keep, at random.
        seed: fixes which.
    """

    path: Path
    max_requests: int | None = None
    rate_scale: float = 1.0
    start_s: float = 0.0
    end_s: float | None = None
    sample: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive("rate_scale", self.rate_scale)
        if self.max_requests is not None:
            require_positive("max_requests", self.max_requests)
        if not 0 < self.sample <= 1:
            raise InputError(f"sample must be in (0, 1], not {self.sample}")
        if self.start_s < 0:
            raise InputError(f"start_s must not be negative, not {self.start_s}")
        if self.end_s is not None and self.end_s <= self.start_s:
            raise InputError(f"end_s {self.end_s:g} must be after start_s {self.start_s:g}")

    def entries(self) -> list[Entry]:
        """What is asked for of a file without a fault.

        Raises:
            InputError: it cannot be read, has no rows, or a row cannot be used.
        """
        everything = self._recorded()
        if not everything:
            raise InputError(f"{self.path} has no requests")
        kept = self._selected(everything)[: self.max_requests]
        if not kept:
            raise InputError(
                f"{self.path}: none of its {len(everything)} requests is left by start_s, end_s"
                " and sample"
            )
        return kept

    @abstractmethod
    def _rows(self) -> Iterator[tuple[int, Row]]:
        """Each row with its line number."""

    @abstractmethod
    def _parser(self) -> Parser[Entry]:
        """What turns rows, in order, into entries."""

    def _recorded(self) -> list[Entry]:
        parse = self._parser()
        entries: list[Entry] = []
        for number, row in self._rows():
            try:
                entry = parse(row, len(entries))
                if entries and entry.arrival_s < entries[-1].arrival_s:
                    before = entries[-1].arrival_s
                    raise InputError(f"arrival_s {entry.arrival_s} is before that above, {before}")
            except InputError as error:
                raise InputError(f"{self.path}:{number}: {error}") from error
            entries.append(entry)
        return entries

    def _selected(self, entries: list[Entry]) -> list[Entry]:
        end = float("inf") if self.end_s is None else self.end_s
        if (self.start_s, end, self.rate_scale, self.sample) == (0.0, float("inf"), 1.0, 1.0):
            return entries
        kept = stream(self.seed, "sample").random(len(entries)) < self.sample
        return [
            replace(entry, arrival_s=(entry.arrival_s - self.start_s) / self.rate_scale)
            for entry, keep in zip(entries, kept.tolist(), strict=True)
            if keep and self.start_s <= entry.arrival_s < end
        ]


@dataclass(frozen=True, kw_only=True)
class RequestFile(TraceFile[RequestSpec]):
    """A file of requests that come whatever happens to those before."""

    def source(self) -> OpenSource:
        """The requests in order of arrival."""
        requests = self.entries()
        return OpenSource(requests, len(requests))


class Clock:
    """Seconds since the first time it was told."""

    def __init__(self) -> None:
        self._zero: float | None = None

    def seconds(self, time: float) -> float:
        """Seconds from the first ``time`` to this.

        Raises:
            InputError: it is before the first.
        """
        if self._zero is None:
            self._zero = time
        if time < self._zero:
            raise InputError(
                f"its time is {self._zero - time:g} s before that of the first request"
            )
        return time - self._zero


def whole_text(path: Path) -> str:
    """All of a file.

    Raises:
        InputError: it cannot be read to its end.
    """
    return "".join(line for _, line in text_lines(path))


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1.

    Raises:
        InputError: the file cannot be read to its end.
    """
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        where = f"{path}:{number + 1}: " if number else ""
        raise InputError(f"{where}cannot read {path}: {reason(error)}") from error


def json_rows(path: Path, known: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """JSON objects, one a line, with no other fields than ``known``.

    Raises:
        InputError: a line is none, or the file cannot be read; with its number.
    """
    for number, line in text_lines(path):
        try:
            yield number, _object(line, known)
        except InputError as error:
            raise InputError(f"{path}:{number}: {error}") from error


def csv_rows(
    path: Path, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, Row]]:
    """Rows of a CSV file whose header has all ``needed`` columns and no others than ``optional``.

    What reads as a number is one.

    Raises:
        InputError: a column or a value is missing or too many, or the file cannot be read.
    """
    lines = text_lines(path)
    names = next(csv.reader(line for _, line in lines), [])
    for name in names:
        if name not in (*needed, *optional):
            raise InputError(f"{path}:1: {UnknownNameError('column', name, (*needed, *optional))}")
    for name in needed:
        if name not in names:
            raise InputError(f"{path}:1: column {name!r} is missing (it has: {', '.join(names)})")
    for number, line in lines:
        values = next(csv.reader([line]))
        if len(values) != len(names):
            raise InputError(f"{path}:{number}: {len(values)} values for {len(names)} columns")
        yield number, dict(zip(names, map(_number_or_text, values), strict=True))


def whole(row: Row, name: str, default: int | None = None) -> int:
    """The whole number in field ``name``.

    Raises:
        InputError: it is missing or something else.
    """
    value = _value(row, name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number, not {value!r}")
    return value


def seconds(row: Row, name: str) -> float:
    """The number, from 0 on, in field ``name``.

    Raises:
        InputError: it is missing, negative or something else.
    """
    value = _value(row, name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(f"{name} must be a number, not {value!r}")
    if value < 0:
        raise InputError(f"{name} must not be negative, not {value}")
    return float(value)


def wholes(row: Row, name: str) -> tuple[int, ...]:
    """The list of whole numbers in field ``name``; empty if it is missing.

    Raises:
        InputError: it is something else.
    """
    values = row.get(name, [])
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise InputError(f"{name} must be a list of whole numbers")
    return tuple(values)


def _value(row: Row, name: str, default: Any = None) -> Any:
    value = row.get(name, default)
    if value is None:
        raise InputError(f"{name} is missing")
    return value


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _object(line: str, known: Sequence[str]) -> dict[str, Any]:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error}") from error
    if not isinstance(given, dict):
        raise InputError(f"not a JSON object: {line.strip()[:60]}")
    for name in given:
        if name not in known:
            raise UnknownNameError("field", name, known)
    return given


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")
