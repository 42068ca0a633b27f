"""RMS and layer normalisation, the residual addition before it fused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import TOKENS
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import HoldsWeights, split_units
from servesim.graph.work import MemoryWork

#: Operations an element: of the plain RMS norm, of one that adds one to its weights in every call
#: (Gemma's), and of the layer norm, which takes the mean off and shifts.
_OPERATIONS = {"": 4.0, "offset": 5.0, "layer": 7.0}


@KINDS.register("norm")
@dataclass(frozen=True, slots=True)
class Norm(HoldsWeights):
    """Normalises ``groups`` vectors of ``width`` for each token.

    Attributes:
        groups: vectors a token: 1, or the heads of a per-head norm.
        addends: tensors added to the input first (1: fused residual-add-norm, written back).
        weights: weight elements (scale, and shift of a layer norm).
        gated: multiplied by an activated gate (gated norms of recurrent mixers).
        function: ``""`` for RMS, ``offset`` for RMS by one and its weights, ``layer``.
    """

    kind: ClassVar[str] = "norm"
    depends: ClassVar[str] = TOKENS
    width: int
    groups: int = 1
    addends: int = 0
    weights: int = 0
    gated: bool = False
    dtype: str = "bf16"
    function: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """groups, width."""
        return (self.groups, self.width)

    def work(self, batch: BatchShape, label: str) -> MemoryWork:
        """Input (and addends, gate) read, output (and the new residual) written."""
        rows = batch.tokens * self.groups
        one = rows * self.width * bytes_per_element(self.dtype)
        reads = one * (1 + self.addends + self.gated) + self.weight_bytes
        writes = one * (2 if self.addends else 1)
        one_element = _OPERATIONS[self.function] + self.addends + 2.0 * self.gated
        flops = rows * self.width * one_element
        return MemoryWork("norm", rows, reads, writes, flops, self.dtype, label, self.groups)

    def local(self, ranks: int) -> Norm:
        """The groups dealt to ``ranks`` ranks (every rank holds the shared weights)."""
        return replace(self, groups=max(1, self.groups // ranks))

    def narrowed(self, ranks: int) -> Norm:
        """A slice of the width on each rank (a gated norm over sharded channels)."""
        return replace(
            self,
            width=split_units("channels of a norm", self.width, ranks),
            weights=self.weights // ranks,
        )
