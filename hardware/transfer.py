"""What operators on one device hand to those on another."""

from __future__ import annotations

from dataclasses import dataclass

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import Op
from servesim.graph.work import AttentionWork, MoeWork, Work
from servesim.hardware.cost import Cost, Source
from servesim.hardware.topology import Route, transfer_seconds


@dataclass(frozen=True, slots=True)
class Transfer:
    """Results that a block's operator hands to an operator on another device.

    Attributes:
        producer: the operator whose results move.
        count: times a forward pass runs the block.
        ends: names of the two devices.
        route: the links between them.
        block, consumer: names of the block and its operator that reads the results; no operator,
            if a stage behind reads them.
        others: operators whose results the consumer reads from there, too. The largest result is
            taken for all: a rotary embedding, say, works in place on a part of its input.
    """

    producer: Op
    count: int
    ends: tuple[str, str]
    route: Route
    block: str = ""
    consumer: str = ""
    others: tuple[Op, ...] = ()

    def cost(self, batch: BatchShape) -> Cost:
        """The cost of one transfer of what the producer hands on for ``batch``."""
        payload = max(result_bytes(op.work(batch)) for op in (self.producer, *self.others))
        return Cost(transfer_seconds(self.route, payload), Source.ANALYTICAL)


def result_bytes(work: Work) -> float:
    """Bytes of what the next operator reads: without a KV cache's new entries or intermediates."""
    if isinstance(work, AttentionWork):
        return work.bytes_written - work.query_tokens * work.kv_bytes_per_token
    if isinstance(work, MoeWork):
        return work.tokens * work.hidden * bytes_per_element(work.dtype)
    return work.bytes_written
