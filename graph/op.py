"""One operator of a graph, and the registry of operator kinds (one file each in ``ops/``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from servesim.graph.batch import BatchShape
from servesim.graph.work import Work

#: What a kind's work depends on: all new tokens, the number of sequences, or also the contexts.
TOKENS, SEQUENCES, CONTEXT = "tokens", "sequences", "context"
#: On the new tokens of all data-parallel ranks that share experts.
GROUP = "group"

#: The input of a block's first operators: the hidden states of the block before.
STREAM = "@stream"


class OpSpec(Protocol):
    """The parameters of one operator kind: a frozen dataclass with a work formula."""

    kind: ClassVar[str]
    depends: ClassVar[str]

    def work(self, batch: BatchShape, label: str) -> Work:
        """The work of this operator for ``batch`` on one device.

        A spec with ``depends == TOKENS`` looks at ``batch.tokens`` only, with ``SEQUENCES`` at
        ``batch.sequences`` only, with ``GROUP`` at ``batch.group_tokens`` (at ``batch.tokens`` of
        every rank, where there are none).
        """

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes on this device, for people to read."""

    @property
    def weight_elements(self) -> int:
        """Weight elements held on this device."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights held on this device, scales and zero points included."""


@dataclass(frozen=True, slots=True)
class Op:
    """A named operator.

    Attributes:
        name: serving name (``qkv_proj``), unique in its block (``layernorm``, ``layernorm.2``).
        inputs: names of the operators of the block whose results it reads; ``STREAM`` is what
            the block receives from the one before.
        scope: module of the traced model it came from, below its layer.
        label: name in latency tables, where it differs from ``name``.
    """

    name: str
    spec: OpSpec
    inputs: tuple[str, ...] = ()
    scope: str = ""
    label: str = ""

    @property
    def kind(self) -> str:
        """The operator kind's name."""
        return self.spec.kind

    def work(self, batch: BatchShape) -> Work:
        """The work of this operator for ``batch`` on one device."""
        return self.spec.work(batch, self.label or self.name)

    def runs(self, batch: BatchShape) -> bool:
        """Whether ``batch`` launches this operator at all (absorbed MLA products serve decodes
        only, the expansion of latent keys prefills only).
        """
        runs = getattr(self.spec, "runs", None)
        return batch.tokens > 0 if runs is None else bool(runs(batch))
