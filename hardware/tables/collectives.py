"""Measured collectives of a group of devices, with another cost model for all else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servesim.errors import InputError, UnsupportedError
from servesim.graph.work import CollectiveWork, Work
from servesim.hardware.all_reduce import counted
from servesim.hardware.calibrate.collectives import (
    collective_files,
    has_collectives,
    read_kernel_tables,
)
from servesim.hardware.collectives import LAUNCH, STEPS, WIRE, RankCurves, chosen, link_limits
from servesim.hardware.cost import Cost, CostModel, Source
from servesim.hardware.link import Link
from servesim.hardware.tables.grid import Curve
from servesim.hardware.tables.nccl_tests import read_nccl_tests
from servesim.hardware.tables.origin import device_names, require_device
from servesim.hardware.tables.profile import NEEDS_PYARROW

#: Seconds of an operation: ranks -> (payload in bytes, seconds).
_Points = dict[str, dict[int, list[tuple[float, float]]]]


@dataclass(frozen=True)
class CollectiveTable:
    """Measured where ranks and payload were; beyond, what was measured goes on.

    Over the largest payload with its slope; among more or fewer ranks the latency changes as that
    of a ring on the link, and the rest as what each link carries. The fallback's own kernels and
    switches of protocol have no part in either.

    Attributes:
        measured: the curves by operation (``CollectiveCost.curves``).
        fallback: answers for other operations, and tells how many devices can be joined.
        link: joins them.
    """

    measured: Mapping[str, RankCurves]
    fallback: CostModel
    link: Link

    def cost(self, work: Work) -> Cost:
        """The cost of a collective.

        Raises:
            UnsupportedError: the fallback cannot run such work.
        """
        if not isinstance(work, CollectiveWork) or work.ranks <= 1 or work.payload_bytes <= 0:
            return self.fallback.cost(work)
        curves = chosen(self.measured, work, link_limits(self.link))
        if curves is None:
            return self.fallback.cost(work)
        if not curves.spans(work.ranks):
            return Cost(self._among_others(curves, work), Source.EXTRAPOLATED)
        seconds = curves.at(work.ranks, work.payload_bytes)
        inside = work.payload_bytes <= _largest(curves, work.ranks)
        return Cost(seconds, Source.MEASURED if inside else Source.EXTRAPOLATED)

    def _among_others(self, curves: RankCurves, work: CollectiveWork) -> float:
        """Seconds among more or fewer ranks than were measured, from the nearest number of them."""
        edge = min(curves.curves, key=lambda ranks: abs(ranks - work.ranks))
        if work.ranks > edge:
            self.fallback.cost(work)  # as many can be joined, or it raises
        curve, steps, wire = curves.curves[edge], STEPS[work.operation], WIRE[work.operation]
        first, now = (LAUNCH + steps(ranks) * self.link.latency for ranks in (edge, work.ranks))
        rest = max(0.0, curve.at(work.payload_bytes) - curve.ys[0])  # a first run may be slow
        return curve.ys[0] * now / first + rest * wire(work.ranks) / wire(edge)


def _largest(curves: RankCurves, ranks: int) -> float:
    """The largest payload measured among so many ranks, or as many as around them."""
    known = sorted(curves.curves)
    around = {max(r for r in known if r <= ranks), min(r for r in known if r >= ranks)}
    return min(curves.curves[r].xs[-1] for r in sorted(around))


def load_collectives(
    path: Path, link: Link, fallback: CostModel, device: str | None = None
) -> CollectiveTable:
    """What was measured of the collectives among devices that ``link`` joins.

    Args:
        path: the output of one run of ``nccl-tests`` or a folder of several; or AIConfigurator's
            ``nccl_perf.parquet`` or ``custom_allreduce_perf.parquet``, or the folder of a device
            that holds them.
        fallback: the cost model of what was not measured.
        device: name of the devices; what was measured among others is refused.

    Raises:
        InputError: there is nothing of the kind, a file is malformed, or what is there was
            measured on another device, or on several.
        UnsupportedError: the library that reads parquet is missing.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    points = _of_tables(path, link, device) if has_collectives(path) else _of_runs(path, device)
    curves = {
        operation: RankCurves(
            counted(operation),
            {ranks: Curve.of(found) for ranks, found in by_ranks.items()},
        )
        for operation, by_ranks in points.items()
    }
    return CollectiveTable(curves, fallback, link)


def has_runs(path: Path) -> bool:
    """Whether ``path`` is, or holds, outputs of ``nccl-tests``."""
    files = path.iterdir() if path.is_dir() else (path,)
    return any(file.is_file() and _lists_ranks(file) for file in files)


def _of_tables(path: Path, link: Link, device: str | None) -> _Points:
    try:
        require_device(device_names(collective_files(path)), device, path)
        samples = read_kernel_tables(path, link)
    except ImportError as error:
        raise UnsupportedError(f"{path}: {NEEDS_PYARROW}") from error
    points: _Points = {}
    for one in samples:
        by_ranks = points.setdefault(one.operation, {})
        by_ranks.setdefault(one.ranks, []).append((one.payload_bytes, one.seconds))
    return points


def _of_runs(path: Path, device: str | None) -> _Points:
    """Of outputs of ``nccl-tests``; equal runs are averaged."""
    points: _Points = {}
    runs = [(file, read_nccl_tests(file)) for file in _outputs(path)]
    require_device({name for _, run in runs for name in run.devices}, device, path)
    for file, run in runs:
        if run.operation not in WIRE:
            what = repr(run.operation) if run.operation else "none"
            raise InputError(
                f"{file}: its collective is {what}, not one of {', '.join(WIRE)}; older outputs do "
                "not name it, then the file's name must"
            )
        by_ranks = points.setdefault(run.operation, {})
        by_ranks.setdefault(run.ranks, []).extend(zip(run.curve.xs, run.curve.ys, strict=True))
    return points


def _outputs(path: Path) -> list[Path]:
    """The file, or the files of a folder with a list of ranks in them."""
    if path.is_file():
        return [path]
    found = [file for file in sorted(path.iterdir()) if file.is_file() and _lists_ranks(file)]
    if not found:
        raise InputError(
            f"{path}: no output of nccl-tests and no table of AIConfigurator (nccl_perf.parquet)"
        )
    return found


def _lists_ranks(file: Path) -> bool:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return any(line.split()[:2] == ["#", "Rank"] for line in lines)
