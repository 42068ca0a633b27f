"""Kernels that touch each element a few times: rotary, activations, gates, sums."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import TOKENS
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import HoldsWeights
from servesim.graph.work import MemoryWork


@KINDS.register("pointwise")
@dataclass(frozen=True, slots=True)
class Pointwise(HoldsWeights):
    """A fused chain of element-wise operations.

    Attributes:
        kernel: ``rotary``, ``activation``, ``gate``, ``router``, ``elementwise`` or ``copy``.
        reads, writes: elements read and written a token.
        ops: arithmetic a token.
        weights: elements of weights it holds (scales, biases).
        function: the activation, where it is not one of a few operations (``gelu``).
    """

    kind: ClassVar[str] = "pointwise"
    depends: ClassVar[str] = TOKENS
    kernel: str
    reads: float
    writes: float
    ops: float = 0.0
    weights: int = 0
    dtype: str = "bf16"
    function: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """elements read, elements written (a token)."""
        return (round(self.reads), round(self.writes))

    def work(self, batch: BatchShape, label: str) -> MemoryWork:
        """Everything read once, written once."""
        size = bytes_per_element(self.dtype)
        tokens = batch.tokens
        return MemoryWork(
            self.kernel,
            tokens,
            tokens * self.reads * size + self.weight_bytes,
            tokens * self.writes * size,
            tokens * self.ops,
            self.dtype,
            label,
        )

    def local(self, ranks: int) -> Pointwise:
        """The elements dealt to ``ranks`` ranks."""
        return replace(
            self, reads=self.reads / ranks, writes=self.writes / ranks, ops=self.ops / ranks
        )
