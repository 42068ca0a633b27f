"""Per-head products of absorbed latent attention (MLA)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.op import CONTEXT
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import Weightless, split_units
from servesim.graph.work import GemmWork


@KINDS.register("batched_gemm")
@dataclass(frozen=True, slots=True)
class BatchedGemm(Weightless):
    """``heads`` products of (decodes x k) by (k x n); the weights are held by the projection
    that prefills use (``kv_b_proj``).
    """

    kind: ClassVar[str] = "batched_gemm"
    depends: ClassVar[str] = CONTEXT
    heads: int
    n: int
    k: int
    dtype: str = "bf16"
    weight: str = "bf16"

    @property
    def shape(self) -> tuple[int, ...]:
        """heads, n, k."""
        return (self.heads, self.n, self.k)

    def work(self, batch: BatchShape, label: str) -> GemmWork:
        """One batched GEMM over the decodes."""
        return GemmWork(
            batch.decode_tokens, self.n, self.k, self.dtype, self.weight, self.heads, 0.0, label
        )

    def runs(self, batch: BatchShape) -> bool:
        """Only with decodes."""
        return batch.decodes > 0

    def local(self, ranks: int) -> BatchedGemm:
        """The heads of one rank.

        Raises:
            UnsupportedError: the heads do not divide.
        """
        return replace(self, heads=split_units("attention heads", self.heads, ranks))
