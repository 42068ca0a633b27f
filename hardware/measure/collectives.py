"""Which collectives to measure, and the table of a device file that they become."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from servesim.errors import InputError
from servesim.graph.work import CollectiveWork, Work
from servesim.hardware.calibrate.write import COLLECTIVE
from servesim.hardware.link import Link
from servesim.hardware.measure.curves import left_out_errors
from servesim.hardware.measure.fitting import Line, line_of
from servesim.hardware.measure.naming import name_of
from servesim.hardware.measure.plan import Group

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send")
#: Payloads in bytes: a decode's few rows up to the largest step's.
SIZES = {
    "cpu": tuple(4**i for i in range(5, 13)),
    "cuda": tuple(4**i for i in range(5, 15)),
}


@dataclass(frozen=True)
class Together:
    """The specification of all collectives of one number of ranks.

    Attributes:
        ranks: processes, each with a device of its own.
    """

    kind: ClassVar[str] = COLLECTIVE
    ranks: int


def groups(device: str, ranks: Iterable[int], only: Collection[str] = ()) -> list[Group]:
    """The collectives of each number of ``ranks``.

    Raises:
        InputError: ``only`` names kinds of operators, and collectives are not among them.
    """
    found = [group(device, count) for count in ranks]
    if found and only and COLLECTIVE not in only:
        raise InputError(
            f"--ranks is for collectives, which --only {','.join(only)} leaves out; add"
            f" {COLLECTIVE} to it"
        )
    return found


def group(device: str, ranks: int) -> Group:
    """Every operation in every size, for ``ranks`` ranks; a message needs only two."""
    works = [
        CollectiveWork(operation, float(size), ranks)
        for size in SIZES[device]
        for operation in OPERATIONS
        if operation != "send" or ranks == 2
    ]
    return Group(Together(ranks), {name_of(work): work for work in works})


def curves(seconds: Mapping[Work, float]) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """(payload, seconds) in ascending order by operation and ranks."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for work, s in seconds.items():
        if isinstance(work, CollectiveWork):
            points = found.setdefault((work.operation, work.ranks), [])
            points.append((work.payload_bytes, s))
    return {key: sorted(points) for key, points in sorted(found.items())}


def errors(seconds: Mapping[Work, float]) -> list[Line]:
    """How well curves tell sizes left out of them, one at a time."""
    off = [e for points in curves(seconds).values() for e in left_out_errors(points)]
    return [line_of(COLLECTIVE, "curve of its ranks", off)] if off else []


def peer_link(seconds: Mapping[Work, float]) -> Link | None:
    """What joins the devices, from messages between two of them; None without any.

    The bandwidth is that of the largest stream, the latency the time of the quickest message.
    """
    points = curves(seconds).get(("send", 2), [])
    if not points:
        return None
    return Link("between ranks", max(size / s for size, s in points), min(s for _, s in points))


def collective_text(seconds: Mapping[Work, float], source: str) -> str:
    """The ``[calibration.collective]`` table; empty without collectives.

    A row ends where a size was not measured.
    """
    found = curves(seconds)
    sizes = sorted({size for points in found.values() for size, _ in points})
    rows: dict[str, list[str]] = {}
    for (operation, ranks), points in found.items():
        known = dict(points)
        row = []
        for size in sizes:
            if size not in known:
                break
            row.append(f"{known[size] * 1e6:.4g}")
        if len(row) > 1:
            rows.setdefault(operation, []).append(f"ranks_{ranks} = [{', '.join(row)}]")
    if not rows:
        return ""
    lines = ["[calibration.collective]", f'source = "{source}"']
    lines.append(f"sizes = [{', '.join(f'{size:.0f}' for size in sizes)}]  # bytes")
    for operation, listed in rows.items():
        lines += ["", f"[calibration.collective.{operation}]  # microseconds by size", *listed]
    return "\n".join(lines)
