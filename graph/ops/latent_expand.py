"""Keys and values of prefills from the cached latent vectors (MLA)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import CONTEXT
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import split_units
from servesim.graph.work import GemmWork


@KINDS.register("latent_expand")
@dataclass(frozen=True, slots=True)
class LatentExpand:
    """(new and cached tokens of prefills) x k by k x n; decodes use the absorbed form instead."""

    kind: ClassVar[str] = "latent_expand"
    depends: ClassVar[str] = CONTEXT
    n: int
    k: int
    heads: int
    source: str = ""
    bias: bool = False
    dtype: str = "bf16"
    weight: str = "bf16"
    scale_bytes: float = 0.0
    parallel: str = "replicated"

    @property
    def shape(self) -> tuple[int, ...]:
        """n, k."""
        return (self.n, self.k)

    def work(self, batch: BatchShape, label: str) -> GemmWork:
        """One GEMM over every key of the prefills."""
        rows = sum(new + context for new, context in batch.prefills)
        return GemmWork(rows, self.n, self.k, self.dtype, self.weight, 1, self.scale_bytes, label)

    def runs(self, batch: BatchShape) -> bool:
        """Only with prefills."""
        return bool(batch.prefills)

    @property
    def weight_elements(self) -> int:
        """n·k and the bias."""
        return self.n * self.k + self.n * self.bias

    @property
    def weight_bytes(self) -> float:
        """The matrix in its format, with scales."""
        matrix = self.n * self.k * bytes_per_element(self.weight) + self.scale_bytes
        return matrix + self.n * self.bias * bytes_per_element(self.dtype)

    def local(self, ranks: int) -> LatentExpand:
        """The heads of one rank.

        Raises:
            UnsupportedError: the heads do not divide.
        """
        heads = split_units("attention heads", self.heads, ranks)
        return replace(
            self,
            n=self.n // ranks,
            heads=heads,
            parallel="column",
            scale_bytes=self.scale_bytes / ranks,
        )
