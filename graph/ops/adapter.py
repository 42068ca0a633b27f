"""The two narrow products that LoRA adapters add to a projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import TOKENS
from servesim.graph.ops import KINDS
from servesim.graph.work import GemmWork


@KINDS.register("adapter")
@dataclass(frozen=True, slots=True)
class Adapter:
    """tokens x k by k x n, with the weights of up to ``slots`` adapters among the tokens.

    Attributes:
        slots: adapters that the device holds; a step is taken to use as many as it has tokens for.
    """

    kind: ClassVar[str] = "adapter"
    depends: ClassVar[str] = TOKENS
    n: int
    k: int
    slots: int
    dtype: str = "bf16"

    @property
    def shape(self) -> tuple[int, ...]:
        """slots, n, k."""
        return (self.slots, self.n, self.k)

    def work(self, batch: BatchShape, label: str) -> GemmWork:
        """One product over all new tokens; each adapter in use is read."""
        used = max(1, min(self.slots, batch.tokens))
        more = (used - 1) * self.n * self.k * bytes_per_element(self.dtype)
        return GemmWork(batch.tokens, self.n, self.k, self.dtype, self.dtype, 1, more, label)

    @property
    def weight_elements(self) -> int:
        """Of all slots."""
        return self.slots * self.n * self.k

    @property
    def weight_bytes(self) -> float:
        """Of all slots."""
        return self.weight_elements * bytes_per_element(self.dtype)
