"""Attention over a KV cache that several ranks share by tokens (context parallelism)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import CONTEXT
from servesim.graph.ops import KINDS
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.base import Weightless
from servesim.graph.work import AttentionWork, CollectiveWork


@dataclass(frozen=True, slots=True)
class SharedAttention(Attention):
    """Decodes over one rank's part of the keys, for the heads of all ranks that share them.

    Attributes:
        context_ranks: ranks that hold a part of every sequence's tokens each.
    """

    kind: ClassVar[str] = "attention"
    context_ranks: int = 1

    def work(self, batch: BatchShape, label: str) -> AttentionWork:
        """As ``Attention``, with its share of the keys."""
        whole = Attention.work(self, batch, label)
        ranks = self.context_ranks
        return replace(
            whole,
            decode_keys=-(-whole.decode_keys // ranks),
            decode_keys_max=-(-whole.decode_keys_max // ranks),
            shared_keys=-(-whole.shared_keys // ranks),
            repeated_keys=whole.repeated_keys // ranks,
        )


@KINDS.register("context_exchange")
@dataclass(frozen=True, slots=True)
class ContextExchange(Weightless):
    """A collective among the ranks that share a KV cache by tokens.

    Attributes:
        width: elements a token.
        phase: whose tokens it carries: ``prefill`` or ``decode``.
        share: tokens of all ranks, for each of this rank's.
    """

    kind: ClassVar[str] = "context_exchange"
    depends: ClassVar[str] = CONTEXT
    operation: str
    width: int
    ranks: int
    phase: str = "decode"
    share: int = 1
    dtype: str = "bf16"

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements a row."""
        return (self.width,)

    def work(self, batch: BatchShape, label: str) -> CollectiveWork:
        """One collective over the tokens of its phase."""
        decodes = batch.decode_tokens
        tokens = decodes if self.phase == "decode" else batch.tokens - decodes
        payload = tokens * self.share * self.width * bytes_per_element(self.dtype)
        return CollectiveWork(self.operation, payload, self.ranks, "cp", self.dtype, label)

    def runs(self, batch: BatchShape) -> bool:
        """Whether any sequence of its phase is in the batch."""
        return bool(batch.decodes if self.phase == "decode" else batch.prefills)
