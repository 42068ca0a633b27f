"""A table look-up per token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import TOKENS
from servesim.graph.ops import KINDS
from servesim.graph.work import MemoryWork


@KINDS.register("embedding")
@dataclass(frozen=True, slots=True)
class Embedding:
    """Reads one row of ``rows`` x ``width`` for each token."""

    kind: ClassVar[str] = "embedding"
    depends: ClassVar[str] = TOKENS
    rows: int
    width: int
    dtype: str = "bf16"
    parallel: str = "replicated"
    tied: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """rows, width."""
        return (self.rows, self.width)

    def work(self, batch: BatchShape, label: str) -> MemoryWork:
        """A row read and written per token."""
        moved = batch.tokens * self.width * bytes_per_element(self.dtype)
        return MemoryWork("embedding", batch.tokens, moved, moved, 0.0, self.dtype, label)

    @property
    def weight_elements(self) -> int:
        """The table."""
        return 0 if self.tied else self.rows * self.width

    @property
    def weight_bytes(self) -> float:
        """The table."""
        return self.weight_elements * bytes_per_element(self.dtype)

    def columns(self, ranks: int) -> Embedding:
        """The vocabulary dealt to ``ranks`` ranks, the last padded."""
        return replace(self, rows=-(-self.rows // ranks), parallel="vocab")
