"""What ``nccl-tests`` printed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError
from servesim.hardware.collectives import WIRE
from servesim.hardware.tables.grid import Curve

#: Operations by the benchmark's names for them.
_NAMES = {name: name for name in WIRE} | {"alltoall": "all_to_all", "sendrecv": "send"}


@dataclass(frozen=True)
class NcclTest:
    """One run of the benchmark.

    Attributes:
        operation: as the output, of nccl-tests 2.17 on, or else the file's name says; empty if
            neither does.
        curve: out-of-place seconds over bytes.
    """

    operation: str
    ranks: int
    curve: Curve


def read_nccl_tests(path: Path) -> NcclTest:
    """What one run of the benchmark printed into the file ``path``.

    Every rank is announced by a line ``#  Rank ...``; rows are size, count, type, redop, root,
    time (µs) and more.

    Raises:
        InputError: the file cannot be read or is not the output of ``nccl-tests``.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    ranks = sum(line.split()[:2] == ["#", "Rank"] for line in lines)
    rows = [line.split() for line in lines if line[:20].strip()[:1].isdigit()]
    try:
        points = [(float(row[0]), float(row[5]) * 1e-6) for row in rows if float(row[0]) > 0]
    except (IndexError, ValueError) as error:
        raise InputError(f"{path}: not the output of nccl-tests ({error})") from error
    if ranks < 2 or len(points) < 2:
        raise InputError(f"{path}: {ranks} ranks and {len(points)} sizes; need two of each")
    return NcclTest(_operation(lines, path), ranks, Curve.of(points))


def _operation(lines: Iterable[str], path: Path) -> str:
    for line in lines:
        if named := re.match(r"\s*# Collective test starting: (\w+)_perf", line):
            return _NAMES.get(named[1], named[1])
    stem = path.stem.lower()
    return next((_NAMES[name] for name in sorted(_NAMES, key=len)[::-1] if name in stem), "")
