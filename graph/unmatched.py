"""Which operators no pattern claimed, and how much of the model they are."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.batch import BatchShape
from servesim.graph.opgraph import OpGraph

#: The batch that shares refer to: one prefill, long enough for weights not to hide activations.
REFERENCE = BatchShape.of_tokens(512)


@dataclass(frozen=True, slots=True)
class Unmatched:
    """One operator counted as recorded, with its share of the model's FLOP and bytes."""

    block: str
    name: str
    target: str
    flops_share: float
    bytes_share: float


def unmatched(graph: OpGraph) -> tuple[Unmatched, ...]:
    """Every operator of kind ``other``, largest share of bytes first."""
    flops = moved = 0.0
    found: list[tuple[str, str, str, float, float]] = []
    for block in graph.blocks:
        for op in block.ops:
            if not op.runs(REFERENCE):
                continue
            work = op.work(REFERENCE)
            own_flops = block.count * work.flops
            own_bytes = block.count * (work.bytes_read + work.bytes_written)
            flops, moved = flops + own_flops, moved + own_bytes
            if op.kind == "other":
                target = str(getattr(op.spec, "target", ""))
                found.append((block.name, op.name, target, own_flops, own_bytes))
    shares = [
        Unmatched(block, name, target, f / flops if flops else 0.0, b / moved if moved else 0.0)
        for block, name, target, f, b in found
    ]
    return tuple(sorted(shares, key=lambda u: (-u.bytes_share, u.block, u.name)))
