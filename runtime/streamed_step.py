"""How long a step takes whose weights are partly in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from servesim.graph.batch import BatchShape
from servesim.graph.op import Op
from servesim.graph.ops.experts import Experts
from servesim.hardware.cost import Source
from servesim.hardware.link import Link
from servesim.runtime.step_model import CompiledStepModel, OpCost


@dataclass(frozen=True)
class StreamedStepModel:
    """A step that reads a part of its weights over the link to the host.

    Read when they are needed (zero-copy access, as vLLM's ``cpu_offload_gb``), they cost their
    transfer, and of experts only those that got a token are read. Fetched ahead, whole layers are
    copied while others compute: with the layers that are kept outside spread evenly, a step in a
    row of equal ones takes the longer of its computing and its transfers, however far ahead.

    Attributes:
        computing: with all weights on the device.
        ops: those that have weights outside, and how often each runs.
        share: of their weights that are outside.
        link: to the host, with the share of its bandwidth that copies reach.
        prefetched: whether layers are fetched ahead.
        waited: seconds of transfers that computing did not hide, of all answers so far.
    """

    computing: CompiledStepModel
    ops: tuple[tuple[Op, int], ...]
    share: float
    link: Link
    prefetched: bool = False
    waited: list[float] = field(default_factory=lambda: [0.0], compare=False)
    _by_tokens: dict[int, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def needs_contexts(self) -> bool:
        """Whether an operator looks at every context."""
        return self.computing.needs_contexts

    def seconds(self, batch: BatchShape) -> float:
        """Seconds of one step of ``batch``."""
        return self._joined(self.computing.seconds(batch), batch.tokens)

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """Seconds of one step of decodes only."""
        seconds = self.computing.decode_seconds(decodes, context, context_max)
        return self._joined(seconds, decodes)

    def transfer_seconds(self, tokens: int) -> float:
        """Seconds that the link is busy in a step of ``tokens``."""
        found = self._by_tokens.get(tokens)
        if found is None:
            batch = BatchShape.of_tokens(tokens)
            read = sum(count * self._read(op, batch) for op, count in self.ops)
            found = self._by_tokens[tokens] = read * self.share / self.link.bandwidth
        return found

    def cost_breakdown(self, batch: BatchShape) -> tuple[OpCost, ...]:
        """What each operator takes of a step, and the transfers that none of them hides."""
        rows = self.computing.cost_breakdown(batch)
        computing = sum(row.seconds for row in rows)
        waits = self._waits(computing, batch.tokens)
        device = rows[0].device if rows else ""
        return (*rows, OpCost("weights from host", device, 1, waits, Source.ANALYTICAL))

    def source_seconds(self) -> dict[Source, float]:
        """Seconds of all answers so far by source."""
        found = self.computing.source_seconds()
        found[Source.ANALYTICAL] += self.waited[0]
        return found

    def reset(self) -> None:
        """Forget the seconds answered so far."""
        self.computing.reset()
        self.waited[0] = 0.0

    def _joined(self, seconds: float, tokens: int) -> float:
        waits = self._waits(seconds, tokens)
        self.waited[0] += waits
        return seconds + waits

    def _waits(self, seconds: float, tokens: int) -> float:
        transfers = self.transfer_seconds(tokens)
        return max(transfers - seconds, 0.0) if self.prefetched else transfers

    def _read(self, op: Op, batch: BatchShape) -> float:
        spec = op.spec
        if isinstance(spec, Experts) and not self.prefetched:
            return spec.weight_bytes * spec.work(batch, op.name).touched / spec.held
        return spec.weight_bytes


def offloadable(
    blocks_ops: Sequence[tuple[Op, int]], *, experts_only: bool
) -> tuple[tuple[Op, int], ...]:
    """The operators whose weights may be kept outside: those of layers, or experts alone."""
    return tuple(
        (op, count)
        for op, count in blocks_ops
        if op.spec.weight_bytes and (not experts_only or isinstance(op.spec, Experts))
    )
