"""Steps of an attention worker whose FFNs run elsewhere, on the tokens of all workers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from servesim.graph.batch import BatchShape
from servesim.runtime.pieces import Lane
from servesim.runtime.scheduled_step import ScheduledStepModel, sub_batches


@dataclass
class AttentionFfnStepModel(ScheduledStepModel):
    """Micro-batches between attention and FFN devices: while one attends, another is in the FFN.

    A micro-batch on the FFN devices is that of this worker and those of the others, which are
    taken to be even parts of their batches. Where others have tokens and this worker's sequences
    are fewer than its micro-batches, some of its micro-batches are empty.
    """

    def _lanes(self, batch: BatchShape) -> tuple[Lane, ...]:
        own = max(batch.tokens, batch.padded_tokens)
        others = max(batch.group_tokens - own, 0)
        alone = batch.sequences < self.sub_batches and not others
        parts = sub_batches(batch, 1 if alone else min(self.sub_batches, batch.sequences or 1))
        count = len(parts) if alone else self.sub_batches
        parts += (BatchShape(),) * (count - len(parts))
        lanes = []
        for part in parts:
            padded = self._padded(max(part.tokens + -(-(own - batch.tokens) // count), 1))
            together = (
                padded + -(-others // count) if batch.group_tokens else padded * self._replicas
            )
            seen = replace(part, padded_tokens=padded, group_tokens=together)
            gap = self._gap_seconds(padded) / self._kernels_alone if self._kernels_alone else 0.0
            lanes.append(Lane(seen, padded, together, gap))
        return tuple(lanes)
