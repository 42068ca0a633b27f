"""How long a step takes in each stage of a pipeline, and between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from servesim.graph.batch import BatchShape
from servesim.hardware.cost import Source
from servesim.runtime.step import StepModel
from servesim.runtime.step_model import SOURCES, CompiledStepModel, OpCost


@dataclass(frozen=True)
class StagedStepModel:
    """The stages of a pipeline, each with a step model of its own.

    Attributes:
        stages: in the order in which a batch passes them.
        hop: seconds to hand the hidden states of so many tokens from a stage to the next.
    """

    stages: tuple[StepModel, ...]
    hop: Callable[[int], float] = lambda tokens: 0.0
    spent: list[float] = field(default_factory=lambda: [0.0] * len(SOURCES))

    @property
    def needs_contexts(self) -> bool:
        """Whether any stage looks at every context."""
        return any(stage.needs_contexts for stage in self.stages)

    @property
    def counts_sharing(self) -> bool:
        """Whether shared KV blocks take any stage less time."""
        return any(stage.counts_sharing for stage in self.stages)

    def stage_seconds(self, batch: BatchShape) -> list[float]:
        """Seconds that each stage is busy with ``batch``."""
        return [stage.seconds(batch) for stage in self.stages]

    def decode_stage_seconds(self, decodes: int, context: int, context_max: int) -> list[float]:
        """``stage_seconds`` of a batch of decodes only."""
        return [stage.decode_seconds(decodes, context, context_max) for stage in self.stages]

    def hop_seconds(self, tokens: int) -> float:
        """Seconds from the end of a stage to when the next one has its input."""
        seconds = self.hop(tokens) if len(self.stages) > 1 else 0.0
        self.spent[SOURCES.index(Source.ANALYTICAL)] += seconds * (len(self.stages) - 1)
        return seconds

    def seconds(self, batch: BatchShape) -> float:
        """Seconds that ``batch`` takes through an empty pipeline."""
        hops = (len(self.stages) - 1) * self.hop_seconds(max(batch.tokens, batch.padded_tokens))
        return sum(self.stage_seconds(batch)) + hops

    def decode_seconds(self, decodes: int, context: int, context_max: int) -> float:
        """``seconds`` of a batch of decodes only."""
        hops = (len(self.stages) - 1) * self.hop_seconds(decodes)
        return sum(self.decode_stage_seconds(decodes, context, context_max)) + hops

    def cost_breakdown(self, batch: BatchShape) -> tuple[OpCost, ...]:
        """What each operator takes of a step, stage after stage, and the hops between them."""
        rows = [row for stage in self._compiled for row in stage.cost_breakdown(batch)]
        hops, tokens = len(self.stages) - 1, max(batch.tokens, batch.padded_tokens)
        hop = hops * self.hop(tokens)
        ends = self._compiled[0].placement.default
        return (*rows, OpCost("pipeline_send", ends, hops, hop, Source.ANALYTICAL))

    def source_seconds(self) -> dict[Source, float]:
        """Seconds of all answers so far by source."""
        found = dict(zip(SOURCES, self.spent, strict=True))
        for stage in self._compiled:
            for source, seconds in stage.source_seconds().items():
                found[source] += seconds
        return found

    def reset(self) -> None:
        """Forget the seconds answered so far."""
        self.spent[:] = [0.0] * len(SOURCES)
        for stage in self._compiled:
            stage.reset()

    @property
    def _compiled(self) -> list[CompiledStepModel]:
        return [stage for stage in self.stages if isinstance(stage, CompiledStepModel)]
