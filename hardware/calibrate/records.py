"""Tables as they are found, CSV or parquet, with errors that name file, line and value."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from servesim.errors import InputError, UnknownNameError, reason
from servesim.hardware.tables.csvfile import listed, read_text

if TYPE_CHECKING:
    import pandas as pd


def read_frame(path: Path) -> pd.DataFrame:
    """The table in a file: parquet by its ending, else CSV, maybe gzipped.

    Raises:
        InputError: the file cannot be read, or is empty.
        ImportError: the library that reads parquet is missing.
    """
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, encoding="utf-8-sig")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error
    if table.empty:
        raise InputError(f"{path}: no measurements in it")
    return table


def require_columns(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Refuse a table that lacks one of ``columns``.

    Raises:
        InputError: it does.
    """
    for column in columns:
        if column not in table.columns:
            there = listed([str(name) for name in table.columns])
            raise InputError(f"{path}: no column {column!r} (there: {there})")


def require_times(table: pd.DataFrame, column: str, path: Path) -> None:
    """Refuse a table with a time that is no positive, finite number.

    Raises:
        InputError: there is one, or no such column.
    """
    require_columns(table, [column], path)
    numbers = _numbers(table, column)
    good = (numbers > 0) & np.isfinite(numbers)
    _require(good, table, column, path, "a time must be positive and finite")


def require_counts(table: pd.DataFrame, columns: Iterable[str], path: Path, least: int = 0) -> None:
    """Refuse a table in which one of ``columns``, if it is there, is no count.

    Raises:
        InputError: a value is no whole number of at least ``least``.
    """
    for column in columns:
        if column in table.columns:
            numbers = _numbers(table, column)
            good = np.isfinite(numbers) & (numbers >= least) & (numbers == np.floor(numbers))
            _require(good, table, column, path, f"a count must be a whole number from {least}")


def require_names(table: pd.DataFrame, column: str, known: Iterable[str], path: Path) -> None:
    """Refuse a table in which ``column``, if it is there, has another name than the ``known``.

    Raises:
        UnknownNameError: it has.
    """
    if column in table.columns:
        names = list(known)
        for i, name in enumerate(table[column]):
            if name not in names:
                raise UnknownNameError(f"{column} in {_place(path, i)}:", str(name), names)


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    import pandas as pd

    numbers = pd.to_numeric(table[column], errors="coerce")
    return np.asarray(numbers, dtype=float)


def _require(good: np.ndarray, table: pd.DataFrame, column: str, path: Path, wanted: str) -> None:
    if not good.all():
        i = int(np.argmin(good))
        value = table[column].iloc[i]
        raise InputError(f"{_place(path, i)}: {column}: {wanted}, not {value}")


def _place(path: Path, index: int) -> str:
    """Where the row at ``index`` stands in the file; lines that are blank are no rows."""
    if path.suffix == ".parquet":
        return f"{path}, row {index + 1}"
    lines = enumerate(io.StringIO(read_text(path), newline=None), start=1)
    written = [number for number, line in lines if line.strip()]
    return f"{path}, line {written[index + 1]}"
