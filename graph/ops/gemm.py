"""A linear layer, or several that read the same input, as one GEMM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.op import TOKENS
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import HoldsMatrix, split_kv_heads, split_units
from servesim.graph.work import GemmWork


@dataclass(frozen=True, slots=True)
class Part:
    """Some columns of a merged GEMM.

    Attributes:
        source: path of the linear layer below its block, e.g. ``self_attn.q_proj``.
        size: columns.
        units: indivisible groups of columns (heads); columns themselves where any split will do.
        repeats: the units may be held by several ranks (key/value heads).
    """

    source: str
    size: int
    units: int
    repeats: bool = False

    def local_size(self, ranks: int) -> int:
        """Columns of one of ``ranks`` ranks.

        Raises:
            UnsupportedError: the units do not divide.
        """
        width = self.size // self.units
        if self.repeats:
            return width * split_kv_heads(self.units, ranks)
        return width * split_units(f"units of {self.source}", self.units, ranks)


@KINDS.register("gemm")
@dataclass(frozen=True, slots=True)
class Gemm(HoldsMatrix):
    """tokens x k by k x n.

    Attributes:
        parts: the linear layers merged into it, or the head-wise pieces of a fused one.
        bias: one bias a column.
        dtype, weight: number formats of arithmetic and of the stored weights.
        scale_bytes: bytes of the scales and zero points of quantised weights.
        parallel: how ranks share it: ``replicated``, ``column`` or ``row``.
        row_scale: rows a token, for layers that see several rows a token.
        tied: weights are another operator's and held there.
    """

    kind: ClassVar[str] = "gemm"
    depends: ClassVar[str] = TOKENS
    n: int
    k: int
    parts: tuple[Part, ...] = ()
    bias: bool = False
    dtype: str = "bf16"
    weight: str = "bf16"
    scale_bytes: float = 0.0
    parallel: str = "replicated"
    row_scale: float = 1.0
    tied: bool = False

    def work(self, batch: BatchShape, label: str) -> GemmWork:
        """One GEMM over all new tokens."""
        rows = round(batch.tokens * self.row_scale)
        return GemmWork(rows, self.n, self.k, self.dtype, self.weight, 1, self.scale_bytes, label)

    def columns(self, ranks: int) -> Gemm:
        """This GEMM with its columns dealt to ``ranks`` ranks.

        Raises:
            UnsupportedError: heads or columns do not divide.
        """
        parts = self.parts or (Part("columns", self.n, self.n),)
        local = tuple(
            replace(p, size=p.local_size(ranks), units=max(1, p.units // ranks)) for p in parts
        )
        n = sum(p.size for p in local)
        return replace(
            self, n=n, parts=local, parallel="column", scale_bytes=self.scale_bytes * n / self.n
        )

    def rows(self, ranks: int) -> Gemm:
        """This GEMM with its rows dealt to ``ranks`` ranks: each yields a partial sum.

        Raises:
            UnsupportedError: the rows do not divide.
        """
        k = split_units("rows of a row-parallel GEMM", self.k, ranks)
        return replace(self, k=k, parallel="row", scale_bytes=self.scale_bytes / ranks)
