"""What was asked for and not measured, by name and reason."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.opgraph import OpGraph
from servesim.graph.work import Work
from servesim.hardware.measure.plan import Group, Limits, too_heavy
from servesim.hardware.shapes import shape_of


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Kernels of one kind of operator that share a reason.

    Attributes:
        kind: of the operator, as ``--only`` takes it.
        shapes: as device files call them.
        kernels: how many.
    """

    kind: str
    shapes: tuple[str, ...]
    kernels: int
    why: str


def unmeasured(
    graphs: Sequence[OpGraph],
    limits: Limits,
    only: Collection[str],
    groups: Sequence[Group],
    refused: Mapping[str, str],
) -> list[Unmeasured]:
    """Operators too large for the limits, then kernels of ``groups`` that were refused."""
    why = f"weights exceed {limits.weight_bytes / 1e6:,.3g} MB"
    rows = [(op.kind, _work(op), why) for op in _heavy(graphs, limits, only)]
    rows += [
        (group.family, work, refused[name])
        for group in groups
        for name, work in group.works.items()
        if name in refused
    ]
    found: dict[tuple[str, str], list[Work]] = {}
    for kind, work, reason in rows:
        found.setdefault((kind, reason), []).append(work)
    return [
        Unmeasured(kind, tuple(dict.fromkeys(map(shape_of, works))), len(works), reason)
        for (kind, reason), works in found.items()
    ]


def _heavy(graphs: Iterable[OpGraph], limits: Limits, only: Collection[str]) -> Iterator[Op]:
    for graph in graphs:
        for op, _ in graph.weighted_ops():
            if (not only or op.kind in only) and too_heavy(op, limits):
                yield op


def _work(op: Op) -> Work:
    batch = BatchShape.of([(1, 8)])
    return op.work(batch if op.runs(batch) else BatchShape.of_tokens(8))
