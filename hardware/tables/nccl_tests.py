"""What ``nccl-tests`` printed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError, reason
from servesim.hardware.collectives import WIRE
from servesim.hardware.tables.csvfile import seconds
from servesim.hardware.tables.grid import Curve

#: Operations by the benchmark's names for them.
_NAMES = {name: name for name in WIRE} | {"alltoall": "all_to_all", "sendrecv": "send"}


#: How the line starts that closes an output, and the columns up to the first bandwidth on the bus.
_END, _COLUMNS = "# Avg bus bandwidth", 8


@dataclass(frozen=True)
class NcclTest:
    """One run of the benchmark.

    Attributes:
        operation: as the output, of nccl-tests 2.17 on, or else the file's name says; empty if
            neither does.
        curve: out-of-place seconds over bytes.
        devices: their names, as the driver calls them.
    """

    operation: str
    ranks: int
    curve: Curve
    devices: frozenset[str] = frozenset()


def read_nccl_tests(path: Path) -> NcclTest:
    """What one run of the benchmark printed into the file ``path``.

    Every rank is announced by a line ``#  Rank ...``; rows are size, count, type, redop, root,
    time (µs) and more.

    Raises:
        InputError: the file cannot be read, is not the output of ``nccl-tests`` or is cut off.
    """
    lines = _lines(path)
    ranks = _ranks(lines, path)
    points = [
        point
        for number, line in enumerate(lines, 1)
        if line[:20].strip()[:1].isdigit()
        for point in [_point(line, f"{path}, line {number}")]
        if point[0] > 0
    ]
    if not any(line.startswith(_END) for line in lines):
        sizes = f"sizes to {max(points)[0]:.0f} bytes" if points else "no size"
        raise InputError(f"{path}: cut off: {sizes}, but no line {_END!r}, with which outputs end")
    if ranks < 2 or len(points) < 2:
        raise InputError(f"{path}: {ranks} ranks and {len(points)} sizes; need two of each")
    named = (re.match(r"#\s+Rank .* device\s+\d+ \[[^]]*\] (.+?)\s*$", line) for line in lines)
    devices = frozenset(one[1] for one in named if one)
    return NcclTest(_operation(lines, path), ranks, Curve.of(points), devices)


def _ranks(lines: Iterable[str], path: Path) -> int:
    announced = [line.split()[2:3] for line in lines if line.split()[:2] == ["#", "Rank"]]
    for rank in announced:
        if announced.count(rank) > 1:
            raise InputError(f"{path}: rank {' '.join(rank)} twice: several runs? give each a file")
    return len(announced)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error


def _point(line: str, where: str) -> tuple[float, float]:
    """Bytes and out-of-place seconds of a row; no seconds where no bytes were sent."""
    values = line.split()
    if len(values) < _COLUMNS:
        raise InputError(f"{where}: cut off or no row of nccl-tests: {line.strip()!r}")
    try:
        size = float(values[0])
        return size, seconds(values[5], 1e-6) if size else 0.0
    except ValueError as error:
        raise InputError(f"{where}: not a row of nccl-tests: {error}") from error


def _operation(lines: Iterable[str], path: Path) -> str:
    for line in lines:
        if named := re.match(r"\s*# Collective test starting: (\w+)_perf", line):
            return _NAMES.get(named[1], named[1])
    stem = path.stem.lower()
    return next((_NAMES[name] for name in sorted(_NAMES, key=len)[::-1] if name in stem), "")
