"""Choosing the next token of every sequence from its logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.op import SEQUENCES
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import Weightless
from servesim.graph.work import MemoryWork


@KINDS.register("sampler")
@dataclass(frozen=True, slots=True)
class Sampler(Weightless):
    """Reads 16-bit logits, works on 32-bit copies (as vLLM's sampler does)."""

    kind: ClassVar[str] = "sampler"
    depends: ClassVar[str] = SEQUENCES
    vocab: int

    @property
    def shape(self) -> tuple[int, ...]:
        """vocabulary."""
        return (self.vocab,)

    def work(self, batch: BatchShape, label: str) -> MemoryWork:
        """Cast to fp32, then soft-max and arg-max over the vocabulary."""
        elements = batch.sequences * self.vocab
        return MemoryWork(
            "sampler",
            batch.sequences,
            bytes_read=elements * (2.0 + 4.0),
            bytes_written=elements * 4.0,
            flops=elements * 3.0,
            dtype="fp32",
            label=label,
        )
