"""Collectives between the ranks of a tensor-parallel group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import SEQUENCES, TOKENS
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import Weightless
from servesim.graph.work import CollectiveWork


@KINDS.register("collective")
@dataclass(frozen=True, slots=True)
class Collective(Weightless):
    """``operation`` over ``width`` elements a token (the gathered width of an all-gather)."""

    kind: ClassVar[str] = "collective"
    depends: ClassVar[str] = TOKENS
    operation: str
    width: int
    ranks: int
    group: str = "tp"
    dtype: str = "bf16"

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements a row."""
        return (self.width,)

    def work(self, batch: BatchShape, label: str) -> CollectiveWork:
        """One collective over all new tokens."""
        payload = batch.tokens * self.width * bytes_per_element(self.dtype)
        return CollectiveWork(self.operation, payload, self.ranks, self.group, self.dtype, label)


@KINDS.register("logits_gather")
@dataclass(frozen=True, slots=True)
class LogitsGather(Weightless):
    """All-gather of the vocabulary-sharded logits of each sequence's last token."""

    kind: ClassVar[str] = "logits_gather"
    depends: ClassVar[str] = SEQUENCES
    vocab: int
    ranks: int
    group: str = "tp"
    dtype: str = "bf16"

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements a row."""
        return (self.vocab,)

    def work(self, batch: BatchShape, label: str) -> CollectiveWork:
        """One all-gather over the sequences."""
        payload = batch.sequences * self.vocab * bytes_per_element(self.dtype)
        return CollectiveWork("all_gather", payload, self.ranks, self.group, self.dtype, label)
