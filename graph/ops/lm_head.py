"""The projection onto the vocabulary, computed for each sequence's last token only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.op import SEQUENCES
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import HoldsMatrix
from servesim.graph.work import GemmWork


@KINDS.register("lm_head")
@dataclass(frozen=True, slots=True)
class LmHead(HoldsMatrix):
    """sequences x hidden by hidden x vocabulary.

    Attributes:
        tied: the weights are the embedding's: read here, held there.
    """

    kind: ClassVar[str] = "lm_head"
    depends: ClassVar[str] = SEQUENCES
    n: int
    k: int
    bias: bool = False
    dtype: str = "bf16"
    weight: str = "bf16"
    scale_bytes: float = 0.0
    tied: bool = False
    parallel: str = "replicated"

    def work(self, batch: BatchShape, label: str) -> GemmWork:
        """One GEMM over the sequences of the step."""
        return GemmWork(
            batch.sequences, self.n, self.k, self.dtype, self.weight, 1, self.scale_bytes, label
        )

    def columns(self, ranks: int) -> LmHead:
        """The vocabulary dealt to ``ranks`` ranks, the last padded."""
        n = -(-self.n // ranks)
        return replace(self, n=n, parallel="vocab", scale_bytes=self.scale_bytes * n / self.n)
