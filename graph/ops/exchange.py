"""Tokens on their way to experts on other data-parallel ranks, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.dtypes import bytes_per_element
from servesim.graph.op import GROUP
from servesim.graph.ops import KINDS
from servesim.graph.ops.base import Weightless
from servesim.graph.work import CollectiveWork


@KINDS.register("exchange")
@dataclass(frozen=True, slots=True)
class Exchange(Weightless):
    """``operation`` over the hidden states of all data-parallel ranks' tokens.

    Attributes:
        width: elements a token.
        ranks: that take part.
        replicas: data-parallel ranks, each with tokens of its own.
        copies: ranks that a token is sent to, for ``all_to_all``.
    """

    kind: ClassVar[str] = "exchange"
    depends: ClassVar[str] = GROUP
    operation: str
    width: int
    ranks: int
    replicas: int
    copies: float = 1.0
    dtype: str = "bf16"

    @property
    def shape(self) -> tuple[int, ...]:
        """Elements a row."""
        return (self.width,)

    def work(self, batch: BatchShape, label: str) -> CollectiveWork:
        """All tokens gathered or scattered; or one rank's, in ``copies``, all to all."""
        tokens = float(batch.group_tokens or batch.tokens * self.replicas)
        if self.operation == "all_to_all":
            tokens *= self.copies / self.ranks
        payload = tokens * self.width * bytes_per_element(self.dtype)
        return CollectiveWork(self.operation, payload, self.ranks, "ep", self.dtype, label)
