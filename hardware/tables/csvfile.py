"""Measured rows from CSV files, with errors that name file, line and value."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from servesim.errors import InputError, reason

T = TypeVar("T")
Row = Mapping[str, str]
#: Most columns that a message lists.
_MOST_COLUMNS = 16


def read_csv(path: Path, convert: Callable[[Row], T]) -> list[T]:
    """Every row of ``path`` (gzipped if it ends in ``.gz``), converted.

    Raises:
        InputError: the file cannot be read, has no rows, lacks a column or holds a bad value.
    """
    found: list[T] = []
    reader = csv.DictReader(io.StringIO(read_text(path)))
    for row in reader:
        if None in row or None in row.values():
            columns = len(reader.fieldnames or ())
            raise InputError(f"{path}, line {reader.line_num}: not {columns} values; cut off?")
        try:
            found.append(convert(row))
        except KeyError as error:
            there = listed(reader.fieldnames or ())
            raise InputError(f"{path}: no column {error} (there: {there})") from error
        except ValueError as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from error
    if not found:
        raise InputError(f"{path}: no measurements in it")
    return found


def read_text(path: Path) -> str:
    """What is written in ``path``, gzipped if it ends in ``.gz``.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error


def listed(columns: Sequence[str]) -> str:
    """The names of ``columns``, the first ones when there are many."""
    shown = ", ".join(columns[:_MOST_COLUMNS])
    return f"{shown} and {more} more" if (more := len(columns) - _MOST_COLUMNS) > 0 else shown


def seconds(text: str, unit: float) -> float:
    """A time given in multiples of ``unit`` seconds.

    Raises:
        ValueError: it is no positive, finite number.
    """
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(f"a time must be positive and finite, not {text}")
    return value * unit


def count(text: str, least: int = 0) -> int:
    """A number of things.

    Raises:
        ValueError: it is no whole number of at least ``least``.
    """
    value = float(text)
    if not (least <= value < math.inf and value == int(value)):
        raise ValueError(f"a count must be a whole number from {least}, not {text}")
    return int(value)
