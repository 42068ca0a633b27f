"""What was measured so far: one line a kernel and round, only ever appended to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from servesim.errors import InputError

FORMAT = 1


class Store:
    """The seconds of every round by kernel, kept in a JSONL file that survives interruptions.

    The first line describes machine, software and settings. A folder measured under others is
    refused: their numbers do not belong together.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Open or create the file at ``path``.

        Raises:
            InputError: it was measured elsewhere or with other software, or is damaged.
        """
        self.path = path
        self.rounds: dict[str, list[float]] = {}
        wanted = {"format": FORMAT, **header}
        if path.exists() and path.stat().st_size:
            self._read(wanted)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
        self._file: TextIO = path.open("a", encoding="utf-8")

    def add(self, kernel: str, seconds: float) -> None:
        """Keep one round of ``kernel``."""
        self.rounds.setdefault(kernel, []).append(seconds)
        self._file.write(json.dumps({"kernel": kernel, "seconds": seconds}) + "\n")
        self._file.flush()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _read(self, wanted: Mapping[str, Any]) -> None:
        text = self.path.read_text(encoding="utf-8")
        lines = text.splitlines()
        if not text.endswith("\n"):  # cut off in the middle of a line
            lines.pop()
            self.path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        try:
            found, *rows = map(json.loads, lines)
        except ValueError as error:
            raise InputError(
                f"{self.path}: damaged ({error}); measure into a new folder"
            ) from error
        different = [
            f"{key} was {found.get(key)!r}, is {wanted.get(key)!r}"
            for key in sorted({*found, *wanted})
            if found.get(key) != wanted.get(key)
        ]
        if different:
            raise InputError(
                f"{self.path} belongs to another measurement: {'; '.join(different)}; "
                "measure into a new folder"
            )
        for row in rows:
            self.rounds.setdefault(row["kernel"], []).append(row["seconds"])
