"""Recurrent mixers with a fixed-size state per sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import CONTEXT
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import HoldsWeights, split_units
from servesim.graph.work import RecurrentWork


@KINDS.register("recurrent")
@dataclass(frozen=True, slots=True)
class Recurrent(HoldsWeights):
    """One recurrence over the new tokens of every sequence, its state carried between steps.

    Attributes:
        recurrence: ``selective_scan``, ``ssd``, ``gated_delta``, ``linear_attention``,
            ``short_conv``, ...
        heads: heads, or channels where each has its own state.
        flops_per_token: arithmetic for one token, all heads.
        token_elements: activation elements read and written a token, all heads.
        state_elements: elements of one sequence's state, all heads.
        weights: weight elements the kernel holds (convolution taps, decay rates).
    """

    kind: ClassVar[str] = "recurrent"
    depends: ClassVar[str] = CONTEXT
    recurrence: str
    heads: int
    key_dim: int
    value_dim: int
    flops_per_token: float
    token_elements: float
    state_elements: float
    weights: int = 0
    dtype: str = "bf16"
    state_dtype: str = "bf16"

    @property
    def shape(self) -> tuple[int, ...]:
        """heads, key_dim, value_dim."""
        return (self.heads, self.key_dim, self.value_dim)

    def work(self, batch: BatchShape, label: str) -> RecurrentWork:
        """Tokens of prefills in one scan, decodes one step each."""
        return RecurrentWork(
            recurrence=self.recurrence,
            prefill_tokens=batch.tokens - batch.decodes,
            prefills=len(batch.prefills),
            decodes=batch.decodes,
            heads=self.heads,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            flops_per_token=self.flops_per_token,
            token_bytes=self.token_elements * bytes_per_element(self.dtype),
            state_bytes=self.state_bytes,
            dtype=self.dtype,
            label=label,
        )

    @property
    def state_bytes(self) -> float:
        """State of one sequence in this layer on this device."""
        return self.state_elements * bytes_per_element(self.state_dtype)

    def local(self, ranks: int) -> Recurrent:
        """The heads of one rank.

        Raises:
            UnsupportedError: the heads do not divide.
        """
        return replace(
            self,
            heads=split_units(f"heads of {self.recurrence}", self.heads, ranks),
            flops_per_token=self.flops_per_token / ranks,
            token_elements=self.token_elements / ranks,
            state_elements=self.state_elements / ranks,
            weights=self.weights // ranks,
        )
