"""One operator of a graph, and the registry of operator kinds (one file each in ``ops/``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from servesim.graph.batch import BatchShape
from servesim.graph.work import Work

#: What a kind's work depends on: all new tokens, the number of sequences, or also the contexts.
TOKENS, SEQUENCES, CONTEXT = "tokens", "sequences", "context"


class OpSpec(Protocol):
    """The parameters of one operator kind: a frozen dataclass with a work formula."""

    kind: ClassVar[str]
    depends: ClassVar[str]

    def work(self, batch: BatchShape, label: str) -> Work:
        """The work of this operator for ``batch`` on one device.

        A spec with ``depends == TOKENS`` looks at ``batch.tokens`` only, with ``SEQUENCES`` at
        ``batch.sequences`` only.
        """

    @property
    def weight_elements(self) -> int:
        """Weight elements held on this device."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights held on this device, scales and zero points included."""


@dataclass(frozen=True, slots=True)
class Op:
    """A named operator: ``name`` is its serving name (``qkv_proj``), unique in its block."""

    name: str
    spec: OpSpec
    inputs: tuple[str, ...] = ()
    scope: str = ""

    @property
    def kind(self) -> str:
        """The operator kind's name."""
        return self.spec.kind

    def work(self, batch: BatchShape) -> Work:
        """The work of this operator for ``batch`` on one device."""
        return self.spec.work(batch, self.name)
