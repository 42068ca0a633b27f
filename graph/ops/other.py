"""An operator no pattern claimed: never dropped, always reported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import TOKENS
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import HoldsWeights
from servesim.graph.work import MemoryWork


@KINDS.register("other")
@dataclass(frozen=True, slots=True)
class Other(HoldsWeights):
    """As recorded: ``target`` names the operator, sizes are per token.

    Attributes:
        reads, writes: elements a token.
        flops: arithmetic a token.
        weights: elements of the weights it reads.
    """

    kind: ClassVar[str] = "other"
    depends: ClassVar[str] = TOKENS
    target: str
    reads: float
    writes: float
    flops: float
    weights: int = 0
    dtype: str = "bf16"

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements read, elements written (a token)."""
        return (round(self.reads), round(self.writes))

    def work(self, batch: BatchShape, label: str) -> MemoryWork:
        """Everything read and written once."""
        size, tokens = bytes_per_element(self.dtype), batch.tokens
        return MemoryWork(
            "elementwise",
            tokens,
            tokens * self.reads * size + self.weight_bytes,
            tokens * self.writes * size,
            tokens * self.flops,
            self.dtype,
            label,
        )

    def local(self, ranks: int) -> Other:
        """An even share of the activations, all of the weights."""
        return replace(
            self, reads=self.reads / ranks, writes=self.writes / ranks, flops=self.flops / ranks
        )
