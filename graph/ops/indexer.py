"""Scores of every cached key for sparse attention: which keys a token will attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT
from servesim.graph.ops import KINDS
from servesim.graph.ops.attention import Attention
from servesim.graph.ops.base import Weightless
from servesim.graph.work import AttentionWork


@KINDS.register("indexer")
@dataclass(frozen=True, slots=True)
class Indexer(Weightless):
    """Products of ``heads`` small queries with one key a token, all of the context's.

    Every rank scores all heads: the keys are few and the choice must be the same everywhere.
    """

    kind: ClassVar[str] = "indexer"
    depends: ClassVar[str] = CONTEXT
    heads: int
    head_dim: int
    dtype: str = "bf16"
    kv_dtype: str = "bf16"

    @property
    def shape(self) -> tuple[int, ...]:
        """heads, head_dim."""
        return (self.heads, self.head_dim)

    def work(self, batch: BatchShape, label: str) -> AttentionWork:
        """Attention without values."""
        scores = Attention(
            self.heads, 1, self.head_dim, 0, dtype=self.dtype, kv_dtype=self.kv_dtype
        )
        return scores.work(batch, label)
