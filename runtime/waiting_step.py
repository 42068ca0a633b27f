"""A step that computes, and waits for what its computing does not hide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from servesim.graph.batch import BatchShape
from servesim.hardware.cost import Source
from servesim.runtime.step_model import CompiledStepModel, OpCost


@dataclass(frozen=True)
class WaitingStepModel(ABC):
    """The seconds of ``computing`` and those that a step waits for weights outside the device.

    Attributes:
        computing: with all weights on the device.
        waited: seconds of waiting, of all answers so far.
    """

    #: What a breakdown calls the waiting.
    LABEL: ClassVar[str]
    computing: CompiledStepModel
    waited: list[float] = field(default_factory=lambda: [0.0], compare=False, kw_only=True)

    @abstractmethod
    def waits(self, batch: BatchShape, computing: float) -> float:
        """Seconds that a step of ``batch`` takes beside ``computing`` seconds; may be negative."""

    @property
    def needs_contexts(self) -> bool:
        """Whether an operator looks at every context."""
        return self.computing.needs_contexts

    @property
    def counts_sharing(self) -> bool:
        """Whether shared KV blocks take less time."""
        return self.computing.counts_sharing

    def seconds(self, batch: BatchShape) -> float:
        """Seconds of one step of ``batch``."""
        return self._joined(batch, self.computing.seconds(batch))

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """Seconds of one step of decodes only."""
        batch = BatchShape((), decodes, context, context_max)
        return self._joined(batch, self.computing.decode_seconds(decodes, context, context_max))

    def cost_breakdown(self, batch: BatchShape) -> tuple[OpCost, ...]:
        """What each operator takes of a step, and the waiting."""
        rows = self.computing.cost_breakdown(batch)
        waits = self.waits(batch, sum(row.seconds for row in rows))
        device = rows[0].device if rows else ""
        return (*rows, OpCost(self.LABEL, device, 1, waits, Source.ANALYTICAL))

    def source_seconds(self) -> dict[Source, float]:
        """Seconds of all answers so far by source."""
        found = self.computing.source_seconds()
        if self.waited[0] >= 0.0:
            found[Source.ANALYTICAL] += self.waited[0]
            return found
        total = sum(found.values())
        return {source: s * (1.0 + self.waited[0] / total) for source, s in found.items()}

    def reset(self) -> None:
        """Forget the seconds answered so far."""
        self.computing.reset()
        self.waited[0] = 0.0

    def _joined(self, batch: BatchShape, computing: float) -> float:
        waits = self.waits(batch, computing)
        self.waited[0] += waits
        return computing + waits
