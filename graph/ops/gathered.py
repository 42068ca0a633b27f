"""Attention of all sequences of a step at once, over keys gathered from the KV cache.

What transformers runs in continuous batching without a kernel for paged caches: the keys and values
of all sequences are copied side by side, repeated for each head of a group, and every new token is
multiplied with all of them; a mask then hides those of others. Source: ``cache_allocators``,
``input_outputs`` and ``integrations/sdpa_attention`` of transformers 5.20 to 5.23.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.pointwise import Pointwise
from servesim.graph.work import AttentionWork, MemoryWork


def keys(batch: BatchShape) -> int:
    """Keys of all sequences, those of their new tokens included."""
    return batch.tokens + batch.decode_context + sum(context for _, context in batch.prefills)


@dataclass(frozen=True, slots=True)
class GatheredAttention(Attention):
    """All new tokens of a step over the keys of all its sequences; ``causal`` is false."""

    kind: ClassVar[str] = "attention"
    depends: ClassVar[str] = CONTEXT

    def work(self, batch: BatchShape, label: str) -> AttentionWork:
        """As one prefill without a causal order: the mask is multiplied out whole."""
        new = batch.tokens
        return Attention.work(self, BatchShape(((new, keys(batch) - new),)), label)


@dataclass(frozen=True, slots=True)
class GatheredKeys(Pointwise):
    """A copy of the keys and values of all sequences; ``reads`` and ``writes`` are a key's."""

    kind: ClassVar[str] = "pointwise"
    depends: ClassVar[str] = CONTEXT

    def work(self, batch: BatchShape, label: str) -> MemoryWork:
        """Each read once, written once."""
        return Pointwise.work(self, BatchShape.of_tokens(keys(batch)), label)
