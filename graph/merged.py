"""An operator that sees the tokens of several data-parallel ranks at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.graph.op import GROUP, OpSpec
from servesim.graph.work import Work


@dataclass(frozen=True, slots=True)
class Merged:
    """``spec``, an operator of tokens, on which the batches of ``replicas`` ranks meet.

    Part of a placed graph only.
    """

    kind: ClassVar[str] = "merged"
    depends: ClassVar[str] = GROUP
    spec: OpSpec
    replicas: int = 1

    def work(self, batch: BatchShape, label: str) -> Work:
        """The work for the tokens of all ranks."""
        tokens = batch.group_tokens or batch.tokens * self.replicas
        return self.spec.work(BatchShape.of_tokens(tokens), label)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of ``spec``."""
        return self.spec.shape

    @property
    def weight_elements(self) -> int:
        """As of ``spec``."""
        return self.spec.weight_elements

    @property
    def weight_bytes(self) -> float:
        """As of ``spec``."""
        return self.spec.weight_bytes
