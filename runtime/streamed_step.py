"""How long a step takes whose weights are partly in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.ops.experts import Experts
from servesim.hardware.link import Link
from servesim.runtime.host_reads import WEIGHTS, read_bytes
from servesim.runtime.waiting_step import WaitingStepModel


@dataclass(frozen=True)
class StreamedStepModel(WaitingStepModel):
    """A step that reads a part of its weights over the link to the host.

    Read when they are needed (zero-copy access, as vLLM's ``cpu_offload_gb``), they cost their
    transfer, and of experts only those that got a token are read. Fetched ahead, whole layers are
    copied while others compute: with the layers that are kept outside spread evenly, a step in a
    row of equal ones takes the longer of its computing and its transfers, however far ahead.

    Attributes:
        ops: those that have weights outside, and how often each runs.
        share: of their weights that are outside.
        link: to the host, with the share of its bandwidth that copies reach.
        prefetched: whether layers are fetched ahead.
    """

    LABEL: ClassVar[str] = WEIGHTS
    ops: tuple[tuple[Op, int], ...]
    share: float
    link: Link
    prefetched: bool = False
    _by_tokens: dict[int, float] = field(default_factory=dict, repr=False, compare=False)

    def transfer_seconds(self, tokens: int) -> float:
        """Seconds that the link is busy in a step of ``tokens``."""
        found = self._by_tokens.get(tokens)
        if found is None:
            batch = BatchShape.of_tokens(tokens)
            read = sum(count * self._read(op, batch) for op, count in self.ops)
            found = self._by_tokens[tokens] = read * self.share / self.link.bandwidth
        return found

    def waits(self, batch: BatchShape, computing: float) -> float:
        """Seconds of transfers that ``computing`` seconds do not hide."""
        transfers = self.transfer_seconds(batch.tokens)
        return max(transfers - computing, 0.0) if self.prefetched else transfers

    def _read(self, op: Op, batch: BatchShape) -> float:
        return op.spec.weight_bytes if self.prefetched else read_bytes(op, batch)


def offloadable(
    blocks_ops: Sequence[tuple[Op, int]], *, experts_only: bool
) -> tuple[tuple[Op, int], ...]:
    """The operators whose weights may be kept outside: those of layers, or experts alone."""
    return tuple(
        (op, count)
        for op, count in blocks_ops
        if op.spec.weight_bytes and (not experts_only or isinstance(op.spec, Experts))
    )
