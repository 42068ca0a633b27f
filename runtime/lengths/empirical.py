"""Lengths drawn from those given."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from servesim.errors import InputError, reason
from servesim.runtime.lengths import LENGTHS, MOST, Tokens, require_count


@LENGTHS.register("empirical")
@dataclass(frozen=True)
class Empirical:
    """Independent draws from ``values``, or from a column of a CSV file.

    Attributes:
        values: the lengths to draw from.
        path: a CSV file with a header, or that compressed with gzip.
        column: its column of lengths.
    """

    values: Sequence[int] = ()
    path: Path | None = None
    column: str | None = None

    def __post_init__(self) -> None:
        if bool(self.values) == (self.path is not None):
            raise InputError("give either values or a path, not both or none")
        for value in self.values:
            require_count("each length", value)

    def sample(self, rng: np.random.Generator, count: int) -> Tokens:
        """``count`` independent draws."""
        known = self.values if self.path is None else self._read(Path(self.path))
        return rng.choice(np.asarray(known, dtype=np.int64), size=count)

    def _read(self, path: Path) -> list[int]:
        opened = gzip.open if path.suffix == ".gz" else open
        try:
            with opened(path, "rt", encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file)
                names = rows.fieldnames or []
                if self.column not in names:
                    known = ", ".join(names)
                    raise InputError(f"{path} has no column {self.column!r} (it has: {known})")
                values = [self._length(path, rows.line_num, row[self.column]) for row in rows]
        except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
            raise InputError(f"cannot read lengths from {path}: {reason(error)}") from error
        if not values:
            raise InputError(f"{path} has no lengths")
        return values

    @staticmethod
    def _length(path: Path, line: int, text: str | None) -> int:
        try:
            value = int(float(text or ""))
        except (OverflowError, ValueError):
            value = 0
        if not 1 <= value <= MOST:
            raise InputError(f"{path}:{line}: a length must be from 1 to {MOST}, not {text!r}")
        return value
