"""What ``nccl-tests`` printed, as the cost model of a group's collectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from servesim.errors import InputError, UnknownNameError
from servesim.hardware.collectives import WIRE, CollectiveCost, RankCurves
from servesim.hardware.cost import Source
from servesim.hardware.link import Link
from servesim.hardware.tables.grid import Curve


def load_nccl_tests(link: Link, outputs: Mapping[str, Iterable[str | Path]]) -> CollectiveCost:
    """Collectives as measured; others by the closed forms of ``link``.

    Args:
        link: joins the devices that were measured.
        outputs: files by operation (``all_reduce``, ``all_gather``, ...): what one run of the
            benchmark printed; several files for several numbers of ranks.

    Raises:
        UnknownNameError: no such operation.
        InputError: a file cannot be read or is not the output of ``nccl-tests``.
    """
    curves = {}
    for operation, paths in outputs.items():
        if operation not in WIRE:
            raise UnknownNameError("collective", operation, WIRE)
        by_ranks = dict(_read(Path(path)) for path in paths)
        curves[operation] = RankCurves(operation, by_ranks)
    return CollectiveCost(link, curves, source=Source.MEASURED)


def _read(path: Path) -> tuple[int, Curve]:
    """Ranks, and out-of-place seconds over bytes.

    Every rank is announced by a line ``#  Rank ...``; rows are size, count, type, redop, root,
    time (µs) and more.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    ranks = sum(line.split()[:2] == ["#", "Rank"] for line in lines)
    rows = [line.split() for line in lines if line[:20].strip()[:1].isdigit()]
    try:
        points = [(float(row[0]), float(row[5]) * 1e-6) for row in rows]
    except (IndexError, ValueError) as error:
        raise InputError(f"{path}: not the output of nccl-tests ({error})") from error
    if ranks < 2 or len(points) < 2:
        raise InputError(f"{path}: {ranks} ranks and {len(points)} sizes; need two of each")
    return ranks, Curve.of(points)
