"""Steps of a rank that computes its share of every prompt (prefill context parallelism)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from servesim.graph.batch import BatchShape
from servesim.runtime.step_model import CompiledStepModel, OpCost


def share_of_prefills(batch: BatchShape, ranks: int) -> BatchShape:
    """One rank's part of ``batch``: of each prompt the n-th part, all decodes.

    Tokens are dealt so that every rank has as many (query, key) pairs as the others (in zigzag),
    so its part counts as tokens in the middle of the chunk.
    """
    parts = ((new, -(-new // ranks), context) for new, context in batch.prefills)
    prefills = tuple((own, context + (new - own) // 2) for new, own, context in parts)
    return replace(batch, prefills=prefills)


@dataclass
class PrefillShareStepModel(CompiledStepModel):
    """A step model of one of ``prefill_ranks`` ranks that share prompts."""

    prefill_ranks: int = 1

    def seconds(self, batch: BatchShape) -> float:
        """Seconds of one step of ``batch``."""
        return super().seconds(share_of_prefills(batch, self.prefill_ranks))

    def cost_breakdown(self, batch: BatchShape) -> tuple[OpCost, ...]:
        """What each operator takes of a step on one rank."""
        return super().cost_breakdown(share_of_prefills(batch, self.prefill_ranks))
