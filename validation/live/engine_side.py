"""What servesim shares with the processes of a live engine; imports nothing of either."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

#: Environment variables: the file records go to, and the cores that the engine is pinned to.
RECORD, CORES = "SERVESIM_RECORD", "SERVESIM_ENGINE_CORES"
#: What the client's answers begin with.
MARK = "SERVESIM "


def say(line: dict[str, Any]) -> None:
    """Answer: a client's line for servesim."""
    sys.stdout.write(MARK + json.dumps(line) + "\n")
    sys.stdout.flush()


def pin() -> None:
    """Keep the calling thread to the engine's cores, if it has some of its own."""
    if cores := os.environ.get(CORES):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


class Lines:
    """Records of steps and requests: kept in memory, as writing would cost a step time."""

    def __init__(self) -> None:
        self._path = Path(os.environ[RECORD])
        self._lines: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any]) -> None:
        """Keep a record."""
        self._lines.append(line)

    def flush(self) -> None:
        """Write all records, one JSON line each: the engine has nothing left to do."""
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in self._lines)
        self._lines.clear()
