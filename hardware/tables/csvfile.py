"""Measured rows from CSV files, with errors that name file, line and value."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from servesim.errors import InputError

T = TypeVar("T")
Row = Mapping[str, str]


def read_csv(path: Path, convert: Callable[[Row], T]) -> list[T]:
    """Every row of ``path`` (gzipped if it ends in ``.gz``), converted.

    Raises:
        InputError: the file cannot be read, has no rows, lacks a column or holds a bad value.
    """
    try:
        text = (
            gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        ).decode()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    found: list[T] = []
    reader = csv.DictReader(io.StringIO(text))
    for row in reader:
        try:
            found.append(convert(row))
        except KeyError as error:
            columns = ", ".join(reader.fieldnames or ())
            raise InputError(f"{path}: no column {error} (there: {columns})") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from error
    if not found:
        raise InputError(f"{path}: no measurements in it")
    return found
